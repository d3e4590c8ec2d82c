"""How fast stage two is on this machine: a run of several seeds against a plain loop, and how soon an epoch is over.

Everything is measured in turn in one run, on the same generated cache, and reported as medians and ratios; the
validation scores of both stand beside them, so that nobody is fast by skipping work.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch

from mgcli.cache import open_cache
from mgcli.fuse.bench_input import make_bench_cache
from mgcli.fuse.bench_plain import train_plainly
from mgcli.fuse.bench_report import SIZES, FirstEpoch, FuseBench, FuseBenchConfig, LoopRate
from mgcli.fuse.device import computing_on, num_threads, training_device, usable_cores
from mgcli.fuse.head import FittedHead, FusionHead, create_head, head_class
from mgcli.fuse.loop import fit_head
from mgcli.fuse.residency import place_clips
from mgcli.fuse.seeds import Job, train_seeds
from mgcli.fuse.selection import Selection, select_for_training
from mgcli.fuse.settings import TrainConfig, TrainError
from mgcli.fuse.task import SINGLE, Choice, choose, get_task
from mgcli.fuse.token_statistics import token_statistics
from mgcli.fuse.usable_clips import load_for_training

_TASK = "gesture"
_VALIDATION_SHARE = 8  # one clip of so many


def bench_fusion(
    config: FuseBenchConfig | None = None, *, folder: Path | None = None, say: Callable[[str], None] = lambda text: None
) -> FuseBench:
    """Time one run, the plain loop with all threads and with one, and the first epoch of many clips, in turn.

    Args:
        config: what to time.
        folder: a temporary folder in it holds the caches, and goes at the end.
        say: told what is going on.

    Raises:
        HeadError: no such head.
        TrainError: a setting that makes no sense, a head without a training loop, no such device or folder.
    """
    config = config or FuseBenchConfig()
    name = SINGLE if config.head.startswith(f"{SINGLE}_") else config.head
    if issubclass(head_class(name), FittedHead):
        raise TrainError(f"head {config.head!r} has no training loop to time; choose another with --head")
    if folder is not None and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise TrainError(f"no folder {folder} that can be written to; make it first, or choose another with --folder")
    device = training_device(config.device)
    all_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix=".mgcli-bench-", dir=folder) as work:
        say("making the caches")
        few, many = Path(work) / "few", Path(work) / "many"
        _make(few, config.clips, tuple(SIZES))
        _make(many, config.many_clips, ("video",))
        chosen, selection = _select(few, config.head)
        timed: dict[str, list[_Timed]] = {"ours": [], "plain": [], "plain, one thread": []}
        first = []
        for number in range(config.rounds):
            say(f"round {number + 1} of {config.rounds}")
            timed["ours"].append(_time_ours(chosen, selection, config, device))
            timed["plain"].append(_time_plain(chosen, selection, config, device))
            with num_threads(1):
                timed["plain, one thread"].append(_time_plain(chosen, selection, config, device))
            first.append(_time_first_epoch(many, config.many_clips, device))
    num_train = len(selection.rows("train"))
    with computing_on(device, _tokens_a_step(selection, TrainConfig())):
        threads = {"ours": torch.get_num_threads(), "plain": all_threads, "plain, one thread": 1}
    rates = {how: _rate(how, threads[how], num_train, each) for how, each in timed.items()}
    runs = timed["ours"]
    return FuseBench(
        config=config,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        torch=torch.__version__,
        ours=rates.pop("ours"),
        run_s=median(each.seconds for each in runs),
        together=max(each.together for each in runs),
        plain=tuple(rates.values()),
        first_epoch=sorted(first, key=lambda each: each.total_s)[len(first) // 2],
    )


def _make(path: Path, clips: int, modalities: tuple[str, ...]) -> None:
    val_clips = clips // _VALIDATION_SHARE
    sizes = {name: SIZES[name] for name in modalities}
    make_bench_cache(path, sizes, train_clips=clips - val_clips, val_clips=val_clips)


def _select(path: Path, head: str | None) -> tuple[Choice, Selection]:
    """As `train_head` begins: from the cache's folder to tokens that can be trained on."""
    cache, config = open_cache(path), TrainConfig()
    chosen = choose(cache, get_task(_TASK), head)
    loaded = load_for_training(cache.read_clips(), _TASK, chosen.feature_sets, max_tokens=config.max_tokens)
    selection = select_for_training(
        loaded,
        _TASK,
        chosen.feature_sets,
        validation_fraction=config.validation_fraction,
        split_seed=config.split_seed,
        folds=config.folds,
        fold=config.fold,
        allow_unseen_classes=config.allow_unseen_classes,
        allow_leakage=config.allow_leakage,
        warn=lambda text: None,  # there are no test clips
    )
    return chosen, selection


def _fresh_head(chosen: Choice, selection: Selection, device: torch.device) -> FusionHead:
    with num_threads(1):
        statistics = token_statistics(selection.tensors, torch.from_numpy(selection.rows("train")))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        head = create_head(chosen.head, selection.tensors.dims, len(selection.classes))
    head.set_statistics(statistics)
    return head.to(device)


def _tokens_a_step(selection: Selection, config: TrainConfig) -> float:
    return config.plan(len(selection.rows("train")))[0] * selection.tensors.tokens_a_clip


def _fit(
    head: FusionHead, selection: Selection, config: TrainConfig, device: torch.device
) -> tuple[list[float], float]:
    """Seconds of each epoch of our training, and the share of validation clips that the last state got right."""
    times = [time.perf_counter()]
    tensors, _ = place_clips(selection.tensors, device, config.residency, lambda text: None)
    train, val = (torch.from_numpy(selection.rows(split)).to(device) for split in ("train", "val"))
    generator = torch.Generator(device).manual_seed(0)
    with computing_on(device, _tokens_a_step(selection, config)):
        history = fit_head(
            head, tensors, train, val, config, generator, on_epoch=lambda row: times.append(time.perf_counter())
        )
    return [after - before for before, after in pairwise(times)], history[-1]["val_top1"]


def _training(epochs: int) -> TrainConfig:
    return TrainConfig(epochs=epochs, min_steps=1, patience=1.0)


@dataclass(frozen=True)
class _Timed:
    """One round of one way to train."""

    seconds: float  # of it all
    epochs_s: list[float]  # of one seed
    val_top1: float
    together: int = 1


def _time_ours(chosen: Choice, selection: Selection, config: FuseBenchConfig, device: torch.device) -> _Timed:
    """A whole run, from statistics to predictions."""
    job = Job(
        head=chosen.head,
        label=chosen.label,
        selection=selection,
        seeds=range(config.seeds),
        config=replace(_training(config.epochs), device=config.device),
        tell=lambda seed, row: None,
        say=lambda text: None,
        cores=usable_cores(),
    )
    started = time.perf_counter()
    trained = train_seeds(job, config.replicas, progress=False)
    seconds = time.perf_counter() - started
    val_top1 = trained[-1].history[-1]["val_top1"]
    return _Timed(seconds, [seconds / (config.seeds * config.epochs)], val_top1, max(e.replicas for e in trained))


def _time_plain(chosen: Choice, selection: Selection, config: FuseBenchConfig, device: torch.device) -> _Timed:
    """One training; its first epoch, which warms up and starts the workers, is not among `epochs_s`."""
    rows = {split: selection.rows(split) for split in ("train", "val")}
    seconds, val_top1 = train_plainly(
        _fresh_head(chosen, selection, device),
        chosen.feature_sets,
        {split: selection.table["clip_id"].iloc[each].tolist() for split, each in rows.items()},
        {split: selection.tensors.labels[torch.from_numpy(each)] for split, each in rows.items()},
        _training(config.plain_epochs or config.epochs),
        workers=config.workers,
        device=device,
    )
    return _Timed(sum(seconds), seconds[1:], val_top1)


def _time_first_epoch(path: Path, clips: int, device: torch.device) -> FirstEpoch:
    times = [time.perf_counter()]
    chosen, selection = _select(path, None)
    times.append(time.perf_counter())
    head = _fresh_head(chosen, selection, device)
    times.append(time.perf_counter())
    _fit(head, selection, _training(1), device)
    times.append(time.perf_counter())
    load_s, prepare_s, epoch_s = (after - before for before, after in pairwise(times))
    return FirstEpoch(head=chosen.label, clips=clips, load_s=load_s, prepare_s=prepare_s, epoch_s=epoch_s)


def _rate(how: str, threads: int, num_train: int, rounds: list[_Timed]) -> LoopRate:
    epoch_s = median(seconds for each in rounds for seconds in each.epochs_s)
    return LoopRate(how=how, threads=threads, clips_per_s=num_train / epoch_s, val_top1=rounds[-1].val_top1)
