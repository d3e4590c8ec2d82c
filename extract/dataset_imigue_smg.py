"""SMG's clips as more training clips for iMiGUE's gestures, where the classes of both agree."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from mgcli.cache import CLASS_NAMES
from mgcli.extract.annotations import Dropped
from mgcli.extract.dataset_smg import read_smg

# SMG id -> iMiGUE id, by their names (ours; nobody has published such a map). A class of SMG has a partner where all
# that it names belongs to one class of iMiGUE.
SMG_TO_IMIGUE: dict[int, int] = {
    0: 0,  # Turtling neck and shoulder: Turtle neck
    2: 16,  # Folding arms: Folding arms
    3: 14,  # Touching or covering suprasternal notch: the same
    5: 11,  # Touching or scratching neck: the same
    8: 29,  # Arms akimbo: the same
    12: 12,  # Playing or adjusting hair: the same
    14: 13,  # Pulling shirt collar: Buckle button, pulling shirt collar, adjusting tie
    15: 25,  # Playing with jewelry, manipulating other objects: Playing or manipulating objects
    16: 31,  # Illustrative hand gestures: Illustrative body language
}
# Without partner: 1 rubs eyes (6) or forehead (4); 4 and 9 are of the legs; 6 is a doubtful name (facts: smg);
# 7 is two classes (22, 23); 10 any part of the body; 11 also holds ears (8) and jaw (10); 13 may be 21 or 26.


def smg_training_clips(root: Path) -> tuple[list[dict[str, Any]], Dropped, list[str]]:
    """Rows of the clip table, all in training; what is left out, and warnings.

    SMG's skeletons are three-dimensional and have no map to iMiGUE's joints, so these clips have their video only.
    """
    smg = read_smg(root)
    rows = []
    dropped = list(smg.dropped)
    for row in smg.rows:
        gesture = int(row["gesture"])
        clip_id = f"smg-{row['clip_id']}"
        if gesture not in SMG_TO_IMIGUE:
            dropped.append((clip_id, f"SMG class {gesture} ({CLASS_NAMES['smg'][gesture]}) has no partner in iMiGUE"))
        elif not row["video"]:
            dropped.append((clip_id, "SMG's clips serve iMiGUE by their video, and this one has no video file"))
        else:
            subject = f"smg-{row['subject_id']}"
            own = {"clip_id": clip_id, "subject_id": subject, "split": "train", "gesture": str(SMG_TO_IMIGUE[gesture])}
            rows.append(row | own | {"skeleton": "", "skeleton_fps": None})
    classes = Counter(row["gesture"] for row in rows)
    counts = ", ".join(f"{count} of class {gesture}" for gesture, count in sorted(classes.items(), key=_by_class))
    added = f"SMG adds {len(rows)} training clips, with video only{': ' if counts else ''}{counts}"
    return rows, dropped, [*smg.warnings, added]


def _by_class(item: tuple[str, int]) -> int:
    return int(item[0])
