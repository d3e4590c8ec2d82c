"""Train a head on what the cache holds, with several seeds, and keep the result as a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from mgcli.cache import FeatureCache, warn
from mgcli.fuse.calibration import calibrate
from mgcli.fuse.card import write_card
from mgcli.fuse.device import usable_cores
from mgcli.fuse.metrics import confusion_matrix, over_seeds, scores, subject_intervals
from mgcli.fuse.predict import prediction_table
from mgcli.fuse.prepare import DEFAULT_SEEDS, PreparedRun, prepare_run
from mgcli.fuse.run import Run, group_rows, run_folder, write_run, write_stopped
from mgcli.fuse.seeds import SCORED_SPLITS, Trained, train_seeds
from mgcli.fuse.selection import Selection
from mgcli.fuse.settings import TrainConfig, TrainError
from mgcli.fuse.tracking import tracker


def train_head(
    cache: FeatureCache | str | Path,
    task: str,
    *,
    head: str | None = None,
    modalities: Sequence[str] | None = None,
    seeds: int | Sequence[int] = DEFAULT_SEEDS,
    config: TrainConfig | None = None,
    features: dict[str, str] | None = None,
    clips: pd.DataFrame | str | Path | None = None,
    runs: str | Path = "runs",
    name: str | None = None,
    notes: Sequence[str] = (),
    track: str | None = None,
    replicas: str = "auto",
    cores: int | None = None,
    progress: bool = True,
    say: Callable[[str], None] = warn,
) -> Run:
    """Train a head and score it on the test clips, once, at the end.

    Args:
        cache: an open cache, or its folder.
        task: gesture or emotion.
        head: a name of HEADS, or single_MODALITY; by default the task's, `single` with one modality.
        modalities: by default the task's that the cache has, else all that it has.
        seeds: how many (0, 1, ...), or which.
        config: how to train.
        features: modality -> fingerprint or backbone, where a modality has several feature sets.
        clips: clip table, or its file; by default the newest of the cache.
        runs: folder in which the run's folder is made.
        name: of that folder; by default the task's and the head's with some hex digits.
        notes: what to warn of wherever the result is shown, such as synthetic data.
        track: a tracker that each epoch is told to while it happens: tensorboard; None for none.
        replicas: whether the seeds are trained together: on, off, or auto: on a GPU. The results are the same.
        cores: of a CPU that seeds may use side by side; by default all of this process.
        progress: show how far the training is, on stderr.
        say: told each warning as it comes up; the run keeps them all the same.

    Returns:
        The run; its files are on disk.

    Raises:
        MgcliError: a choice, the clip table, the cache or the runs folder does not allow it, or the loss
            stopped being a number; the message says what to do.
    """
    prepared = prepare_run(
        cache,
        task,
        head=head,
        modalities=modalities,
        seeds=seeds,
        config=config or TrainConfig(),
        features=features,
        clips=clips,
        runs=Path(runs),
        name=name,
        notes=notes,
        say=say,
    )
    with tracker(track, prepared.runs, prepared.name) as tell:
        trained = train_seeds(prepared.job(tell, cores=cores or usable_cores()), replicas, progress)
    return finish_run(prepared, trained)


def finish_run(prepared: PreparedRun, trained: Sequence[Trained]) -> Run:
    """Score the trainings of a run and write its folder.

    Args:
        prepared: the run.
        trained: its seeds, as they were finished; the folder has them in the order in which they were asked for.

    Raises:
        TrainError: the loss of one of them stopped being a number; what was good until then is kept.
        RunError: the disk does not let us.
    """
    trained = sorted(trained, key=lambda each: prepared.seeds.index(each.seed))
    how = {"replicas": max(each.replicas for each in trained), "residency": trained[0].residency}
    described = prepared.described | how
    stopped = [each for each in trained if each.error]
    if stopped:
        good = [each for each in trained if each.state]
        kept = _keep_stopped(good, described, prepared.runs, prepared.name)
        raise TrainError(f"seed {stopped[0].seed}: {stopped[0].error}{kept}")
    results = _score(trained, prepared.selection, group_rows(described))
    with run_folder(prepared.runs, prepared.name) as (folder, path):
        of_run = {name: results[name] for name in ("metrics", "intervals", "calibration")}
        run = Run(path=path, config=described, **of_run)
        predictions = _prediction_rows(trained, prepared.selection, prepared.task)
        write_run(folder, described, {**run.to_json(), **results}, predictions, *_history_and_states(trained))
        write_card(folder, run)
    return run


def _history_and_states(trained: Sequence[Trained]) -> tuple[pd.DataFrame, dict[int, dict[str, Tensor]]]:
    history = pd.DataFrame([{"seed": each.seed, **row} for each in trained for row in each.history])
    return history, {each.seed: each.state for each in trained}


def _keep_stopped(trained: Sequence[Trained], described: dict[str, Any], runs: Path, name: str) -> str:
    """Write down what was good until the training stopped, and say where; the last seed is the one that stopped."""
    if not trained:
        return ""
    stopped = f"stopped-{name}"
    shutil.rmtree(runs / stopped, ignore_errors=True)  # of a cell of a grid that was tried before: the same again
    with run_folder(runs, stopped) as (folder, path):
        write_stopped(folder, described, *_history_and_states(trained))
    return f". The best weights until then are in {path}"


def _score(trained: Sequence[Trained], selection: Selection, groups: dict[str, list[int]]) -> dict[str, Any]:
    """Scores, intervals, confusion matrices (summed over the seeds) and calibration of each split that has clips."""
    metrics: dict[str, Any] = {}
    intervals: dict[str, Any] = {}
    confusion: dict[str, Any] = {}
    labels, num_classes = selection.tensors.labels.numpy(), len(selection.classes)
    subjects = selection.table["subject_id"].to_numpy()
    of_split: dict[str, tuple[np.ndarray, list[np.ndarray]]] = {}
    for split in SCORED_SPLITS:
        rows = selection.rows(split)
        if not len(rows):
            metrics[split], intervals[split] = {}, {}
            continue
        of_split[split] = labels[rows], [each.probabilities[split] for each in trained]
        predicted = [each.probabilities[split].argmax(axis=1) for each in trained]
        metrics[split] = over_seeds([scores(labels[rows], each.probabilities[split], groups) for each in trained])
        intervals[split] = subject_intervals(labels[rows], predicted, subjects[rows], num_classes)
        matrices = [confusion_matrix(labels[rows], each, num_classes) for each in predicted]
        confusion[split] = np.sum(matrices, axis=0).tolist()
    val_labels, fit = of_split.pop("val")
    calibration = calibrate(fit, val_labels, of_split)
    return {"metrics": metrics, "intervals": intervals, "confusion": confusion, "calibration": calibration}


def _prediction_rows(trained: Sequence[Trained], selection: Selection, task: str) -> pd.DataFrame:
    """One row per seed and clip of the scored splits."""
    parts = []
    for each in trained:
        for split in SCORED_SPLITS:
            rows = selection.table.iloc[selection.rows(split)]
            parts.append(prediction_table(rows, task, selection.classes, each.probabilities[split], each.seed))
    return pd.concat(parts, ignore_index=True)
