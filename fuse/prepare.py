"""A run before its training: what it is made of is chosen, checked and written down."""

from __future__ import annotations

import operator
import platform
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mgcli.cache import FeatureCache, media_names, open_cache
from mgcli.fuse.card import UNKNOWN_LICENCE
from mgcli.fuse.device import training_device
from mgcli.fuse.head import check_options
from mgcli.fuse.identity import machine, tokens_hash
from mgcli.fuse.run import RUN_VERSION, check_writable
from mgcli.fuse.seeds import Job
from mgcli.fuse.selection import Selection, clip_list_hash, protocol_of, select_for_training
from mgcli.fuse.settings import TrainConfig, TrainError
from mgcli.fuse.task import Choice, choose, get_task
from mgcli.fuse.tracking import Tell
from mgcli.fuse.usable_clips import LoadedClips, load_for_training, read_table
from mgcli.fuse.views import check_views

DEFAULT_SEEDS = 5
_MOST_SEEDS = 10_000  # a run of more is a slip of the finger
_PACKAGES = ("mgcli", "torch", "numpy", "pandas", "safetensors", "h5py", "zarr")


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """A run before its training: everything was chosen, and nothing speaks against it."""

    task: str
    chosen: Choice
    loaded: LoadedClips
    selection: Selection
    seeds: list[int]
    config: TrainConfig
    described: dict[str, Any]
    runs: Path
    name: str
    say: Callable[[str], None]

    def job(self, tell: Tell = lambda seed, row: None, *, cores: int = 1) -> Job:
        """What is to be trained, with so many cores of a CPU."""
        return Job(
            head=self.chosen.head,
            label=self.chosen.label,
            selection=self.selection,
            seeds=self.seeds,
            config=self.config,
            tell=tell,
            say=self.say,
            cores=cores,
        )


def prepare_run(
    cache: FeatureCache | str | Path,
    task: str,
    *,
    head: str | None,
    modalities: Sequence[str] | None,
    seeds: int | Sequence[int],
    config: TrainConfig,
    features: dict[str, str] | None,
    clips: pd.DataFrame | str | Path | None,
    runs: Path,
    name: str | None,
    notes: Sequence[str],
    say: Callable[[str], None],
    loaded: LoadedClips | None = None,
) -> PreparedRun:
    """Choose and check all that `train_head` is told.

    Args:
        loaded: the clips with their tokens, where another run has read the same already.

    Raises:
        MgcliError: as `train_head`.
    """
    _check_name(name)
    cache = cache if isinstance(cache, FeatureCache) else open_cache(cache)
    warnings = list(notes)

    def note(message: str) -> None:
        warnings.append(message)
        say(message)

    chosen = choose(cache, get_task(task), head, modalities, features, note)
    check_options(chosen.head, config.head, say)
    chosen_seeds = seed_list(seeds)
    check_writable(runs)
    _note_random_weights(chosen, note)
    if loaded is None:
        table = read_table(cache, clips)
        loaded = load_for_training(
            table,
            task,
            chosen.feature_sets,
            max_tokens=config.max_tokens,
            views=config.views,
            residency=config.residency,
        )
    check_views(chosen.feature_sets, loaded.given, config.views, note)
    selection = select_for_training(
        loaded,
        task,
        chosen.feature_sets,
        validation_fraction=config.validation_fraction,
        split_seed=config.split_seed,
        folds=config.folds,
        fold=config.fold,
        allow_unseen_classes=config.allow_unseen_classes,
        allow_leakage=config.allow_leakage,
        warn=note,
    )
    protocol = protocol_of(loaded.given)
    return PreparedRun(
        task=task,
        chosen=chosen,
        loaded=loaded,
        selection=selection,
        seeds=chosen_seeds,
        config=config,
        described=_describe(cache, task, protocol, chosen, selection, chosen_seeds, config, warnings),
        runs=runs,
        name=name or f"{run_label(task, chosen.label)}-{secrets.token_hex(3)}",
        say=say,
    )


def run_label(task: str, label: str) -> str:
    """How the folders of such runs begin."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", f"{task}-{label}")


def _check_name(name: str | None) -> None:
    """A run's folder lies in the runs folder, whatever it is called."""
    if name and (name in (".", "..") or any(mark in name for mark in "/\\\0")):
        raise TrainError(f"a run cannot be named {name!r}: the name is that of its folder in the runs folder, no path")


def seed_list(seeds: int | Sequence[int]) -> list[int]:
    """The seeds that a number of them, or a list or an array, names.

    Raises:
        TrainError: none, one that is no whole number or out of range, or one twice.
    """
    try:
        if isinstance(seeds, Iterable):
            listed = [_whole(seed) for seed in seeds]
        else:
            listed = list(range(min(_whole(seeds), _MOST_SEEDS + 1)))
    except TypeError:
        listed = []
    in_range = all(0 <= seed < 2**63 for seed in listed)  # as torch takes them
    if not 1 <= len(listed) <= _MOST_SEEDS or not in_range or len(set(listed)) < len(listed):
        raise TrainError(
            f"seeds is {seeds!r}; give how many (1 to {_MOST_SEEDS}), or different whole numbers from 0 to 2**63 - 1"
        )
    return listed


def _whole(value: Any) -> int:
    """A whole number, numpy's too; true and false are none."""
    if isinstance(value, bool | np.bool_):
        raise TypeError
    return operator.index(value)


def _note_random_weights(chosen: Choice, note: Any) -> None:
    for name, features in chosen.feature_sets.items():
        if features.spec.weights.startswith("random"):
            note(
                f"the {name} tokens come from a backbone with random weights ({features.spec.weights}): "
                "these scores say nothing about the trained backbone"
            )


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
