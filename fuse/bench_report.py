"""What the benchmark of stage two is asked, and what it says."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mgcli.cache import align_columns
from mgcli.fuse.seeds import check_replicas
from mgcli.fuse.settings import TrainConfig, TrainError

SIZES = {"video": (8, 768), "pose": (23, 256)}  # tokens a clip and their width: MViTv2-S over time, and 2s-AGCN


@dataclass(frozen=True, kw_only=True)
class FuseBenchConfig:
    """What is timed; the defaults are the setting that this project's speed is judged by."""

    head: str = "cross_modal_token_fusion"
    clips: int = 2048  # validation clips among them
    epochs: int = 3  # of each training; the plain loop's first warms up and does not count
    plain_epochs: int = 0  # of the plain loop, where it would take too long; 0: as many. Fewer tell less in the end
    seeds: int = 5  # of our run, the usual number; the plain loop trains one, as more take it so many times as long
    replicas: str = "auto"  # whether our seeds are trained together, as `fuse-train` has it
    rounds: int = 3
    workers: int = 2  # of the plain loop's data loader
    many_clips: int = 14_000  # of the time to the first epoch
    device: str = "auto"

    def __post_init__(self) -> None:
        check_replicas(self.replicas)
        TrainConfig(device=self.device)  # which checks it
        if self.plain_epochs and self.plain_epochs < 2:
            raise TrainError(f"plain_epochs is {self.plain_epochs}; it must be 2 or more, or 0 for as many as ours")
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
    run_s: float  # of our whole run: all its seeds, from statistics to predictions; median
    together: int  # of its seeds were trained in one stack
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
            "run_s": self.run_s,
            "together": self.together,
            "plain": [asdict(each) for each in self.plain],
            "over_plain": self.over_plain,
            "over_best_plain": self.over_best_plain,
            "first_epoch": asdict(self.first_epoch) | {"total_s": self.first_epoch.total_s},
        }

    def summary(self) -> str:
        """Two small tables with their circumstances."""
        config, first = self.config, self.first_epoch
        how = f"up to {self.together} together" if self.together > 1 else "each by itself"
        tokens = " + ".join(f"{num} x {dim} {name}" for name, (num, dim) in SIZES.items())
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
                f"our run, {config.seeds} training(s) of {config.epochs} epochs, {how}: {self.run_s:.1f} s",
                f"as fast as the plain loop: {self.over_plain:.2f} times; with its best number of threads: "
                f"{self.over_best_plain:.2f} times",
                "",
                f"from opening a cache of {first.clips} clips to the end of the first epoch of {first.head}: "
                f"{first.total_s:.2f} s",
                f"  load {first.load_s:.2f} s, statistics and head {first.prepare_s:.2f} s, "
                f"epoch {first.epoch_s:.2f} s",
            ]
        )
