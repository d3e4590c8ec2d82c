"""Weighted sums of the class probabilities of runs and of other programs' score files.

The winners of the MiGA challenges joined their streams so (MM-Gesture, arXiv 2507.08344: a sum of softmax scores).
Weights are given, or fitted on validation clips: the mixture with the lowest log loss, by expectation maximisation.
That problem is convex, so that where it starts does not matter and there is no chance in it.

# Shapes: M sources, n clips, K classes.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mgcli.cache import MgcliError, align_columns, label_classes
from mgcli.fuse.card import write_card
from mgcli.fuse.metrics import over_seeds, scores, subject_intervals
from mgcli.fuse.predict import mean_predictions, prediction_table, shares
from mgcli.fuse.run import RUN_VERSION, Run, check_writable, group_rows, run_folder, write_run
from mgcli.fuse.score_files import check_scale, read_scores
from mgcli.fuse.score_table import UNKNOWN, ScoreTable, run_scores
from mgcli.fuse.selection import clip_list_hash
from mgcli.fuse.task import get_task

ENSEMBLE = "ensemble"  # the head of such a run
_ROUNDS = 10_000
_FEW_CLIPS = 50  # validation clips for each weight that is fitted, below which chance decides much of it
_STILL = 1e-10  # weights that change by less stand


class EnsembleError(MgcliError):
    """Sources that do not go together, or weights that do not fit them."""


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """An ensemble and what it is made of; its folder reads as a run's."""

    run: Run
    split: str
    sources: list[str]
    weights: list[float]
    alone: list[dict[str, float]]  # scores of each source on the same clips; empty without labels

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        parts = [
            {"source": name, "weight": weight, "scores": found}
            for name, weight, found in zip(self.sources, self.weights, self.alone, strict=True)
        ]
        return self.run.to_json() | {"split": self.split, "sources": parts}

    def text(self) -> str:
        """For a terminal."""
        task = get_task(self.run.config["task"])
        together = {name: each["mean"] for name, each in self.run.metrics[self.split].items()}
        shown = [name for name in task.shown if name in together]
        rows = [["weight", "source", *shown]]
        for name, weight, found in zip(self.sources, self.weights, self.alone, strict=True):
            rows.append([f"{weight:.3f}", name, *(f"{100 * found[each]:.2f}" for each in shown)])
        rows.append(["", ENSEMBLE, *(self._cell(together, each) for each in shown)])
        lines = align_columns(rows)
        count = self.run.config["clips"]["counts"][self.split]
        return "\n".join(
            [
                f"{task.name}: {count['clips']} {self.split} clips of {count['subjects']} subjects, in percent",
                *lines,
                *(f"weights of {name}: {text}" for name, text in self.run.weights.items()),
                *(f"warning: {text}" for text in self.run.config["warnings"]),
                f"run: {self.run.path}",
            ]
        )

    def _cell(self, together: dict[str, float], name: str) -> str:
        interval = self.run.intervals[self.split].get(name)
        text = f"{100 * together[name]:.2f}"
        return f"{text} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else text


def make_ensemble(
    sources: Sequence[Path],
    runs: Path,
    *,
    task: str | None = None,
    weights: Sequence[float] | None = None,
    fit: bool = False,
    val_sources: Sequence[Path] = (),
    clips: pd.DataFrame | None = None,
    split: str = "test",
    scale: str = "auto",
) -> Ensemble:
    """Add the scores of some sources and keep the result as a run folder.

    Args:
        sources: run folders, ensembles among them, and score files.
        runs: folder in which the ensemble's folder is made.
        task: gesture or emotion; by default that of the runs.
        weights: one a source, made to sum to 1; by default all the same.
        fit: find the weights on validation clips instead.
        val_sources: the validation scores of the score files, in their order; a CSV that has them itself stands twice.
        clips: the clip table, for files that do not say whose scores they hold.
        split: whose clips are scored.
        scale: of the score files, see `read_scores`.

    Raises:
        MgcliError: a source cannot be read, or the sources are not of the same clips.
    """
    check_scale(scale)
    if val_sources and not fit:
        raise EnsembleError("validation scores (--val) serve to fit the weights; give --fit too, or leave them out")
    check_writable(runs)
    loaded = {path: Run.load(path) for path in sources if path.is_dir()}
    tasks = {run.config["task"] for run in loaded.values()} | ({get_task(task).name} if task else set())
    if len(tasks) != 1:
        raise EnsembleError(f"the sources are of {' and '.join(sorted(tasks))}" if tasks else "say which with --task")
    (name,) = tasks
    own = [path for path in sources if path not in loaded]
    tables = _aligned([_scores(path, loaded, clips, name, split, scale) for path in sources], sources)
    fit_warnings: list[str] = []
    if fit:
        if weights is not None:
            raise EnsembleError("weights are given or fitted, not both")
        if len(val_sources) != len(own):
            raise EnsembleError(
                f"to fit weights, {len(own)} score file(s) need as many of validation clips (--val FILE, in their "
                f"order), not {len(val_sources)}"
            )
        of_val = dict(zip(own, val_sources, strict=True))
        paths = [of_val.get(path, path) for path in sources]
        validation = _aligned([_scores(p, loaded, clips, name, "val", scale) for p in paths], paths)
        chosen = fit_weights(validation)
        if len(validation[0]) < _FEW_CLIPS * len(sources):
            fit_warnings = [
                f"the weights of {len(sources)} sources were fitted on {len(validation[0])} validation clips; with so "
                "few, equal weights may well do better"
            ]
    else:
        chosen = shares(weights, len(sources))
    together = _mixed(tables, chosen, name)
    warnings = list(dict.fromkeys(text for run in loaded.values() for text in run.config["warnings"])) + fit_warnings
    config = _describe(name, sources, loaded, chosen, fit, together, split, warnings)
    groups = group_rows(config)
    results = _results(together, split, groups)
    with run_folder(runs, f"{ENSEMBLE}-{name}-{secrets.token_hex(3)}") as (folder, path):
        run = Run(path=path, config=config, metrics=results["metrics"], intervals=results["intervals"])
        predictions = _predictions(together, name)
        history = pd.DataFrame(columns=["seed", "epoch"])
        write_run(folder, config, run.to_json() | results, predictions, history, {})
        write_card(folder, run)
    return Ensemble(
        run=run,
        split=split,
        sources=[str(path) for path in sources],
        weights=chosen,
        alone=[_plain_scores(table, groups) for table in tables],
    )


def members(run: Run) -> list[tuple[Run, float]]:
    """The trained runs behind a run, each with its share: of an ensemble those that it adds, of another run itself.

    Raises:
        EnsembleError: a score file of another program is among them: it knows no clips but its own.
        RunError: one of them is not where it was.
    """
    if not run.is_ensemble:
        return [(run, 1.0)]
    found = []
    for each in run.config["sources"]:
        if each["head"] is None:
            raise EnsembleError(f"{run.path} adds {each['source']}, a score file; only runs can predict other clips")
        found += [(leaf, share * each["weight"]) for leaf, share in members(Run.load(each["source"]))]
    return found


def fit_weights(tables: Sequence[ScoreTable]) -> list[float]:
    """The weights from 0 to 1, 1 together, whose mixture has the lowest log loss on these labelled clips.

    Raises:
        EnsembleError: a clip has no label.
    """
    labels = tables[0].labels
    if (labels == UNKNOWN).any() or not len(labels):
        raise EnsembleError("weights are fitted on labelled validation clips; there is none, or one without a label")
    own = np.stack([table.mean[np.arange(len(labels)), labels] for table in tables]).clip(1e-12)  # (M, n)
    weights = np.full(len(tables), 1 / len(tables))
    for _ in range(_ROUNDS):
        share = weights[:, None] * own
        new = (share / share.sum(axis=0)).mean(axis=1)
        moved, weights = float(np.abs(new - weights).max()), new
        if moved < _STILL:
            break
    return weights.tolist()


def _scores(
    path: Path, runs: dict[Path, Run], clips: pd.DataFrame | None, task: str, split: str, scale: str
) -> ScoreTable:
    table = run_scores(runs[path]).split(split) if path in runs else read_scores(path, clips, task, split, scale)
    if not len(table):
        raise EnsembleError(f"{path} has no scores of {split} clips")
    return table


def _aligned(tables: Sequence[ScoreTable], sources: Sequence[Path]) -> list[ScoreTable]:
    """The same clips in the same order, over the classes that any source knows; who does not know one gives it 0."""
    classes = tables[0].classes
    if any(table.classes != classes for table in tables):  # of gestures: emotion has always the same two
        known = pd.DataFrame({"gesture": [name for table in tables for name in table.classes]})
        classes = label_classes(known, "gesture")
    result = []
    for table, source in zip(tables, sources, strict=True):
        try:
            ordered = table.in_order_of(tables[0])
        except MgcliError as error:
            raise EnsembleError(f"{source} and {sources[0]} do not go together: {error}") from None
        wide = np.zeros((*ordered.probabilities.shape[:2], len(classes)))
        wide[..., [classes.index(name) for name in table.classes]] = ordered.probabilities
        place = np.array([*(classes.index(name) for name in table.classes), UNKNOWN])
        result.append(replace(ordered, probabilities=wide, classes=classes, labels=place[ordered.labels]))
    return result


def _mixed(tables: Sequence[ScoreTable], weights: Sequence[float], task: str) -> ScoreTable:
    """The weighted mean of aligned tables."""
    mean = mean_predictions([_predictions(table, task) for table in tables], weights)
    columns = [f"p_{name}" for name in tables[0].classes]
    return tables[0].with_probabilities(mean[columns].to_numpy()[None])


def _predictions(table: ScoreTable, task: str) -> pd.DataFrame:
    """As in `predictions.csv`, the mean over the seeds."""
    return prediction_table(_clip_rows(table, task), task, table.classes, table.mean, seed=0)


def _results(table: ScoreTable, split: str, groups: dict[str, list[int]]) -> dict[str, Any]:
    empty: dict[str, Any] = {"val": {}, "test": {}}
    found = _plain_scores(table, groups)
    if not found:
        return {"metrics": empty, "intervals": dict(empty)}
    intervals = subject_intervals(
        table.labels, [table.mean.argmax(axis=1)], table.subjects.astype(str), len(table.classes)
    )
    return {"metrics": empty | {split: over_seeds([found])}, "intervals": empty | {split: intervals}}


def _plain_scores(table: ScoreTable, groups: dict[str, list[int]]) -> dict[str, float]:
    return {} if (table.labels == UNKNOWN).any() else scores(table.labels, table.mean, groups)


def _clip_rows(table: ScoreTable, task: str) -> pd.DataFrame:
    """The clips as a clip table's columns that predictions need."""
    true = np.array([*table.classes, ""], dtype=object)[table.labels]
    return pd.DataFrame({"clip_id": table.clip_ids, "subject_id": table.subjects, "split": table.splits, task: true})


def _describe(
    task: str,
    sources: Sequence[Path],
    runs: dict[Path, Run],
    weights: Sequence[float],
    fitted: bool,
    table: ScoreTable,
    split: str,
    warnings: list[str],
) -> dict[str, Any]:
    features: dict[str, Any] = {}
    for run in runs.values():
        for modality, about in run.config["features"].items():
            same = features.setdefault(modality, about)["fingerprint"] == about["fingerprint"]
            if not same:
                features[f"{modality} of {run.name}"] = about
    protocols = {run.protocol for run in runs.values()}
    class_groups = [run.config.get("class_groups", {}) for run in runs.values()] or [{}]
    return {
        "run_version": RUN_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "task": task,
        "protocol": protocols.pop() if len(protocols) == 1 else None,
        "head": ENSEMBLE,
        "label": ENSEMBLE,
        "features": features,
        "classes": table.classes,
        "class_groups": class_groups[0] if all(each == class_groups[0] for each in class_groups) else {},
        "seeds": [0],
        "sources": [
            {"source": str(path.resolve()), "head": runs[path].label if path in runs else None, "weight": weight}
            for path, weight in zip(sources, weights, strict=True)
        ],
        "weights_fitted_on": "val" if fitted else None,
        "clips": {
            "hash": clip_list_hash(_clip_rows(table, task), task),
            "counts": {split: {"clips": len(table), "subjects": len(set(table.subjects))}},
            "drawn_val_subjects": [],
        },
        "packages": {name: version(name) for name in ("mgcli", "numpy")},
        "warnings": warnings,
    }
