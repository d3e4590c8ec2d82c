"""A head beside all its baselines, on the same clips with the same seeds; and what heads there are."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mgcli.cache import FeatureCache, WorkerPool, open_cache, warn
from mgcli.fuse.device import usable_cores
from mgcli.fuse.head import check_options, head_class
from mgcli.fuse.names import HEADS
from mgcli.fuse.run import Run
from mgcli.fuse.settings import TrainConfig
from mgcli.fuse.task import SINGLE, choose, get_task
from mgcli.fuse.train import train_head

JOINT_BASELINES = ("logistic", "score_average", "concat")  # what joins modalities without letting them talk


def compare_heads(
    cache: FeatureCache | str | Path,
    task: str,
    *,
    head: str | None = None,
    modalities: Sequence[str] | None = None,
    processes: int | None = None,
    **settings: Any,
) -> list[Run]:
    """Train a head and every baseline of its modalities, several at a time on a CPU.

    Args:
        cache: an open cache, or its folder.
        task: gesture or emotion.
        head: by default the task's.
        modalities: by default the task's that the cache has.
        processes: heads trained at a time; by default one a core, one with a GPU.
        settings: of `train_head`, the same for all.

    Returns:
        The runs: constant, each modality alone, the baselines that join them, the head itself last.

    Raises:
        MgcliError: as `train_head`.
    """
    opened = cache if isinstance(cache, FeatureCache) else open_cache(cache)
    chosen = choose(opened, get_task(task), head, modalities, settings.get("features"), warn)
    check_options(chosen.head, (settings.get("config") or TrainConfig()).head, warn)
    names = ["constant", *(f"{SINGLE}_{modality}" for modality in chosen.modalities)]
    if len(chosen.modalities) > 1:
        names += JOINT_BASELINES
    names = [*(name for name in names if name not in (chosen.head, chosen.label)), chosen.head]
    jobs = []
    for name in names:
        alone = name.startswith(f"{SINGLE}_")
        features = {
            key: value for key, value in (settings.get("features") or {}).items() if not alone or name.endswith(key)
        }
        asked = {"head": name, "modalities": None if alone else chosen.modalities, "features": features}
        jobs.append(partial(_train_one, opened.path, task, **{**settings, **asked}))
    if processes is None:
        processes = 1 if torch.cuda.is_available() else min(len(jobs), usable_cores())
    shown = sys.stderr.isatty()
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=len(jobs), desc=f"{task}: heads", unit="head", disable=not shown))
        if processes == 1:
            done: Iterator[Run] = (job() for job in jobs)
        else:
            pool = stack.enter_context(WorkerPool(processes))
            futures = [
                pool.submit(job, cores=1) for job in reversed(jobs)
            ]  # the head itself takes longest: it goes first
            done = (future.result() for future in reversed(futures))
        runs = []
        for run in done:
            runs.append(run)
            bar.update()
    return runs


def _train_one(cache: Path, task: str, **settings: Any) -> Run:
    """One run; what it warns of stands in the table of all."""
    return train_head(cache, task, **settings, progress=False, say=_nothing)


def _nothing(message: str) -> None:
    """Say nothing."""


def describe_heads() -> list[dict[str, Any]]:
    """One row a head: name, the first line of its class, and the options of HeadConfig that it reads."""
    rows = []
    for name in HEADS:
        kind = head_class(name)
        text = inspect.getdoc(kind) or ""
        rows.append({"name": name, "about": text.partition("\n")[0], "options": ", ".join(kind.options or ())})
    return rows
