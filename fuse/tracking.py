"""Telling a tracker of each epoch while a training runs; `history.csv` is written at the end in any case."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mgcli.cache import MgcliError

TRACKERS = ("tensorboard",)
FOLDER = "tensorboard"  # in the runs folder

Tell = Callable[[int, dict[str, float]], None]  # a seed, and a row of its history


class TrackingError(MgcliError):
    """A tracker that does not exist, or is not installed."""


@contextmanager
def tracker(name: str | None, runs: Path, run_name: str) -> Iterator[Tell]:
    """Something to tell each epoch to; with None, nobody listens.

    TensorBoard's files go to RUNS/tensorboard/RUN/seedN: look at them with `tensorboard --logdir RUNS/tensorboard`.

    Raises:
        TrackingError: no such tracker, or it is not installed.
    """
    if name is None:
        yield lambda seed, row: None
        return
    if name not in TRACKERS:
        near = difflib.get_close_matches(name, TRACKERS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise TrackingError(f"unknown tracker {name!r}; {hint}All: {', '.join(TRACKERS)}")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrackingError(f"tensorboard is not installed ({error}): pip install 'mgcli[tracking]'") from None
    writers: dict[int, SummaryWriter] = {}

    def tell(seed: int, row: dict[str, float]) -> None:
        if seed not in writers:
            writers[seed] = SummaryWriter(str(runs / FOLDER / run_name / f"seed{seed}"))
        for key, value in row.items():
            if key not in ("epoch", "step"):
                writers[seed].add_scalar(key, value, int(row["step"]))

    try:
        yield tell
    finally:
        for writer in writers.values():
            writer.close()
