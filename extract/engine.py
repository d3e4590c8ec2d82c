"""Where the workers of one run are: in processes of this machine, or on a Ray cluster. All speak the same messages.

A worker is one run of `run_extraction` with a feed (see `worker.py`): it plans, asks for one video after another, and
tells how its clips went, until there is no video left for it. `coordinate.py` is on the other side.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mgcli.cache import ENGINES, Failure, MgcliError

if TYPE_CHECKING:
    import pandas as pd

    from mgcli.extract.plan import Extraction
    from mgcli.extract.run_clock import RunProfile

ClipKey = tuple[str, str, int]  # modality, clip id, view


class EngineError(MgcliError):
    """Workers that cannot be asked for, cannot be started, or are lost."""


@dataclass(frozen=True)
class WorkerTask:
    """What a worker is told when it starts."""

    name: str  # of the worker, for people
    cache: str
    marker: str  # a file in the cache, by which a worker knows that it sees the same one
    table: pd.DataFrame  # with sources
    extraction: Extraction
    device: str | None


@dataclass(frozen=True)
class FileWork:
    """The clips of one video, or skeleton file without one, that are left to do."""

    file: str
    is_there: bool  # as the process that started the run sees it
    work_s: float  # see `shard.work_s`
    clips: dict[ClipKey, str]  # -> source


@dataclass(frozen=True)
class PlannedModality:
    """One modality of a worker's plan."""

    modality: str
    feature_set: str
    weights: str
    num_skipped: int  # clips that are in the cache already
    views: int = 0  # how many augmented views are asked for
    num_views_skipped: int = 0  # that are


@dataclass(frozen=True)
class Planned:
    """A worker is ready; this is what it finds to do, and what is to be said of it."""

    modalities: list[PlannedModality]
    files: list[FileWork]
    notes: list[str]
    warnings: list[str]


@dataclass(frozen=True)
class Asking:
    """A worker wants the next file."""


@dataclass(frozen=True)
class ClipsOver:
    """Clips are done or failed since the last word, and how the worker stands."""

    num_over: int
    failures: list[tuple[ClipKey, Failure]] = field(default_factory=list)
    lately: RunProfile | None = None  # of the last seconds; None: as before
    so_far: RunProfile | None = None  # since the worker began: what counts if it is lost


@dataclass(frozen=True)
class Warned:
    """Something that a person should know."""

    message: str


@dataclass(frozen=True)
class Ended:
    """A worker has committed what is whole and leaves, because there is no more for it or because of an error."""

    error: BaseException | None = None
    trace: str = ""
    profile: RunProfile | None = None  # of a worker that did all it was given


@dataclass(frozen=True)
class Lost:
    """A worker died without a word; the engine says so in its place."""

    reason: str


Message = Planned | Asking | ClipsOver | Warned | Ended | Lost


class Engine(ABC):
    """Starts workers in its slots, at most one in each at a time, and carries messages."""

    slots: Sequence[str]  # a name for each, for people

    @abstractmethod
    def start(self, slot: int, task: WorkerTask) -> None:
        """Start a worker.

        Raises:
            EngineError: none can be started there any more.
        """

    @abstractmethod
    def device(self, slot: int) -> str | None:
        """What a worker there computes on; None: it finds out."""

    @abstractmethod
    def wait(self, timeout_s: float) -> list[tuple[int, Message]]:
        """Messages of the workers, by slot; after `Ended` or `Lost` the slot is free."""

    @abstractmethod
    def answer(self, slot: int, file: FileWork | None) -> None:
        """The next file for a worker that asks; None: there is no more for it."""

    @abstractmethod
    def stop(self) -> None:
        """Ask all workers to commit what is whole and to end; go on waiting for their last words."""

    @abstractmethod
    def close(self) -> None:
        """End all that is still there."""


def choose_engine(engine: str | None, devices: Sequence[str] | None, device: str | None) -> Engine | None:
    """The engine asked for; None where this process does all by itself.

    Raises:
        EngineError: an unknown engine, one that cannot be reached, a device that is not there, or options that do
            not go together.
    """
    if devices is not None and device is not None:
        raise EngineError("a run has one device or several devices; give either of them")
    if engine is not None and engine not in ENGINES:
        raise EngineError(f"unknown engine {engine!r}; known: {', '.join(ENGINES)}")
    if engine == "ray":
        if devices is not None:
            raise EngineError("Ray gives each worker its device; give engine ray without devices")
        from mgcli.extract.engine_ray import RayEngine

        return RayEngine(device)
    if devices is None:
        return None
    from mgcli.extract.engine_processes import ProcessEngine

    return ProcessEngine(devices)


@contextmanager
def share_of_cores(index: int, count: int) -> Iterator[None]:
    """Keep this thread, and all that it starts meanwhile, to one of several equal shares of the machine's cores.

    Decoders and network of a worker then divide that share between them, and stay near their memory.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    cores = sorted(before)
    start, stop = index * len(cores) // count, (index + 1) * len(cores) // count
    os.sched_setaffinity(0, cores[start:stop] or [cores[index % len(cores)]])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
