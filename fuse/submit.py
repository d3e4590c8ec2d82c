"""Challenge files: what a run, or several together, predicts for the test clips of a protocol.

| form             | file in the zip | header           | rows                                       |
|------------------|-----------------|------------------|--------------------------------------------|
| miga2023-track1  | Submission.csv  | none             | `VVVV_k,class` with 0..31                  |
| miga2025-track1  | prediction.csv  | `Id,Target`      | `VVVV_k,class` with 0..31                  |
| miga2025-track3  | prediction.csv  | `video_id,label` | `VVVV,label` with 1 for win and 0 for lose |

VVVV is the video's id in four digits, k the clip's number in it from 0; rows go by video, then by number. The forms of
Track 1 are those of the starter kit and of the 2025 winner's code. The official header of Track 3 is not public: ours
is that of a third party's entry, so compare it with the sample file on the challenge's page before you upload.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mgcli.cache import FeatureCache, MgcliError, committed_file, open_cache, writing
from mgcli.fuse.calibrated import answered, threshold_for
from mgcli.fuse.ensemble import members
from mgcli.fuse.predict import mean_predictions, predict_run, shares
from mgcli.fuse.run import Run
from mgcli.fuse.usable_clips import read_table

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the same bytes whenever they are written
_SHOWN = 10  # clips named in a message


class SubmitError(MgcliError):
    """A submission that would be refused: not complete, not unique, not in range."""


@dataclass(frozen=True, kw_only=True)
class SubmissionForm:
    """How a challenge wants its file."""

    name: str
    task: str
    clip_id: re.Pattern[str]  # video and, where there is one, number of the clip
    inner_name: str  # of the CSV file in the zip
    header: str  # empty: none
    labels: dict[str, str]  # class -> as it is written
    num_clips: int  # that the challenge scores
    takes_probability: bool = False  # may be handed in as the probability of the last class


_GESTURE_IDS = {str(label): str(label) for label in range(32)}
_CLIP, _VIDEO = re.compile(r"([0-9]{4})_(0|[1-9][0-9]*)"), re.compile(r"([0-9]{4})")

SUBMISSION_FORMS: dict[str, SubmissionForm] = {
    form.name: form
    for form in (
        SubmissionForm(
            name="miga2023-track1",
            task="gesture",
            clip_id=_CLIP,
            inner_name="Submission.csv",
            header="",
            labels=_GESTURE_IDS,
            num_clips=4562,
        ),
        SubmissionForm(
            name="miga2025-track1",
            task="gesture",
            clip_id=_CLIP,
            inner_name="prediction.csv",
            header="Id,Target",
            labels=_GESTURE_IDS,
            num_clips=4562,
        ),
        SubmissionForm(
            name="miga2025-track3",
            task="emotion",
            clip_id=_VIDEO,
            inner_name="prediction.csv",
            header="video_id,label",
            labels={"lose": "0", "win": "1"},
            num_clips=104,
            takes_probability=True,
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A challenge file that was written."""

    path: Path
    form: str
    runs: list[str]
    num_clips: int
    warnings: list[str]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return {
            "out": str(self.path),
            "form": self.form,
            "runs": self.runs,
            "clips": self.num_clips,
            "warnings": self.warnings,
        }

    def summary(self) -> str:
        """For people."""
        by = " + ".join(self.runs)
        done = f"wrote {self.num_clips} predictions of {by} to {self.path}, as {self.form}"
        return "\n".join([done, *(f"warning: {text}" for text in self.warnings)])


def submit_runs(
    runs: Sequence[Run | str | Path],
    cache: FeatureCache | str | Path,
    out: Path,
    *,
    form: str,
    weights: Sequence[float] | None = None,
    probability: bool = False,
    calibrated: bool = False,
    prior: float | None = None,
    clips: pd.DataFrame | str | Path | None = None,
) -> Submission:
    """Write a challenge file for the test clips of a table; they need no labels.

    Args:
        runs: one run, or several whose probabilities are averaged; an ensemble stands for its runs and their weights.
        cache: a cache with the runs' feature sets.
        out: `.zip`, with the file in it that the form asks for, or `.csv`, that file alone.
        form: a name of SUBMISSION_FORMS.
        weights: of each run's probabilities; by default all the same.
        probability: write the probability of winning in place of 0 or 1, where the form lets it.
        calibrated: see `predict_run`; and with two classes the answer is that of `threshold_for`.
        prior: share of the second class among the test clips, for that threshold, and so not with `probability`;
            None: one half.
        clips: clip table, or its file; by default the newest that the cache keeps of the first run's protocol.

    Raises:
        SubmitError: the file would not be complete or not be accepted; the message lists what is missing.
        MgcliError: the runs, the cache and the clip table do not go together.
    """
    chosen = _form(form, probability)
    if probability and prior is not None:
        raise SubmitError(
            "a prior moves the threshold between the two answers, and no probability; leave one of them out"
        )
    if prior is not None and not calibrated:
        raise SubmitError("a prior moves the threshold of calibrated probabilities; give calibrated=True with it")
    if out.is_dir():
        raise SubmitError(f"{out} is a folder; give a file with --out, such as {out / 'file'}{out.suffix or '.zip'}")
    if out.suffix not in (".zip", ".csv"):
        raise SubmitError(f"{out} is no .zip and no .csv file; give one with --out FILE")
    loaded = [run if isinstance(run, Run) else Run.load(run) for run in runs]
    _check_runs(loaded, chosen)
    cache = cache if isinstance(cache, FeatureCache) else open_cache(cache)
    table = cache.read_clips(loaded[0].protocol) if clips is None else read_table(cache, clips)
    wanted, warnings = _test_clips(table, chosen)
    parts = [
        (part, share * part_share)
        for run, share in zip(loaded, shares(weights, len(loaded)), strict=True)
        for part, part_share in members(run)
    ]
    leaves, part_shares = [part for part, _ in parts], [share for _, share in parts]
    predictions = mean_predictions(
        [predict_run(part, cache, clips=wanted, calibrated=calibrated) for part in leaves], part_shares
    )
    if calibrated:
        threshold = threshold_for(leaves, part_shares, prior)
        predictions = answered(predictions, leaves[0].config["classes"], threshold)
    content = submission_csv(predictions, list(wanted["clip_id"]), chosen, probability=probability)
    with writing(out), committed_file(out) as temporary:
        temporary.write_bytes(content if out.suffix == ".csv" else _zipped(chosen.inner_name, content))
    warnings += dict.fromkeys(text for run in loaded for text in run.config["warnings"])
    return Submission(
        path=out, form=chosen.name, runs=[run.name for run in loaded], num_clips=len(wanted), warnings=warnings
    )


def submission_csv(
    predictions: pd.DataFrame, clip_ids: Sequence[str], form: SubmissionForm, *, probability: bool = False
) -> bytes:
    """The rows of a challenge file.

    Args:
        predictions: clip_id, predicted and p_CLASS.
        clip_ids: all that are to be predicted, in the order of the rows.
        form: of the file.
        probability: of the last class, in place of the class.

    Raises:
        SubmitError: clips without a prediction, twice predicted, or predicted as a class that the form does not know.
    """
    doubled = predictions.loc[predictions["clip_id"].duplicated(), "clip_id"]
    if len(doubled):
        raise SubmitError(f"{len(doubled)} clips are predicted twice: {_named(doubled)}")
    by_clip = predictions.set_index("clip_id")
    missing = [clip_id for clip_id in clip_ids if clip_id not in by_clip.index]
    if missing:
        raise SubmitError(
            f"no prediction for {len(missing)} of {len(clip_ids)} test clips: {_named(missing)}. The cache lacks their "
            "tokens: see failures.csv of the feature set, mend the files and run mgcli extract again"
        )
    unknown = sorted(set(by_clip["predicted"]) - set(form.labels))
    if unknown:
        raise SubmitError(f"{form.name} knows no class {', '.join(unknown)}; its classes: {', '.join(form.labels)}")
    if probability:
        cells = [f"{value:.6f}" for value in by_clip.loc[list(clip_ids), f"p_{list(form.labels)[-1]}"]]
    else:
        cells = [form.labels[name] for name in by_clip.loc[list(clip_ids), "predicted"]]
    rows = [f"{clip_id},{cell}" for clip_id, cell in zip(clip_ids, cells, strict=True)]
    return ("\n".join([*([form.header] if form.header else []), *rows]) + "\n").encode("ascii")


def _form(name: str, probability: bool) -> SubmissionForm:
    if name not in SUBMISSION_FORMS:
        raise SubmitError(f"unknown form {name!r}; known: {', '.join(SUBMISSION_FORMS)}")
    if probability and not SUBMISSION_FORMS[name].takes_probability:
        raise SubmitError(f"{name} takes classes, not probabilities; leave --probability out")
    return SUBMISSION_FORMS[name]


def _check_runs(runs: Sequence[Run], form: SubmissionForm) -> None:
    for run in runs:
        if run.config["task"] != form.task:
            raise SubmitError(f"{run.path} predicts {run.config['task']}; {form.name} asks for {form.task}")


def _test_clips(table: pd.DataFrame, form: SubmissionForm) -> tuple[pd.DataFrame, list[str]]:
    """The test clips of the form's task in the order of its rows, and what is odd about their number.

    Clips of another form's kind, such as the interviews of a table of both tracks, are passed over.
    """
    test = table[table["split"] == "test"]
    matched = test["clip_id"].map(form.clip_id.fullmatch)
    is_other = test["clip_id"].map(
        lambda clip_id: any(each.clip_id.fullmatch(clip_id) for each in SUBMISSION_FORMS.values())
    )
    foreign = test.loc[~is_other, "clip_id"]
    if len(foreign):
        raise SubmitError(
            f"{len(foreign)} test clips are named otherwise than {form.name} does (VVVV_k or VVVV): {_named(foreign)}"
        )
    there = test[matched.notna()]
    if there.empty:
        raise SubmitError(f"the clip table has no test clip of the kind that {form.name} asks for; choose --protocol")
    places = [tuple(map(int, found.groups())) for found in matched.dropna()]
    order = sorted(range(len(places)), key=places.__getitem__)
    gaps = _gaps(places)
    if gaps:
        raise SubmitError(
            f"the clip table lacks {len(gaps)} test clips, by the numbers of those it has: {_named(gaps)}. A row of "
            "their annotation file could not be read: see mgcli data check"
        )
    warnings = []
    if len(there) != form.num_clips:
        warnings.append(f"the challenge scores {form.num_clips} clips, and this table has {len(there)} test clips")
    return there.iloc[order].reset_index(drop=True), warnings


def _gaps(places: Sequence[tuple[int, ...]]) -> list[str]:
    """Clips that must be there, as a video's clips are numbered from 0 on."""
    numbers: dict[int, set[int]] = {}
    for video, *number in places:
        numbers.setdefault(video, set()).update(number)
    return [
        f"{video:04d}_{number}"
        for video, there in sorted(numbers.items())
        for number in range(max(there, default=-1))
        if number not in there
    ]


def _zipped(name: str, content: bytes) -> bytes:
    """A zip with one file; stored, so that the bytes do not hang on a compressor's version."""
    entry = zipfile.ZipInfo(name, date_time=_ZIP_TIME)
    entry.external_attr = 0o644 << 16
    entry.create_system = 3  # Unix, wherever it is written
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        file.writestr(entry, content)
    return archive.getvalue()


def _named(names: Sequence[str] | pd.Series) -> str:
    listed = list(names)
    return ", ".join(listed[:_SHOWN]) + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")
