"""Show a trained run clips: score a split again, or predict any clips of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mgcli.cache import CacheError, FeatureCache, FeatureSet, find_leakage, open_cache, warn
from mgcli.fuse.calibration import with_temperature
from mgcli.fuse.head import FusionHead, create_head
from mgcli.fuse.metrics import over_seeds, scores, subject_intervals
from mgcli.fuse.predict_clips import predict_probabilities
from mgcli.fuse.run import Run, RunError, group_rows, scores_table
from mgcli.fuse.selection import Selection, backbones_trained_on, clip_list_hash, protocol_of, select_for_prediction
from mgcli.fuse.settings import make_config
from mgcli.fuse.task import modality_of
from mgcli.fuse.usable_clips import read_table


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How a run does on one split of a clip table."""

    run: Run
    split: str
    num_clips: int
    metrics: dict[str, Any]  # score -> mean, std, values over the seeds
    intervals: dict[str, list[float]]  # score -> [low, high], bootstrap over subjects
    warnings: list[str]

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON values, shaped as a run's."""
        return {
            **self.run.to_json(),
            "metrics": {self.split: self.metrics},
            "intervals": {self.split: self.intervals},
            "clips": {self.split: self.num_clips},
            "warnings": self.warnings,
        }

    def summary(self) -> str:
        """The result for people."""
        table = scores_table([(self.run, self.split, self.metrics, self.intervals)], self.run.config["task"])
        weights = ", ".join(f"{name} {text}" for name, text in self.run.weights.items())
        return "\n".join([table, f"weights: {weights}", *(f"warning: {text}" for text in self.warnings)])


def evaluate_run(
    run: Run | str | Path,
    cache: FeatureCache | str | Path,
    *,
    split: str = "test",
    clips: pd.DataFrame | str | Path | None = None,
    allow_leakage: bool = False,
) -> Evaluation:
    """Score every seed of a run on the labelled clips of a split.

    Args:
        run: a run, or its folder.
        cache: a cache with the run's feature sets.
        split: train, val or test.
        clips: clip table, or its file; by default the newest of the cache.
        allow_leakage: score clips that the head or a backbone was trained on all the same, with a warning.

    Raises:
        LeakageError: the clips are not those that the run was tested on, and it was trained on some of them, on
            their subjects or on their videos.
        MgcliError: the run, the cache and the clip table do not go together.
    """
    run = run if isinstance(run, Run) else Run.load(run)
    warnings = list(run.config["warnings"])

    def note(message: str) -> None:
        warnings.append(message)
        warn(message)

    cache = cache if isinstance(cache, FeatureCache) else open_cache(cache)
    table = read_table(cache, clips)
    selection, probabilities = _predict(run, cache, table, split, note, labelled=True)
    if clip_list_hash(selection.table, run.config["task"]) != run.config["clips"].get("test_hash"):
        trained_on = backbones_trained_on(run_feature_sets(run, cache)) | {"head": run.config.get("trained_on", {})}
        leakage = find_leakage(selection.table, protocol_of(table), trained_on=trained_on)
        leakage.enforce(allow=allow_leakage, warn=note)
    labels = selection.tensors.labels.numpy()
    predicted = [each.argmax(axis=1) for each in probabilities]
    subjects = selection.table["subject_id"].to_numpy()
    return Evaluation(
        run=run,
        split=split,
        num_clips=len(labels),
        metrics=over_seeds([scores(labels, each, group_rows(run.config)) for each in probabilities]),
        intervals=subject_intervals(labels, predicted, subjects, len(selection.classes)),
        warnings=warnings,
    )


def predict_run(
    run: Run | str | Path,
    cache: FeatureCache | str | Path,
    *,
    clips: pd.DataFrame | str | Path | None = None,
    split: str | None = None,
    calibrated: bool = False,
) -> pd.DataFrame:
    """Predict clips, with or without labels, by the mean of the seeds' probabilities.

    Args:
        run: a run, or its folder.
        cache: a cache with the run's feature sets.
        clips: clip table, or its file; by default the newest of the cache.
        split: only clips of this split; None for every clip that has tokens.
        calibrated: scale each seed's probabilities by the temperature that its validation clips ask for.

    Returns:
        One row a clip: clip_id, subject_id, split, seed ("mean"), true (empty without a label), predicted,
        p_CLASS for each class.

    Raises:
        MgcliError: the run, the cache and the clip table do not go together.
    """
    run = run if isinstance(run, Run) else Run.load(run)
    cache = cache if isinstance(cache, FeatureCache) else open_cache(cache)
    selection, probabilities = _predict(run, cache, read_table(cache, clips), split, warn, labelled=False)
    mean = seeds_mean(run, probabilities, calibrated=calibrated)
    return prediction_table(selection.table, run.config["task"], selection.classes, mean, "mean")


def seeds_mean(run: Run, probabilities: Sequence[np.ndarray], *, calibrated: bool) -> np.ndarray:
    """(n, K) mean of the seeds' (n, K) probabilities, each at the temperature of its seed if `calibrated`.

    Raises:
        RunError: temperatures are asked for, and the run has none.
    """
    if calibrated:
        temperatures = run.calibration.get("temperature", [])
        if len(temperatures) != len(probabilities):
            raise RunError(
                f"{run.path} keeps no temperature of its seeds; train the run again, or go without calibration"
            )
        pairs = zip(probabilities, temperatures, strict=True)
        probabilities = [with_temperature(each, temperature) for each, temperature in pairs]
    return np.mean(probabilities, axis=0)


def mean_predictions(tables: Sequence[pd.DataFrame], weights: Sequence[float] | None = None) -> pd.DataFrame:
    """Prediction tables of several runs as one: the weighted mean of their probabilities.

    Args:
        tables: as `predict_run` gives them.
        weights: one a table, 0 or more; by default all the same.

    Returns:
        clip_id, predicted and p_CLASS, for the clips that all tables have, in the order of the first.

    Raises:
        RunError: other classes in another table, or weights that are none.
    """
    share = shares(weights, len(tables))
    columns, *others = ([name for name in map(str, table) if name.startswith("p_")] for table in tables)
    for number, other in enumerate(others, start=2):
        if set(other) != set(columns):
            raise RunError(f"run {number} knows other classes than run 1; only runs of the same classes are averaged")
    by_clip = [table.set_index("clip_id")[columns] for table in tables]
    everywhere = [clip_id for clip_id in by_clip[0].index if all(clip_id in each.index for each in by_clip)]
    stacked = np.stack([each.loc[everywhere].to_numpy(float) for each in by_clip])  # (runs, n, K)
    mean = np.tensordot(share, stacked, axes=1)  # (n, K)
    predicted = [columns[place].removeprefix("p_") for place in mean.argmax(axis=1)]
    about = pd.DataFrame({"clip_id": everywhere, "predicted": predicted})
    return pd.concat([about, pd.DataFrame(mean, columns=columns)], axis=1)


def shares(weights: Sequence[float] | None, number: int) -> list[float]:
    """The weights of so many sources as shares that sum to 1; without weights all the same.

    Raises:
        RunError: another number of weights, or some that make no sense.
    """
    given = np.ones(number) if weights is None else np.asarray(weights, dtype=float)
    if len(given) != number or not np.isfinite(given).all() or (given < 0).any() or not given.sum():
        listed = ", ".join(map(str, weights or []))
        raise RunError(f"{number} source(s) and the weights {listed}; give one weight each, 0 or more, not all 0")
    return (given / given.sum()).tolist()


def prediction_table(
    table: pd.DataFrame, task: str, classes: list[str], probabilities: np.ndarray, seed: int | str
) -> pd.DataFrame:
    """The rows of `predictions.csv`: row i of the clip table has row i of the (n, K) probabilities."""
    about = pd.DataFrame(
        {
            "clip_id": table["clip_id"].to_numpy(),
            "subject_id": table["subject_id"].to_numpy(),
            "split": table["split"].to_numpy(),
            "seed": seed,
            "true": table[task].to_numpy(),
            "predicted": np.array(classes, dtype=object)[probabilities.argmax(axis=1)],
        }
    )
    return pd.concat([about, pd.DataFrame(probabilities, columns=[f"p_{name}" for name in classes])], axis=1)


def _predict(
    run: Run,
    cache: FeatureCache,
    table: pd.DataFrame,
    split: str | None,
    warn: Callable[[str], None],
    *,
    labelled: bool,
) -> tuple[Selection, list[np.ndarray]]:
    """The clips, and (n, K) probabilities from each seed."""
    if run.is_ensemble:
        raise RunError(f"{run.path} is an ensemble and has no weights of its own; its scores are in predictions.csv")
    selection = select_for_run(run, cache, table, split, warn, labelled=labelled)
    rows = torch.arange(len(selection.table))
    found = [predict_probabilities(head, selection.tensors, rows) for head in trained_heads(run)]
    for seed, probabilities in zip(run.config["seeds"], found, strict=True):
        if not np.isfinite(probabilities).all():
            clip_id = selection.table["clip_id"].iloc[int((~np.isfinite(probabilities)).any(axis=1).argmax())]
            raise RunError(
                f"seed {seed} of {run.path} answers clip {clip_id!r} with no number: its weights are damaged, or the "
                "clip's tokens are; train the run again, or look with: mgcli cache verify"
            )
    return selection, found


def select_for_run(
    run: Run,
    cache: FeatureCache,
    table: pd.DataFrame,
    split: str | None,
    warn: Callable[[str], None],
    *,
    labelled: bool,
) -> Selection:
    """The clips of a table as the run sees them, with their tokens.

    Raises:
        RunError: the cache lacks a feature set of the run.
        SelectionError: no clip is left.
    """
    config = run.config
    return select_for_prediction(
        table,
        config["task"],
        run_feature_sets(run, cache),
        config["classes"],
        max_tokens=config["config"]["max_tokens"],
        split=split,
        labelled=labelled,
        val_subjects=config["clips"]["drawn_val_subjects"],
        in_folds=config["config"].get("folds", 0) > 0,
        warn=warn,
    )


def trained_heads(run: Run) -> Iterator[FusionHead]:
    """The run's head with the weights of each seed in turn.

    Raises:
        RunError: a checkpoint is missing, damaged, or of another head.
    """
    config = run.config
    for seed in config["seeds"]:
        with torch.random.fork_rng(devices=()):  # the fresh weights are replaced: leave the caller's chance alone
            head = create_head(
                config["head"],
                {name: each["dim"] for name, each in config["features"].items()},
                len(config["classes"]),
                make_config(config["config"]["head"]).head,
            )
        try:
            head.load_state_dict(run.state_dict(seed))
        except RuntimeError as error:
            first = str(error).strip().splitlines()[-1].strip()
            raise RunError(
                f"the weights of seed {seed} in {run.path} do not fit head {config['head']!r}: {first}"
            ) from None
        yield head


def run_feature_sets(run: Run, cache: FeatureCache) -> dict[str, FeatureSet]:
    """The feature sets that the run was trained on, and no others.

    Raises:
        RunError: the cache lacks one.
    """
    found = {}
    for modality, about in run.config["features"].items():
        try:
            found[modality] = cache.feature_set(modality_of(modality), about["fingerprint"])
        except CacheError as error:
            raise RunError(
                f"{run.name} was trained on {about['feature_set']} (weights {about['weights']}), which the cache "
                f"{cache.path} lacks: {error}"
            ) from None
    return found
