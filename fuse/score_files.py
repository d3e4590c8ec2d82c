"""Scores that other programs wrote: pickles of mmaction2 and pyskl, and CSV by clip id.

| file          | holds                                                                                     |
|---------------|-------------------------------------------------------------------------------------------|
| `.pkl`        | mmaction2 `--dump`: a list of dicts with `pred_score` (K,), `gt_label` and maybe `sample_idx`; |
|               | older ones `pred_scores.item`; pyskl: a list of arrays (K,). In the order of the clip list |
| `.csv`        | `clip_id`, and a column a class, named as the class or p_CLASS; without a clip table p_CLASS |

Pickles are read without running anything in them. numpy arrays and torch tensors come out alike.

# Shapes: n clips, K classes.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mgcli.cache import TASKS, label_classes, read_plain_pickle, warn
from mgcli.fuse.score_table import UNKNOWN, ScoreError, ScoreTable, score_table

SCALES = ("auto", "probability", "logit")
_SUM_TOLERANCE = 0.01  # half precision rounds a sum of 32 probabilities by less


def read_scores(path: Path, clips: pd.DataFrame | None, task: str, split: str, scale: str = "auto") -> ScoreTable:
    """The scores of a file as probabilities of the clips of a split.

    Args:
        path: a pickle or a CSV file.
        clips: the clip table; only a CSV with columns as in `predictions.csv` does without.
        task: gesture or emotion.
        split: whose clips they are; in a pickle, in the table's order. Clips with a label of another task alone are
            not among them.
        scale: probability, logit (a softmax is taken), or auto: by what the numbers are.

    Raises:
        ScoreError: the file cannot be read, or does not fit the clips.
    """
    check_scale(scale)
    if path.suffix == ".csv":
        return _from_csv(path, clips, task, split, scale)
    if path.suffix not in (".pkl", ".pickle"):
        raise ScoreError(f"{path}: scores are read from run folders, .pkl, .pickle and .csv")
    if clips is None:
        raise ScoreError(f"{path} does not name its clips: give the list that it was made from with --clips")
    entries = _entries(read_plain_pickle(path, error=ScoreError, more=_TENSORS), path)
    rows = _listed(clips, task, split)
    if len(rows) != len(entries):
        raise ScoreError(
            f"{path} has {len(entries)} entries, but {len(rows)} {split} clips stand in the clip table; give the list "
            "that the file was made from, in its order, with --clips"
        )
    scores = _stacked([score for score, _ in entries], path)
    classes = _classes_of(clips, task, scores.shape[1], path)
    table = _table(rows, task, classes, _probabilities(scores, scale, path))
    for i, (_, label) in enumerate(entries):
        if label is not None and table.labels[i] not in (UNKNOWN, label):
            raise ScoreError(
                f"{path}: entry {i} is of class {label}, but {split} clip {i} of the table, {table.clip_ids[i]!r}, is "
                f"of {classes[table.labels[i]]!r}: the file was made from another list, or in another order"
            )
    return table


def check_scale(scale: str) -> None:
    """Know a scale from a misspelt one.

    Raises:
        ScoreError: there is no such scale.
    """
    if scale not in SCALES:
        raise ScoreError(f"unknown scale {scale!r}; known: {', '.join(SCALES)}")


def _from_csv(path: Path, clips: pd.DataFrame | None, task: str, split: str, scale: str) -> ScoreTable:
    try:
        content = pd.read_csv(path, dtype=dict.fromkeys(_TEXT_COLUMNS, str), keep_default_na=False)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise ScoreError(f"{path}: not a CSV file of scores ({error})") from None
    if "clip_id" not in content:
        raise ScoreError(f"{path} has no column clip_id (it has: {', '.join(map(str, content.columns))})")
    columns = _class_columns(content, clips, task, path)
    try:
        values = content[list(columns.values())].astype(np.float64)
    except ValueError as error:
        raise ScoreError(f"{path}: a score is no number ({error})") from None
    by_clip = values.groupby(content["clip_id"], sort=False).mean()  # over the seeds, where there are several
    doubled = content.duplicated([name for name in ("clip_id", "seed") if name in content])
    if doubled.any():
        raise ScoreError(f"{path}: clip {content['clip_id'][doubled].iloc[0]!r} has several rows")
    if clips is None:
        if not {"subject_id", "split", "true"} <= set(content):
            raise ScoreError(f"{path} says nothing of labels and subjects: give the clip table with --clips")
        clips = content.drop_duplicates("clip_id").rename(columns={"true": task})
    rows = _listed(clips, task, split)
    missing = sorted(set(rows["clip_id"]) - set(by_clip.index))
    if missing or rows.empty:
        some = ", ".join(map(repr, missing[:3])) + (", ..." if len(missing) > 3 else "")
        raise ScoreError(f"{path} lacks {len(missing)} of {len(rows)} {split} clips ({some})")
    labels = sorted(set(rows[task]) - {""} - set(columns))
    if labels:
        raise ScoreError(f"{path} has no column of class {labels[0]!r}; it has: {', '.join(columns)}")
    scores = by_clip.loc[rows["clip_id"]].to_numpy()
    _check_finite(scores, path)
    return _table(rows, task, list(columns), _probabilities(scores, scale, path))


_TEXT_COLUMNS = ("clip_id", "subject_id", "split", "true", "predicted")


def _class_columns(content: pd.DataFrame, clips: pd.DataFrame | None, task: str, path: Path) -> dict[str, str]:
    """Class -> its column. A column that is none, such as an index that pandas wrote, must not pass for one."""
    columns = {name.removeprefix("p_"): name for name in content.columns if name.startswith("p_")}
    if clips is None:
        if not columns:
            raise ScoreError(
                f"{path} has no column p_CLASS: rename its columns so, or give the clip table with --clips"
            )
        return columns
    if not columns:
        columns = {name: name for name in content.columns if name not in (*_TEXT_COLUMNS, "seed")}
    classes = label_classes(clips, task)
    ids = all(name.isdigit() for name in classes)  # the table may lack some of them
    for name, column in columns.items():
        if name not in classes and not (ids and name.isdecimal() and name == str(int(name))):
            known = f"ids such as {classes[0]}" if ids and classes else ", ".join(classes) or "ids"
            raise ScoreError(
                f"{path}: column {column!r} is no {task} class of the clip table (those are {known}); drop the column "
                "(an index: write with index=False), or give the clip table that the file was made with"
            )
    if not columns:
        raise ScoreError(f"{path} has no column of a class; name them as the classes, or p_CLASS")
    return columns


def _listed(clips: pd.DataFrame, task: str, split: str) -> pd.DataFrame:
    """The clips of a split that a list for the task holds: not those that have a label of another task alone."""
    others = [name for name in TASKS if name != task and name in clips]
    of_another = (clips[task] == "") & (clips[others] != "").any(axis=1)
    return clips[(clips["split"] == split) & ~of_another]


def _entries(content: Any, path: Path) -> list[tuple[np.ndarray, int | None]]:
    """(K,) scores and true class of each entry, in the order of the annotations."""
    if not isinstance(content, list | tuple) or not content:
        raise ScoreError(f"{path}: not a list of results, as mmaction2 and pyskl dump them")
    entries: list[tuple[np.ndarray, int | None]] = []
    places: list[int | None] = []
    for i, each in enumerate(content):
        score, label = each, None
        if isinstance(each, dict):
            score, label = _named(each, "pred_score"), _named(each, "gt_label")
        if score is None:
            has = f"it has: {', '.join(map(str, each))}" if isinstance(each, dict) else f"it is {each!r}"
            raise ScoreError(f"{path}: entry {i} has no pred_score ({has})")
        try:
            entries.append((np.asarray(score, np.float64).reshape(-1), _whole(label, "gt_label")))
            places.append(_whole(each.get("sample_idx") if isinstance(each, dict) else None, "sample_idx"))
        except (TypeError, ValueError, OverflowError) as error:
            raise ScoreError(f"{path}: entry {i} is not as mmaction2 dumps it ({error})") from None
    given = [place for place in places if place is not None]
    if not given:
        return entries
    if sorted(given) != list(range(len(entries))):
        raise ScoreError(f"{path}: the sample_idx of its {len(entries)} entries are not 0 to {len(entries) - 1}")
    return [entries[i] for i in np.argsort(given)]


def _named(entry: Mapping[str, Any], name: str) -> Any:
    """`pred_score`, or `pred_scores.item` as in mmaction2 1.0."""
    older = entry.get(f"{name}s")
    return entry.get(name, older.get("item") if isinstance(older, dict) else None)


def _whole(given: Any, name: str) -> int | None:
    """A whole number, which may stand in an array of one; None where there is none."""
    if given is None:
        return None
    values = np.asarray(given).reshape(-1)
    if len(values) != 1 or values.dtype.kind not in "iuf" or not np.isfinite(values[0]) or values[0] % 1:
        raise ValueError(f"{name} is {given!r}, not one whole number")
    return int(values[0])


def _stacked(scores: Sequence[np.ndarray], path: Path) -> np.ndarray:
    """(n, K) of one width, all finite."""
    widths = sorted({len(each) for each in scores})
    if len(widths) != 1 or widths[0] < 2:
        raise ScoreError(
            f"{path}: entries have {', '.join(map(str, widths))} scores; they must have one number of classes"
        )
    stacked = np.stack(scores)
    _check_finite(stacked, path)
    return stacked


def _check_finite(scores: np.ndarray, path: Path) -> None:
    if not np.isfinite(scores).all():
        raise ScoreError(
            f"{path}: entry {int((~np.isfinite(scores)).any(axis=1).argmax())} has a score that is not finite"
        )


def _classes_of(clips: pd.DataFrame, task: str, width: int, path: Path) -> list[str]:
    """The class of each column: ids where the table has ids, else the table's classes in their order."""
    classes = label_classes(clips, task)
    if classes and all(name.isdigit() for name in classes):
        if width <= int(classes[-1]):
            raise ScoreError(f"{path} has scores of {width} classes, but the clip table has class id {classes[-1]}")
        return [str(number) for number in range(width)]
    if width != len(classes):
        raise ScoreError(
            f"{path} has scores of {width} classes; the clip table has {len(classes)}: {', '.join(classes)}"
        )
    return classes


def _table(rows: pd.DataFrame, task: str, classes: list[str], probabilities: np.ndarray) -> ScoreTable:
    clips = rows[["clip_id", "subject_id", "split"]].assign(true=rows[task])
    return score_table(clips, classes, probabilities[None])


def _probabilities(scores: np.ndarray, scale: str, path: Path) -> np.ndarray:
    """(n, K) that sum to 1."""
    sums = scores.sum(axis=1)
    if scale == "auto":
        if (scores >= 0).all() and (np.abs(sums - 1) < _SUM_TOLERANCE).all():
            scale = "probability"
        elif (scores < 0).any():
            scale = "logit"
            warn(f"{path}: its scores are logits, so a softmax is taken; --scale probability would refuse them")
        else:
            raise ScoreError(
                f"{path}: its scores are neither probabilities (the first sum to {sums[0]:.3g}) nor plainly logits "
                "(none is below 0); say which with --scale probability or --scale logit"
            )
    if scale == "logit":
        exp = np.exp(scores - scores.max(axis=1, keepdims=True))
        return exp / exp.sum(axis=1, keepdims=True)
    if (scores < 0).any() or (sums <= 0).any():
        raise ScoreError(f"{path}: a probability is below 0, or a clip has none above; are these logits?")
    return scores if (np.abs(sums - 1) < _SUM_TOLERANCE).all() else scores / sums[:, None]


def _storage(content: bytes) -> Any:
    """What a pickled tensor keeps its numbers in; `weights_only` lets nothing but numbers through."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _tensor(storage: Any, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> np.ndarray:
    """A view of a storage, which torch checks to lie within it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TypedStorage is deprecated")
        empty = torch.empty(0, dtype=storage.dtype)
        tensor = empty.set_(storage.untyped(), int(offset), tuple(size), tuple(stride))
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy().copy()


_TENSORS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
}
