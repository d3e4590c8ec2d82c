"""How fast stage two is on this machine: a run of several seeds against a plain loop, and how soon an epoch is over.

Everything is measured in turn in one run, on the same generated cache, and reported as medians and ratios; the
validation scores of both stand beside them, so that nobody is fast by skipping work.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from mgcli.cache import align_columns, open_cache
from mgcli.fuse.bench_input import make_bench_cache
from mgcli.fuse.bench_plain import train_plainly
from mgcli.fuse.data import token_statistics
from mgcli.fuse.device import threads_for, training_device, usable_cores
from mgcli.fuse.head import FusionHead, create_head
from mgcli.fuse.loop import fit_head
from mgcli.fuse.residency import place_clips
from mgcli.fuse.seeds import Job, train_one_by_one
from mgcli.fuse.selection import Selection, select_for_training
from mgcli.fuse.settings import TrainConfig, TrainError
from mgcli.fuse.task import Choice, choose, get_task
from mgcli.fuse.usable_clips import load_for_training

_TASK = "gesture"
_SIZES = {"video": (8, 768), "pose": (23, 256)}  # tokens a clip and their width: MViTv2-S over time, and 2s-AGCN
_VALIDATION_SHARE = 8  # one clip of so many


@dataclass(frozen=True, kw_only=True)
class FuseBenchConfig:
    """What is timed; the defaults are the setting that this project's speed is judged by."""

    head: str = "cross_modal_token_fusion"
    clips: int = 2048  # validation clips among them
    epochs: int = 3  # of each training; the plain loop's first warms up and does not count
    seeds: int = 5  # of our run, the usual number; the plain loop trains one, as more take it so many times as long
    rounds: int = 3
    workers: int = 2  # of the plain loop's data loader
    many_clips: int = 14_000  # of the time to the first epoch
    device: str = "auto"

    def __post_init__(self) -> None:
        least = {"clips": 512, "epochs": 2, "seeds": 1, "rounds": 1, "workers": 0, "many_clips": 512}
        for name, fewest in least.items():
            if getattr(self, name) < fewest:
                raise TrainError(f"{name} is {getattr(self, name)}; it must be {fewest} or more")


@dataclass(frozen=True, kw_only=True)
class LoopRate:
    """What one way of training gives."""

    how: str
    threads: int  # torch's, in the process that trains
    clips_per_s: float  # training clips over the time of an epoch, validation included; median
    val_top1: float  # of the last state


@dataclass(frozen=True, kw_only=True)
class FirstEpoch:
    """Seconds from opening a cache to the end of the first epoch, one after another; medians over the rounds."""

    head: str
    clips: int
    load_s: float  # cache opened, clips chosen, tokens where training reads them
    prepare_s: float  # statistics of the tokens, a fresh head
    epoch_s: float  # with validation

    @property
    def total_s(self) -> float:
        return self.load_s + self.prepare_s + self.epoch_s


@dataclass(frozen=True, kw_only=True)
class FuseBench:
    """What `bench_fusion` measured, and on what."""

    config: FuseBenchConfig
    device: str
    torch: str
    ours: LoopRate
    plain: tuple[LoopRate, ...]  # with torch's usual number of threads, and with one
    first_epoch: FirstEpoch

    @property
    def over_plain(self) -> float:
        """How many times as fast as the plain loop as torch sets it up."""
        return self.ours.clips_per_s / self.plain[0].clips_per_s

    @property
    def over_best_plain(self) -> float:
        """How many times as fast as the plain loop with the number of threads that suits it best."""
        return self.ours.clips_per_s / max(each.clips_per_s for each in self.plain)

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {
            "config": asdict(self.config),
            "device": self.device,
            "torch": self.torch,
            "ours": asdict(self.ours),
            "plain": [asdict(each) for each in self.plain],
            "over_plain": self.over_plain,
            "over_best_plain": self.over_best_plain,
            "first_epoch": asdict(self.first_epoch) | {"total_s": self.first_epoch.total_s},
        }

    def summary(self) -> str:
        """Two small tables with their circumstances."""
        config, first = self.config, self.first_epoch
        tokens = " + ".join(f"{num} x {dim} {name}" for name, (num, dim) in _SIZES.items())
        rows = [["", "threads a seed", "clips/s", "val top1"]]
        rows += [
            [each.how, str(each.threads), f"{each.clips_per_s:.0f}", f"{100 * each.val_top1:.1f}"]
            for each in (self.ours, *self.plain)
        ]
        return "\n".join(
            [
                f"{config.head}, {self.device}, torch {self.torch}: {config.clips} clips of {tokens} tokens, float16",
                "",
                *align_columns(rows),
                f"as fast as the plain loop: {self.over_plain:.2f} times; with its best number of threads: "
                f"{self.over_best_plain:.2f} times",
                "",
                f"from opening a cache of {first.clips} clips to the end of the first epoch of {first.head}: "
                f"{first.total_s:.2f} s",
                f"  load {first.load_s:.2f} s, statistics and head {first.prepare_s:.2f} s, "
                f"epoch {first.epoch_s:.2f} s",
            ]
        )


def bench_fusion(
    config: FuseBenchConfig | None = None, *, folder: Path | None = None, say: Callable[[str], None] = lambda text: None
) -> FuseBench:
    """Time one run, the plain loop with all threads and with one, and the first epoch of many clips, in turn.

    Args:
        config: what to time.
        folder: a temporary folder in it holds the caches, and goes at the end.
        say: told what is going on.

    Raises:
        TrainError: a setting that makes no sense, no such device.
    """
    config = config or FuseBenchConfig()
    device = training_device(config.device)
    all_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix=".mgcli-bench-", dir=folder) as work:
        say("making the caches")
        few, many = Path(work) / "few", Path(work) / "many"
        _make(few, config.clips, tuple(_SIZES))
        _make(many, config.many_clips, ("video",))
        chosen, selection = _select(few, config.head)
        timed: dict[str, list[tuple[list[float], float]]] = {"ours": [], "plain": [], "plain, one thread": []}
        first = []
        for number in range(config.rounds):
            say(f"round {number + 1} of {config.rounds}")
            timed["ours"].append(_time_ours(chosen, selection, config, device))
            timed["plain"].append(_time_plain(chosen, selection, config, device))
            torch.set_num_threads(1)
            try:
                timed["plain, one thread"].append(_time_plain(chosen, selection, config, device))
            finally:
                torch.set_num_threads(all_threads)
            first.append(_time_first_epoch(many, config.many_clips, device))
    num_train = len(selection.rows("train"))
    with threads_for(device, _tokens_a_step(selection, TrainConfig())):
        threads = {"ours": torch.get_num_threads(), "plain": all_threads, "plain, one thread": 1}
    rates = {how: _rate(how, threads[how], num_train, each) for how, each in timed.items()}
    return FuseBench(
        config=config,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        torch=torch.__version__,
        ours=rates.pop("ours"),
        plain=tuple(rates.values()),
        first_epoch=sorted(first, key=lambda each: each.total_s)[len(first) // 2],
    )


def _make(path: Path, clips: int, modalities: tuple[str, ...]) -> None:
    val_clips = clips // _VALIDATION_SHARE
    sizes = {name: _SIZES[name] for name in modalities}
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
    with threads_for(device, _tokens_a_step(selection, config)):
        history = fit_head(
            head, tensors, train, val, config, generator, on_epoch=lambda row: times.append(time.perf_counter())
        )
    return [after - before for before, after in pairwise(times)], history[-1]["val_top1"]


def _training(epochs: int) -> TrainConfig:
    return TrainConfig(epochs=epochs, min_steps=1, patience=1.0)


def _time_ours(
    chosen: Choice, selection: Selection, config: FuseBenchConfig, device: torch.device
) -> tuple[list[float], float]:
    """Seconds that an epoch of one seed takes of a whole run, from statistics to predictions; the validation score."""
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
    trained = list(train_one_by_one(job, progress=False))
    seconds = time.perf_counter() - started
    return [seconds / (config.seeds * config.epochs)], trained[-1].history[-1]["val_top1"]


def _time_plain(
    chosen: Choice, selection: Selection, config: FuseBenchConfig, device: torch.device
) -> tuple[list[float], float]:
    """Seconds of each epoch but the first, which warms up and starts the workers, and the validation score."""
    rows = {split: selection.rows(split) for split in ("train", "val")}
    seconds, val_top1 = train_plainly(
        _fresh_head(chosen, selection, device),
        chosen.feature_sets,
        {split: selection.table["clip_id"].iloc[each].tolist() for split, each in rows.items()},
        {split: selection.tensors.labels[torch.from_numpy(each)] for split, each in rows.items()},
        _training(config.epochs),
        workers=config.workers,
        device=device,
    )
    return seconds[1:], val_top1


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


def _rate(how: str, threads: int, num_train: int, rounds: list[tuple[list[float], float]]) -> LoopRate:
    epoch_s = median(seconds for epochs, _ in rounds for seconds in epochs)
    return LoopRate(how=how, threads=threads, clips_per_s=num_train / epoch_s, val_top1=rounds[-1][1])
