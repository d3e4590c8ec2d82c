"""Train a head on what the cache holds, with several seeds, and keep the result as a run."""

from __future__ import annotations

import platform
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mgcli.cache import FeatureCache, Progress, media_names, open_cache, warn
from mgcli.fuse.calibration import calibrate
from mgcli.fuse.card import UNKNOWN_LICENCE, write_card
from mgcli.fuse.data import ClipTensors, token_statistics
from mgcli.fuse.device import threads_for, training_device
from mgcli.fuse.head import FittedHead, check_options, create_head
from mgcli.fuse.identity import machine, tokens_hash
from mgcli.fuse.loop import LossNotFiniteError, fit_head, predict_probabilities
from mgcli.fuse.metrics import confusion_matrix, over_seeds, scores, subject_intervals
from mgcli.fuse.predict import prediction_table
from mgcli.fuse.residency import place_clips
from mgcli.fuse.run import RUN_VERSION, Run, check_writable, group_rows, run_folder, write_run, write_stopped
from mgcli.fuse.selection import Selection, clip_list_hash, protocol_of, read_table, select_for_training
from mgcli.fuse.settings import TrainConfig, TrainError
from mgcli.fuse.task import Choice, choose, get_task
from mgcli.fuse.tracking import Tell, tracker
from mgcli.fuse.views import check_views

SCORED_SPLITS = ("val", "test")
DEFAULT_SEEDS = 5
_PACKAGES = ("mgcli", "torch", "numpy", "pandas", "safetensors", "h5py", "zarr")


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
        progress: show how far the training is, on stderr.
        say: told each warning as it comes up; the run keeps them all the same.

    Returns:
        The run; its files are on disk.

    Raises:
        MgcliError: a choice, the clip table, the cache or the runs folder does not allow it, or the loss
            stopped being a number; the message says what to do.
    """
    config = config or TrainConfig()
    cache = cache if isinstance(cache, FeatureCache) else open_cache(cache)
    warnings = list(notes)

    def note(message: str) -> None:
        warnings.append(message)
        say(message)

    chosen = choose(cache, get_task(task), head, modalities, features, note)
    check_options(chosen.head, config.head, say)
    chosen_seeds = seed_list(seeds)
    check_writable(Path(runs))
    _note_random_weights(chosen, note)
    table = read_table(cache, clips)
    check_views(chosen.feature_sets, table, config.views, note)
    selection = select_for_training(
        table,
        task,
        chosen.feature_sets,
        max_tokens=config.max_tokens,
        validation_fraction=config.validation_fraction,
        split_seed=config.split_seed,
        folds=config.folds,
        fold=config.fold,
        allow_unseen_classes=config.allow_unseen_classes,
        allow_leakage=config.allow_leakage,
        views=config.views,
        residency=config.residency,
        warn=note,
    )
    tensors, kind = place_clips(selection.tensors, training_device(config.device), config.residency, say)
    described = _describe(cache, task, protocol_of(table), chosen, selection, chosen_seeds, config, warnings)
    described["residency"] = kind
    folder_name = name or f"{run_label(task, chosen.label)}-{secrets.token_hex(3)}"
    trained: list[_Trained] = []
    try:
        with tracker(track, Path(runs), folder_name) as tell:
            for each in _train_seeds(chosen, selection, tensors, chosen_seeds, config, progress, tell):
                trained.append(each)
    except LossNotFiniteError as error:
        seed = chosen_seeds[len(trained)]
        trained += [_Trained(seed, error.state, error.history, {})] if error.state else []
        raise TrainError(f"seed {seed}: {error}{_keep_stopped(trained, described, Path(runs), folder_name)}") from None
    results = _score(trained, selection, group_rows(described))
    with run_folder(Path(runs), folder_name) as (folder, path):
        of_run = {name: results[name] for name in ("metrics", "intervals", "calibration")}
        run = Run(path=path, config=described, **of_run)
        predictions = _prediction_rows(trained, selection, task)
        write_run(folder, described, {**run.to_json(), **results}, predictions, *_history_and_states(trained))
        write_card(folder, run)
    return run


def _history_and_states(trained: list[_Trained]) -> tuple[pd.DataFrame, dict[int, dict[str, Tensor]]]:
    history = pd.DataFrame([{"seed": each.seed, **row} for each in trained for row in each.history])
    return history, {each.seed: each.state for each in trained}


def _keep_stopped(trained: list[_Trained], described: dict[str, Any], runs: Path, name: str) -> str:
    """Write down what was good until the training stopped, and say where; the last seed is the one that stopped."""
    if not trained:
        return ""
    stopped = f"stopped-{name}"
    shutil.rmtree(runs / stopped, ignore_errors=True)  # of a cell of a grid that was tried before: the same again
    with run_folder(runs, stopped) as (folder, path):
        write_stopped(folder, described, *_history_and_states(trained))
    return f". The best weights until then are in {path}"


def run_label(task: str, label: str) -> str:
    """How the folders of such runs begin."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", f"{task}-{label}")


@dataclass(frozen=True)
class _Trained:
    """What one seed gave."""

    seed: int
    state: dict[str, Tensor]
    history: list[dict[str, float]]
    probabilities: dict[str, np.ndarray]  # split -> (n, K)


def seed_list(seeds: int | Sequence[int]) -> list[int]:
    """The seeds that a number of them, or a list, names.

    Raises:
        TrainError: none, a negative one, or one twice.
    """
    listed = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not listed or not all(isinstance(seed, int) and seed >= 0 for seed in listed) or len(set(listed)) < len(listed):
        raise TrainError(f"seeds is {seeds}; give how many (1 or more), or different numbers from 0")
    return listed


def _note_random_weights(chosen: Choice, note: Any) -> None:
    for name, features in chosen.feature_sets.items():
        if features.spec.weights.startswith("random"):
            note(
                f"the {name} tokens come from a backbone with random weights ({features.spec.weights}): "
                "these scores say nothing about the trained backbone"
            )


def _train_seeds(
    chosen: Choice,
    selection: Selection,
    tensors: ClipTensors,
    seeds: list[int],
    config: TrainConfig,
    progress: bool,
    tell: Tell,
) -> Iterator[_Trained]:
    """Seed after seed; `tensors` are the selection's, where the training reads them."""
    device = tensors.labels.device
    rows = {split: torch.from_numpy(selection.rows(split)).to(device) for split in ("train", *SCORED_SPLITS)}
    statistics = token_statistics(selection.tensors, torch.from_numpy(selection.rows("train")))
    batch_size, epochs = config.plan(len(rows["train"]))
    with (
        threads_for(device, batch_size * tensors.tokens_a_clip),
        Progress(f"train {chosen.label}", epochs * len(seeds), unit="epoch", shown=progress) as bar,
    ):
        for seed in seeds:
            done = 0

            def on_epoch(row: dict[str, float], seed: int = seed) -> None:
                nonlocal done
                done += 1
                tell(seed, row)
                bar.step(f"seed {seed}, train {row['train_top1']:.3f}, val {row['val_top1']:.3f}")

            # Fresh weights, and layers of a user's own head, draw from torch's global generator.
            with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device.type == "cuda" else ()):
                torch.manual_seed(seed)
                head = create_head(chosen.head, tensors.dims, len(selection.classes), config.head)
                head.set_statistics(statistics)
                head.to(device)
                generator = torch.Generator(device).manual_seed(seed)
                history = fit_head(head, tensors, rows["train"], rows["val"], config, generator, on_epoch)
            bar.step(f"seed {seed} done", epochs - done)
            probabilities = {split: predict_probabilities(head, tensors, rows[split]) for split in SCORED_SPLITS}
            if isinstance(head, FittedHead):  # no chance in it: one fit serves every seed
                yield from (_Trained(each, head.state_dict(), history, probabilities) for each in seeds)
                return
            yield _Trained(seed, head.state_dict(), history, probabilities)


def _score(trained: list[_Trained], selection: Selection, groups: dict[str, list[int]]) -> dict[str, Any]:
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


def _prediction_rows(trained: list[_Trained], selection: Selection, task: str) -> pd.DataFrame:
    """One row per seed and clip of the scored splits."""
    parts = []
    for each in trained:
        for split in SCORED_SPLITS:
            rows = selection.table.iloc[selection.rows(split)]
            parts.append(prediction_table(rows, task, selection.classes, each.probabilities[split], each.seed))
    return pd.concat(parts, ignore_index=True)


def _describe(
    cache: FeatureCache,
    task: str,
    protocol: str | None,
    chosen: Choice,
    selection: Selection,
    seeds: list[int],
    config: TrainConfig,
    warnings: list[str],
) -> dict[str, Any]:
    """Everything that decides the run, as plain JSON values."""
    features = {
        name: {
            "feature_set": each.name,
            "fingerprint": each.spec.fingerprint,
            "backbone": each.spec.backbone,
            "weights": each.spec.weights,
            "weights_sha256": each.spec.weights_sha256,
            "licence": each.provenance.get("weights_licence", UNKNOWN_LICENCE),
            "tokens": each.spec.tokens,
            "dim": each.spec.dim,
            "tokens_hash": tokens_hash(each, selection.table, config.views),
        }
        for name, each in chosen.feature_sets.items()
    }
    return {
        "run_version": RUN_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "task": task,
        "protocol": protocol,
        "head": chosen.head,
        "label": chosen.label,
        "features": features,
        "classes": selection.classes,
        "class_groups": selection.class_groups if get_task(task).long_tailed else {},
        "seeds": seeds,
        "cache": str(cache.path.resolve()),
        "clips": {
            "hash": clip_list_hash(selection.table, task),
            "test_hash": clip_list_hash(selection.table.iloc[selection.rows("test")], task),
            "counts": selection.counts(),
            "drawn_val_subjects": selection.drawn_val_subjects,
        },
        "trained_on": _trained_on(selection, protocol, task),
        "config": asdict(config),
        "packages": {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "device": str(training_device(config.device)),
        "machine": machine(torch.get_num_threads()),
        "warnings": warnings,
    }


def _trained_on(selection: Selection, protocol: str | None, task: str) -> dict[str, Any]:
    """Whom the head learned from and was chosen by, in the words of a pose backbone's checkpoint."""
    train, val = (selection.table.iloc[selection.rows(split)] for split in ("train", "val"))
    return {
        "protocol": protocol,
        "task": task,
        "subjects": sorted(train["subject_id"].unique()),
        "videos": media_names(train),
        "epoch_chosen_by_subjects": sorted(val["subject_id"].unique()),
    }
