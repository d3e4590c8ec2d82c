"""A small but faithful replica of SMG: ids, file names and file forms are its own, the rest is made up."""

from __future__ import annotations

from pathlib import Path

from tiny_media import make_video
from tiny_skeletons import points, write_smg_csv

NUM_FRAMES = 60
FPS = 30
# subject -> rows: label 1..17, first frame, last frame; subject 11 is on our validation list, 36 is a test subject
SAMPLES: dict[int, list[tuple[int, int, int]]] = {
    1: [(1, 0, 14), (17, 10, 44), (10, 45, 59)],
    2: [(17, 3, 32), (3, 33, 50)],
    11: [(17, 0, 29), (1, 30, 44)],
    36: [(1, 6, 20), (17, 30, 56)],
}


def write_smg(root: Path, *, videos: bool = True) -> Path:
    """Folders of skeletons and labels, and, as people who hold the data have them, of videos."""
    for subject, rows in SAMPLES.items():
        name = f"Sample{subject:04d}"
        part = "validate" if subject == 36 else "train"
        folder = root / "smg_data_phase1" / f"smg_skeleton_{part}" / name
        folder.mkdir(parents=True)
        write_smg_csv(folder / f"{name}_skeleton.csv", points(NUM_FRAMES, 25, seed=subject))
        (folder / f"{name}_finelabels.csv").write_text("".join(f"{raw},{a},{b}\n" for raw, a, b in rows))
        (folder / f"{name}_data.csv").write_text(f"{NUM_FRAMES},{FPS},4500\n")
        if videos:
            rgb = root / "SMG_RGB_Phase1" / f"smg_rgb_{part}" / name
            rgb.mkdir(parents=True)
            make_video(rgb / f"{name}_color.mp4", NUM_FRAMES, fps=FPS, first_number=subject)
            (rgb / f"{name}_depth.mp4").touch()
            (rgb / f"{name}_10_44.mp4").touch()  # a cut clip
    return root
