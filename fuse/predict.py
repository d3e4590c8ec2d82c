"""Show a trained run clips: score a split again, or predict any clips of a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mgcli.cache import CacheError, FeatureCache, FeatureSet, open_cache, warn
from mgcli.fuse.head import HeadConfig, create_head
from mgcli.fuse.loop import predict_probabilities
from mgcli.fuse.metrics import over_seeds, scores, subject_intervals
from mgcli.fuse.run import Run, RunError, scores_table
from mgcli.fuse.selection import Selection, read_table, select_for_prediction


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
) -> Evaluation:
    """Score every seed of a run on the labelled clips of a split.

    Args:
        run: a run, or its folder.
        cache: a cache with the run's feature sets.
        split: train, val or test.
        clips: clip table, or its file; by default the newest of the cache.

    Raises:
        MgcliError: the run, the cache and the clip table do not go together.
    """
    run = run if isinstance(run, Run) else Run.load(run)
    warnings = list(run.config["warnings"])

    def note(message: str) -> None:
        warnings.append(message)
        warn(message)

    selection, probabilities = _predict(run, cache, clips, split, note)
    labels = selection.tensors.labels.numpy()
    predicted = [each.argmax(axis=1) for each in probabilities]
    subjects = selection.table["subject_id"].to_numpy()
    return Evaluation(
        run=run,
        split=split,
        num_clips=len(labels),
        metrics=over_seeds([scores(labels, each) for each in probabilities]),
        intervals=subject_intervals(labels, predicted, subjects, len(selection.classes)),
        warnings=warnings,
    )


def predict_run(
    run: Run | str | Path,
    cache: FeatureCache | str | Path,
    *,
    clips: pd.DataFrame | str | Path | None = None,
    split: str | None = None,
) -> pd.DataFrame:
    """Predict clips, with or without labels, by the mean of the seeds' probabilities.

    Args:
        run: a run, or its folder.
        cache: a cache with the run's feature sets.
        clips: clip table, or its file; by default the newest of the cache.
        split: only the labelled clips of this split; None for every clip that has tokens.

    Returns:
        One row a clip: clip_id, subject_id, split, seed ("mean"), true (empty without a label), predicted,
        p_CLASS for each class.

    Raises:
        MgcliError: the run, the cache and the clip table do not go together.
    """
    run = run if isinstance(run, Run) else Run.load(run)
    selection, probabilities = _predict(run, cache, clips, split, warn)
    mean = np.mean(probabilities, axis=0)
    return prediction_table(selection.table, run.config["task"], selection.classes, mean, "mean")


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
    cache: FeatureCache | str | Path,
    clips: pd.DataFrame | str | Path | None,
    split: str | None,
    warn: Callable[[str], None],
) -> tuple[Selection, list[np.ndarray]]:
    """The clips, and (n, K) probabilities from each seed."""
    cache = cache if isinstance(cache, FeatureCache) else open_cache(cache)
    config = run.config
    if "config" not in config:
        raise RunError(f"{run.path} is an ensemble and has no weights of its own; its scores are in predictions.csv")
    selection = select_for_prediction(
        read_table(cache, clips),
        config["task"],
        _feature_sets(run, cache),
        config["classes"],
        max_tokens=config["config"]["max_tokens"],
        split=split,
        val_subjects=config["clips"]["drawn_val_subjects"],
        in_folds=config["config"].get("folds", 0) > 0,
        warn=warn,
    )
    rows = torch.arange(len(selection.table))
    probabilities = []
    for seed in config["seeds"]:
        with torch.random.fork_rng(devices=()):  # the fresh weights are replaced: leave the caller's chance alone
            head = create_head(
                config["head"],
                {name: each["dim"] for name, each in config["features"].items()},
                len(config["classes"]),
                HeadConfig(**config["config"]["head"]),
            )
        try:
            head.load_state_dict(run.state_dict(seed))
        except RuntimeError as error:
            first = str(error).strip().splitlines()[-1].strip()
            raise RunError(
                f"the weights of seed {seed} in {run.path} do not fit head {config['head']!r}: {first}"
            ) from None
        probabilities.append(predict_probabilities(head, selection.tensors, rows))
    return selection, probabilities


def _feature_sets(run: Run, cache: FeatureCache) -> dict[str, FeatureSet]:
    """The feature sets that the run was trained on, and no others."""
    found = {}
    for modality, about in run.config["features"].items():
        try:
            found[modality] = cache.feature_set(modality, about["fingerprint"])
        except CacheError as error:
            raise RunError(
                f"{run.name} was trained on {about['feature_set']} (weights {about['weights']}), which the cache "
                f"{cache.path} lacks: {error}"
            ) from None
    return found
