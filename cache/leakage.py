"""Leakage: whoever or whatever stands in two splits of a clip table, or was seen by a backbone and is then tested on.

| overlap   | what two splits share                                                                              |
|-----------|----------------------------------------------------------------------------------------------------|
| subjects  | people                                                                                             |
| videos    | files                                                                                              |
| intervals | of one video, nearly the same: intersection over union of `SAME_INTERVAL` or more. Intervals in    |
|           | seconds and in frames are not compared, as a table does not know the rate.                         |
| media     | one and the same content and interval under two file names, where the table has sources            |

And between a trained backbone and a split: clips, subjects and videos that it was trained on, and subjects by whose
clips its epoch was chosen.

An overlap is refused, unless the published protocol is known to have it; then it is a warning. What a backbone saw of
the test clips is refused for every protocol; what it saw of the validation clips is a warning, as it spoils the choice
of the epoch and not the test scores.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd

from mgcli.cache.clips import SPLITS
from mgcli.cache.errors import LeakageError
from mgcli.cache.protocols import PROTOCOLS, Protocol

SAME_INTERVAL = 0.5  # intersection over union from which two intervals count as the same piece of video (our choice)
VIDEO_SUBJECT = "video-"  # how a data set's subject begins that stands for a video whose people it does not know
_SHOWN = 5  # names in a message; all of them are in `names`
_HOW_TO_MEND = {
    "subjects": "give all clips of a subject one split",
    "videos": "give all clips of a video one split",
    "intervals": "keep one of each pair, or give both one split",
    "media": "keep one file of each pair, or give both one split",
    "training": "train it without them (a pose backbone: mgcli backbone-train on this protocol, then mgcli extract)",
}


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """What one split shares with another, or with the training of a backbone."""

    kind: str  # subjects, videos, intervals, media; or training
    first: str  # a split, or what was trained, such as "pose backbone"
    second: str  # a split
    names: tuple[str, ...]  # of what is shared
    text: str  # what is shared, in words
    refused: bool
    remark: str = ""  # what to think of it

    def message(self) -> str:
        """For people: how many, which, and what to think of it."""
        some = ", ".join(self.names[:_SHOWN]) + (", ..." if len(self.names) > _SHOWN else "")
        return f"{self.text} ({some}){self.remark}"


@dataclass(frozen=True, kw_only=True)
class LeakageReport:
    """All overlaps of a clip table."""

    protocol: str | None
    overlaps: tuple[Overlap, ...]
    notes: tuple[str, ...] = field(default=())  # what could not be found out

    @property
    def refused(self) -> list[Overlap]:
        return [each for each in self.overlaps if each.refused]

    def warnings(self) -> list[str]:
        """What is odd and allowed, for people."""
        return [*self.notes, *(each.message() for each in self.overlaps if not each.refused)]

    def enforce(self, *, allow: bool, warn: Callable[[str], None]) -> None:
        """Say what is odd; refuse what is refused, or mark it where it is allowed.

        Raises:
            LeakageError: an overlap is refused, and `allow` is False.
        """
        for text in self.warnings():
            warn(text)
        if self.refused and not allow:
            found = "; ".join(each.message() for each in self.refused)
            mend = "; ".join(dict.fromkeys(_HOW_TO_MEND[each.kind] for each in self.refused))
            raise LeakageError(
                f"leakage between splits: {found}. To mend it, {mend}; or force it with --allow-leakage, which is then "
                "noted with every result"
            )
        for each in self.refused:
            warn(f"leakage, forced with --allow-leakage: {each.message()}")

    def to_json(self) -> dict[str, Any]:
        """All of it, with every name, as plain JSON values."""
        overlaps = [{**asdict(each), "names": list(each.names), "count": len(each.names)} for each in self.overlaps]
        return {"protocol": self.protocol, "overlaps": overlaps, "notes": list(self.notes)}


def find_leakage(
    table: pd.DataFrame,
    protocol: str | None = None,
    *,
    drawn_validation: bool = False,
    trained_on: Mapping[str, Mapping[str, Any]] | None = None,
) -> LeakageReport:
    """Every overlap between the splits of a table, and between them and the training of its backbones.

    Args:
        table: a checked clip table; clips without a split do not count.
        protocol: the table's; one of `PROTOCOLS` may have the overlaps that it was published with.
        drawn_validation: the validation clips were drawn from the training subjects by `draw_validation`.
        trained_on: what was trained, such as "pose backbone" -> on what: protocol, clips, subjects, videos,
            epoch_chosen_by_subjects, as `backbone-train` writes them and the provenance of a feature set keeps them.
    """
    published = PROTOCOLS.get(protocol or "")
    parts = {split: table[table["split"] == split] for split in SPLITS}
    allowed = _published_pairs(published, drawn_validation)
    known = subjects_are_known(table)
    overlaps = []
    for first, second in combinations(SPLITS, 2):
        pair = parts[first], parts[second]
        if not len(pair[0]) or not len(pair[1]):
            continue
        videos = _shared_videos(*pair, first, second, refused=not known or published is not None)
        if known or not videos:  # subjects that are not known stand for videos, of which there may be no files
            excused = published if known and (first, second) in allowed else None
            overlaps += _shared_subjects(*pair, first, second, excused)
        overlaps += videos
        overlaps += _same_intervals(*pair, first, second)
        overlaps += _same_media(*pair, first, second, refused=published is None)
    for what, training in (trained_on or {}).items():
        overlaps += _seen_in_training(what, training, parts, protocol, ("train", "test") in allowed)
    notes = [] if known or table.empty else [_unknown_subjects(published)]
    return LeakageReport(protocol=protocol, overlaps=tuple(overlaps), notes=tuple(notes))


def subjects_are_known(table: pd.DataFrame) -> bool:
    """Whether the table says who is seen; not so where every clip's subject is named after its video or the clip."""
    if not table.attrs.get("subjects_given", True):
        return False
    of_video = {video: {video, PurePath(video).stem, _media_name(video)} for video in table["video"].unique()}
    rows = zip(table["subject_id"], table["video"], table["clip_id"], strict=True)
    return any(
        subject != clip_id and subject not in of_video[video] and not subject.startswith(VIDEO_SUBJECT)
        for subject, video, clip_id in rows
    )


def media_names(table: pd.DataFrame) -> list[str]:
    """How the clips' videos and skeleton files are called wherever their data set lies; sorted, each once."""
    return _sorted({_media_name(path) for column in ("video", "skeleton") for path in table[column].unique()} - {""})


def _media_name(path: str) -> str:
    """Of a file, its last folder and its name without suffix."""
    return "/".join(PurePath(path).with_suffix("").parts[-2:]) if path else ""


def _media(table: pd.DataFrame) -> pd.Series:
    """(n,) the clips' videos, or their skeleton files where they have none."""
    return table["video"].where(table["video"] != "", table["skeleton"])


def _published_pairs(published: Protocol | None, drawn_validation: bool) -> set[tuple[str, str]]:
    """Pairs of splits that share subjects as they were published; validation subjects of ours are training subjects."""
    if published is None:
        return set()
    pairs = set(published.shared_subjects)
    if drawn_validation:
        pairs = {pair for pair in pairs if "val" not in pair}
        pairs |= {("val", "test")} if ("train", "test") in pairs else set()
    return pairs


def _shared_subjects(
    one: pd.DataFrame, other: pd.DataFrame, first: str, second: str, published: Protocol | None
) -> list[Overlap]:
    there = set(other["subject_id"])
    shared = _sorted(set(one["subject_id"]) & there)
    text = f"{len(shared)} of {len(there)} {second} subjects are in {first} too"
    remark = ""
    if published is not None:
        remark = f", as {published.name} was published: {second} scores may be higher than for people never seen"
    return _overlap("subjects", first, second, shared, text, refused=published is None, remark=remark)


def _shared_videos(one: pd.DataFrame, other: pd.DataFrame, first: str, second: str, *, refused: bool) -> list[Overlap]:
    """A video may show several people: it is refused where they are not known, or the published split has none."""
    there = set(_media(other)) - {""}
    shared = _sorted({_media_name(path) for path in set(_media(one)) & there})
    text = f"{len(shared)} of {len(there)} {second} videos are in {first} too"
    return _overlap("videos", first, second, shared, text, refused=refused)


def _same_intervals(one: pd.DataFrame, other: pd.DataFrame, first: str, second: str) -> list[Overlap]:
    our_rows, their_rows = (part.groupby(_media(part).to_numpy()).indices for part in (one, other))  # video -> rows
    our_ids, their_ids = one["clip_id"].to_numpy(), other["clip_id"].to_numpy()
    (our_unit, our_span), (their_unit, their_span) = _spans(one), _spans(other)
    pairs = []
    for video in sorted((set(map(str, our_rows)) & set(map(str, their_rows))) - {""}):
        rows = their_rows[video]  # (m,)
        for row in our_rows[video]:
            start, end = our_span[row]
            both = np.minimum(end, their_span[rows, 1]) - np.maximum(start, their_span[rows, 0])  # (m,)
            either = np.maximum(end, their_span[rows, 1]) - np.minimum(start, their_span[rows, 0])
            same = (their_unit[rows] == our_unit[row]) & (both >= SAME_INTERVAL * either)
            pairs += [f"{our_ids[row]} = {each}" for each in their_ids[rows[same]]]
    text = f"{len(pairs)} pairs of {first} and {second} clips show nearly the same interval of one video"
    return _overlap("intervals", first, second, pairs, text, refused=True)


def _spans(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Unit of each interval, 0 the whole video, 1 seconds, 2 frames; and (n, 2) start and end in it."""
    seconds = table[["start_s", "end_s"]].to_numpy(float)
    frames = table[["start_frame", "end_frame"]].astype("Float64").to_numpy(float, na_value=np.nan)
    unit = np.where(~np.isnan(seconds[:, 0]), 1, np.where(~np.isnan(frames[:, 0]), 2, 0))
    span = np.where(unit[:, None] == 1, seconds, frames)
    return unit, np.where(unit[:, None] == 0, [0.0, 1.0], span)


def _same_media(one: pd.DataFrame, other: pd.DataFrame, first: str, second: str, *, refused: bool) -> list[Overlap]:
    """Content that is there twice; a source is the hash of a file and an interval."""
    pairs = set()
    for column, path in (("video_source", "video"), ("skeleton_source", "skeleton")):
        sides = []
        for part in (one, other):
            used = part[(part[column] != "") & (part["video"] == "" if path == "skeleton" else True)]
            sides.append(used.groupby(column)[path].agg(set))
        for source in set(sides[0].index) & set(sides[1].index):
            pairs |= {(a, b) for a in sides[0][source] for b in sides[1][source] if a != b}
    names = _sorted({f"{a} = {b}" for a, b in pairs})
    text = f"{len(names)} pairs of files in {first} and {second} hold the same media under two names"
    return _overlap("media", first, second, names, text, refused=refused)


def _seen_in_training(
    what: str,
    training: Mapping[str, Any],
    parts: Mapping[str, pd.DataFrame],
    protocol: str | None,
    published_overlap: bool,
) -> list[Overlap]:
    """What was seen of each split; nothing where it was trained on another data set, whose ids mean others."""
    its_protocol = str(training.get("protocol") or "")
    if _different_data_sets(its_protocol, protocol):
        return []
    clips, subjects, videos, chosen_by = (
        set(training.get(name, ())) for name in ("clips", "subjects", "videos", "epoch_chosen_by_subjects")
    )
    fitted = pd.concat([parts["train"], parts["val"]])
    only_ours = published_overlap and clips <= set(fitted["clip_id"])  # it saw no more than the protocol lets it
    who = f"the {what}, trained on {its_protocol}," if its_protocol else f"the {what}"
    found = []
    for split in ("val", "test"):
        there = {unit: set(parts[split][f"{unit}_id"]) for unit in ("clip", "subject")}
        seen_videos, all_videos = _videos_among(parts[split], videos)
        for unit, seen, num_there in (
            ("clips", clips & there["clip"], len(there["clip"])),
            ("videos", seen_videos, len(all_videos)),
            ("subjects", subjects & there["subject"], len(there["subject"])),
        ):
            names = _sorted(seen)
            text = f"{who} has seen {len(names)} of {num_there} {split} {unit}"
            refused = split == "test" and not (unit == "subjects" and only_ours)
            found += _overlap("training", what, split, names, text, refused=refused)
    test_subjects = set(parts["test"]["subject_id"])
    names = _sorted(chosen_by & test_subjects)
    text = f"the epoch of the {what} was chosen by {len(names)} of {len(test_subjects)} test subjects"
    found += _overlap("training", what, "test", names, text, refused=not only_ours)
    seen_videos, all_videos = _videos_among(parts["train"], videos)
    unseen = _sorted(all_videos - seen_videos) if seen_videos else []
    text = f"{who} has seen the train videos but for {len(unseen)} of {len(all_videos)}"
    remark = ": their tokens may be unlike the others"
    return found + _overlap("training", what, "train", unseen, text, refused=False, remark=remark)


def _videos_among(table: pd.DataFrame, names: set[str]) -> tuple[set[str], set[str]]:
    """The clips' videos that are among some names, by their own or by their skeleton file's; and all of them."""
    media = _media(table)
    files = pd.DataFrame({"name": media, "skeleton": table["skeleton"]})[media != ""].drop_duplicates()
    rows = [(_media_name(name), _media_name(skeleton)) for name, skeleton in files.itertuples(index=False)]
    return {name for name, skeleton in rows if name in names or skeleton in names}, {name for name, _ in rows}


def _different_data_sets(first: str, second: str | None) -> bool:
    known = [PROTOCOLS[name].dataset for name in (first, second) if name in PROTOCOLS]
    return len(known) == 2 and known[0] != known[1]


def _unknown_subjects(published: Protocol | None) -> str:
    text = "the table does not say who is seen, so each video counts as its own subject"
    if published is None or not published.shared_subjects:
        return text + ": people in two splits are not noticed"
    pairs = " and of ".join("/".join(pair) for pair in published.shared_subjects)
    return f"{text}; as {published.name} was published, some subjects of {pairs} are the same"


def _overlap(
    kind: str, first: str, second: str, names: Iterable[str], text: str, *, refused: bool, remark: str = ""
) -> list[Overlap]:
    """One overlap, or none where nothing is shared."""
    listed = tuple(names)
    if not listed:
        return []
    return [Overlap(kind=kind, first=first, second=second, names=listed, text=text, refused=refused, remark=remark)]


def _sorted(names: Iterable[str]) -> list[str]:
    """In the order of people: the numbers in them by size."""
    parts = {name: re.split(r"([0-9]+)", name) for name in names}  # text, number, text, ...
    return sorted(parts, key=lambda name: [int(part) if i % 2 else part for i, part in enumerate(parts[name])])
