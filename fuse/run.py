"""A run: what was trained on what, how well it does, and the folder that keeps it.

A run folder holds:

| file                   | what                                                                          |
|------------------------|-------------------------------------------------------------------------------|
| config.json            | task, protocol, head, feature sets, classes, clips, seeds, settings, versions, warnings |
| metrics.json           | what `Run.to_json` gives, calibration among it, and confusion matrices        |
| predictions.csv        | one row per seed and clip of val and test: true, predicted, p_CLASS           |
| history.csv            | one row per seed and epoch                                                    |
| card.md                | the same for people: see `card.py`                                            |
| head-seedN.safetensors | the weights of each seed, input statistics among them                         |
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mgcli.cache import MgcliError, align_columns, sync, sync_all
from mgcli.fuse.calibration import calibration_text
from mgcli.fuse.run_keys import RESULT_KEYS, config_fault, key_fault
from mgcli.fuse.task import TASKS

RUN_VERSION = 1
HISTORY_FILE = "history.csv"
_CONFIG, _METRICS, _PREDICTIONS = "config.json", "metrics.json", "predictions.csv"


class RunError(MgcliError):
    """A run folder that cannot be written or read."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run; its files are in `path`."""

    path: Path
    config: dict[str, Any]
    metrics: dict[str, Any]  # split -> score -> mean, std, values over the seeds
    intervals: dict[str, Any]  # split -> score -> [low, high], bootstrap over subjects
    calibration: dict[str, Any] = field(default_factory=dict)  # see `calibrate`; of seed after seed

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """Read a run folder.

        Raises:
            RunError: it is none, it is damaged, or a newer mgcli made it.
        """
        path = Path(path)
        config, results = _read_json(path / _CONFIG), _read_json(path / _METRICS)
        if config.get("run_version") != RUN_VERSION:
            raise RunError(
                f"{path} has run version {config.get('run_version')}; this mgcli reads version {RUN_VERSION}. "
                "Upgrade with: pip install -U mgcli"
            )
        for name, fault in ((_CONFIG, config_fault(config)), (_METRICS, key_fault(results, RESULT_KEYS))):
            if fault:
                raise _damaged(path / name, fault)
        return cls(
            path=path,
            config=config,
            metrics=results["metrics"],
            intervals=results["intervals"],
            calibration=results.get("calibration", {}),
        )

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def label(self) -> str:
        """The head as results name it: as in HEADS, or single_MODALITY."""
        return self.config["label"]

    @property
    def is_ensemble(self) -> bool:
        """Whether it adds the scores of others, and has no weights of its own."""
        return "sources" in self.config

    @property
    def modalities(self) -> list[str]:
        return list(self.config["features"])

    @property
    def protocol(self) -> str | None:
        """Of the clip table; None for a table that was given as a file."""
        return self.config.get("protocol")

    @property
    def weights(self) -> dict[str, str]:
        """Modality -> the weights that its tokens come from."""
        return {name: each["weights"] for name, each in self.config["features"].items()}

    def predictions(self) -> pd.DataFrame:
        """One row per seed and clip of val and test.

        Raises:
            RunError: the file is missing, damaged, or not whole.
        """
        counts = {split: int(each["clips"]) for split, each in self.config["clips"]["counts"].items()}
        return read_predictions(self.path / _PREDICTIONS, self.config["classes"], counts)

    def state_dict(self, seed: int) -> dict[str, Tensor]:
        """The weights of one seed.

        Raises:
            RunError: the file is missing or damaged.
        """
        file = self.path / _checkpoint(seed)
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise RunError(f"cannot read {file}: {error}; train the run again") from None

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return {
            "run": str(self.path),
            "task": self.config["task"],
            "protocol": self.protocol,
            "head": self.label,
            "modalities": self.modalities,
            "seeds": self.config["seeds"],
            "metrics": self.metrics,
            "intervals": self.intervals,
            "calibration": self.calibration,
            "classes": self.config["classes"],
            "class_groups": self.config.get("class_groups", {}),
            "clips": self.config["clips"]["counts"],
            "weights": self.weights,
            "warnings": self.config["warnings"],
        }

    def summary(self) -> str:
        """The result for people: scores with intervals, and all that speaks against trusting them."""
        counts = self.config["clips"]["counts"]
        of = ", ".join(f"{split} {n['clips']} clips of {n['subjects']} subjects" for split, n in counts.items())
        judged = [split for split in self.calibration if split in self.metrics]
        mended = [calibration_text(self.calibration, self.config["classes"], split) for split in judged]
        return "\n".join(
            [results_table([self]), *mended, f"clips: {of}", f"run: {self.path}; next: mgcli report {self.path}"]
        )


def results_table(runs: Sequence[Run]) -> str:
    """Runs of one task side by side, with the weights and the warnings of all."""
    rows = [(run, split, found, run.intervals[split]) for run in runs for split, found in run.metrics.items() if found]
    weights = {name: text for run in runs for name, text in run.weights.items()}
    return "\n".join(
        [
            scores_table(rows, runs[0].config["task"]),
            "weights: " + ", ".join(f"{name} {text}" for name, text in weights.items()),
            *dict.fromkeys(f"warning: {text}" for run in runs for text in run.config["warnings"]),
        ]
    )


def scores_table(rows: Sequence[tuple[Run, str, dict[str, Any], dict[str, Any]]], task: str) -> str:
    """One line a row (run, split, scores, intervals), in percent."""
    shown = [score for score in TASKS[task].shown if any(score in found for _, _, found, _ in rows)]
    protocols = {run.protocol: run.protocol or "own clip table" for run, *_ in rows}
    several = len(protocols) > 1
    table = [["head", "modalities", *(["protocol"] if several else []), "seeds", "split", *shown]]
    for run, split, found, intervals in rows:
        where = [protocols[run.protocol]] if several else []
        about = [run.label, "+".join(run.modalities), *where, str(len(run.config["seeds"])), split]
        table.append([*about, *(_cell(found, intervals, score) for score in shown)])
    title = task if several else ", ".join([task, *protocols.values()])
    return "\n".join(
        [f"{title}: mean +- std over seeds [95 % interval over subjects], in percent", *align_columns(table)]
    )


def group_rows(config: dict[str, Any]) -> dict[str, list[int]]:
    """Head, middle and tail -> places of their classes among a run's classes, as `scores` takes them."""
    return {
        name: [config["classes"].index(each) for each in classes]
        for name, classes in config.get("class_groups", {}).items()
    }


@contextmanager
def run_folder(runs: Path, name: str) -> Iterator[tuple[Path, Path]]:
    """Give a temporary folder to fill and the name it will get when the block ends, all of it flushed to disk.

    Args:
        runs: folder of the runs.
        name: of the new one; only one process at a time may be filling it.

    Raises:
        RunError: the disk does not let us.
    """
    path, temporary = runs / name, runs / f".tmp-{name}"
    shutil.rmtree(temporary, ignore_errors=True)  # of one that was killed
    try:
        temporary.mkdir(parents=True)
        yield temporary, path
        sync_all([*temporary.iterdir(), temporary])
        temporary.rename(path)
        sync(runs)
    except OSError as error:
        raise _unwritable(runs, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_writable(runs: Path) -> None:
    """Find out before the training whether its result can be kept.

    Raises:
        RunError: it cannot.
    """
    try:
        runs.mkdir(parents=True, exist_ok=True)
        probe = runs / f".tmp-{secrets.token_hex(3)}"
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise _unwritable(runs, error) from error


def write_run(
    folder: Path,
    config: dict[str, Any],
    results: dict[str, Any],
    predictions: pd.DataFrame,
    history: pd.DataFrame,
    states: dict[int, dict[str, Tensor]],
) -> None:
    """Fill a run folder; `states` are the weights of each seed."""
    (folder / _CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    (folder / _METRICS).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    predictions.to_csv(folder / _PREDICTIONS, index=False, float_format="%.6g")
    _write_training(folder, history, states)


def write_stopped(
    folder: Path, config: dict[str, Any], history: pd.DataFrame, states: dict[int, dict[str, Tensor]]
) -> None:
    """Keep what a training that could not go on had; without scores it is no run."""
    (folder / _CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    _write_training(folder, history, states)


def _write_training(folder: Path, history: pd.DataFrame, states: dict[int, dict[str, Tensor]]) -> None:
    history.to_csv(folder / HISTORY_FILE, index=False, float_format="%.6g")
    for seed, state in states.items():
        tensors = {name: value.contiguous().cpu() for name, value in state.items()}
        (folder / _checkpoint(seed)).write_bytes(save(tensors))  # save_file would make it readable to its owner only


def read_predictions(path: Path, classes: Sequence[str], counts: Mapping[str, int]) -> pd.DataFrame:
    """A table of predictions, with ids and labels as text.

    Args:
        path: the file.
        classes: of which it has a probability each.
        counts: split -> clips, as many of which each seed must have answered.

    Raises:
        RunError: no such file, or it is not what a run writes.
    """
    text = dict.fromkeys(("clip_id", "subject_id", "split", "true", "predicted"), str)
    columns = [f"p_{name}" for name in classes]
    try:
        table = pd.read_csv(path, dtype=text, keep_default_na=False)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}; train the run again") from None
    except (ValueError, pd.errors.ParserError) as error:  # ValueError: an empty file, bytes that are no UTF-8
        raise _damaged(path, str(error).strip()) from None
    absent = [name for name in (*text, "seed", *columns) if name not in table]
    if absent:
        raise _damaged(path, f"it has no column {', '.join(map(repr, absent[:3]))}")
    numbers = table[columns].apply(pd.to_numeric, errors="coerce")
    if not np.isfinite(numbers.to_numpy(np.float64)).all():
        raise _damaged(path, "some probabilities are no numbers")
    if table.duplicated(["seed", "clip_id"]).any():
        raise _damaged(path, "a clip has two answers of one seed")
    for split, expected in counts.items():
        for seed, rows in table[table["split"] == split].groupby("seed", sort=False):
            if len(rows) != expected:
                raise _damaged(path, f"seed {seed} answers {len(rows)} of {expected} {split} clips")
    table[columns] = numbers
    return table


def _damaged(file: Path, why: str) -> RunError:
    return RunError(f"{file} is damaged: {why}; train the run again, or take the file of a copy")


def _checkpoint(seed: int) -> str:
    return f"head-seed{seed}.safetensors"


def _unwritable(runs: Path, error: OSError) -> RunError:
    return RunError(f"cannot write to the runs folder {runs}: {error.strerror}; choose another with --runs DIR")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(
            f"{file.parent} is no run folder: it has no {file.name}; give one that mgcli fuse-train made"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise RunError(f"{file} is damaged ({error}); train the run again") from None
    if not isinstance(content, dict):
        raise RunError(f"{file} is damaged: it is no object, {{...}}; train the run again")
    return content


def _cell(found: dict[str, Any], intervals: dict[str, list[float]], score: str) -> str:
    """`83.1 +- 1.2 [75.0, 90.4]`, in percent."""
    if score not in found:
        return "-"
    text = f"{100 * found[score]['mean']:.1f} +- {100 * found[score]['std']:.1f}"
    if score in intervals:
        low, high = intervals[score]
        text += f" [{100 * low:.1f}, {100 * high:.1f}]"
    return text
