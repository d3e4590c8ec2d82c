"""Training a grid: resumed after any kill, shared by several processes, no run done twice.

A finished cell is a run folder whose name ends in a hash of all that decides it: that it is there is all that a
resumed grid needs to know. Who trains a cell holds a lock on `.claims/NAME`, which the operating system takes back
however its process ends; several workers, and several `mgcli ablate`, share a grid by it without talking.
"""

from __future__ import annotations

import fcntl
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait as wait_for
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import pandas as pd

from mgcli.cache import FeatureCache, MgcliError, Progress, StoppedError, open_cache, shielded_children
from mgcli.fuse.grid import Cell, groups
from mgcli.fuse.plan import is_done, num_workers, why_cells_one_by_one
from mgcli.fuse.prepare import PreparedRun, prepare_run
from mgcli.fuse.run import check_writable
from mgcli.fuse.seeds import Trained, check_replicas, train_one_by_one, train_together
from mgcli.fuse.selection import LoadedClips
from mgcli.fuse.train import finish_run

_CLAIMS = ".claims"
_LOOK_EVERY_S = 0.2
_KILLED = "its process ended without a word (killed, or out of memory); run the same command again to go on"


@dataclass
class Outcome:
    """How far a grid is."""

    done: list[Cell] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # cell -> why
    left: list[Cell] = field(default_factory=list)  # where it was stopped


def train_cells(
    cache: FeatureCache,
    task: str,
    cells: Sequence[Cell],
    table: pd.DataFrame,
    runs: Path,
    *,
    notes: Sequence[str] = (),
    processes: int | None = None,
    replicas: str = "auto",
) -> Outcome:
    """Train the cells that have no run folder yet; Ctrl-C stops between two steps and keeps what is finished.

    Args:
        cache: where the tokens are.
        task: gesture or emotion.
        cells: of a grid.
        table: the clip table that they were planned on.
        runs: folder of the runs.
        notes: what to warn of wherever a result is shown.
        processes: cells trained at a time; by default one a core, one with a GPU.
        replicas: whether cells of one architecture are trained together: on, off, or auto: on a GPU.

    Raises:
        RunError: the runs folder cannot be written to.
        TrainError: no such choice of `replicas`.
    """
    check_replicas(replicas)
    check_writable(runs)
    (runs / _CLAIMS).mkdir(exist_ok=True)
    todo = [cell for cell in cells if not is_done(runs, cell)]
    workers = num_workers(len(todo), processes)
    work = _Work(cache.path, task, groups(todo, workers), table, runs, tuple(notes), replicas)
    failed: dict[str, str] = {}
    with suppress(KeyboardInterrupt), Progress(f"{task}: grid", len(todo), unit="run") as bar:
        if workers > 1:
            _train_side_by_side(work, workers, bar, failed)
        else:
            _train(work, bar, failed, may_wait=False)
        _train(work, bar, failed, may_wait=True)  # what another `mgcli ablate` had claimed
    done = [cell for cell in cells if is_done(runs, cell)]
    finished = {cell.name for cell in done}
    return Outcome(done, failed, [cell for cell in cells if cell.name not in finished | set(failed)])


def train_group(
    cache: FeatureCache,
    task: str,
    group: Sequence[Cell],
    table: pd.DataFrame,
    runs: Path,
    notes: Sequence[str],
    replicas: str,
) -> Iterator[tuple[Cell, str]]:
    """Train the cells of one architecture; each with its fault, empty where it has its run folder now."""
    with _faults() as unusable:  # such as a device that there is not
        one_by_one = not group or bool(why_cells_one_by_one(cache, group, replicas))
    if unusable:
        yield from ((cell, unusable[0]) for cell in group)
    elif one_by_one:
        yield from _train_one_by_one(cache, task, group, table, runs, notes)
    else:
        yield from _train_together(cache, task, group, table, runs, notes)


def _train_one_by_one(
    cache: FeatureCache, task: str, group: Sequence[Cell], table: pd.DataFrame, runs: Path, notes: Sequence[str]
) -> Iterator[tuple[Cell, str]]:
    for cell in group:
        with _faults() as fault:
            prepared = _prepare(cache, task, cell, table, runs, notes)
            finish_run(prepared, list(train_one_by_one(prepared.job(), progress=False)))
        yield cell, "".join(fault)


def _train_together(
    cache: FeatureCache, task: str, group: Sequence[Cell], table: pd.DataFrame, runs: Path, notes: Sequence[str]
) -> Iterator[tuple[Cell, str]]:
    """The same in stacks: a cell is finished with its last seed."""
    prepared: list[tuple[Cell, PreparedRun]] = []
    for cell in group:
        with _faults() as fault:
            loaded = prepared[0][1].loaded if prepared else None  # one architecture reads the same tokens
            prepared.append((cell, _prepare(cache, task, cell, table, runs, notes, loaded)))
        if fault:
            yield cell, fault[0]
    trained: dict[int, list[Trained]] = {place: [] for place in range(len(prepared))}
    with _faults() as broken:
        for place, each in train_together([run.job() for _, run in prepared], progress=False) if prepared else ():
            trained[place].append(each)
            cell, run = prepared[place]
            if len(trained[place]) == len(cell.seeds):
                with _faults() as fault:
                    finish_run(run, sorted(trained.pop(place), key=lambda each: cell.seeds.index(each.seed)))
                yield cell, "".join(fault)
    for place in trained:
        yield prepared[place][0], "".join(broken)


def _prepare(
    cache: FeatureCache,
    task: str,
    cell: Cell,
    table: pd.DataFrame,
    runs: Path,
    notes: Sequence[str],
    loaded: LoadedClips | None = None,
) -> PreparedRun:
    return prepare_run(
        cache,
        task,
        head=cell.head,
        modalities=cell.modalities,
        seeds=cell.seeds,
        config=cell.config,
        features=cell.features,
        clips=table,
        runs=runs,
        name=cell.name,
        notes=notes,
        say=_nothing,
        loaded=loaded,
    )


@contextmanager
def _faults() -> Iterator[list[str]]:
    """Collects what goes wrong in the block, which ends there; the other cells go on."""
    found: list[str] = []
    try:
        yield found
    except MgcliError as error:
        found.append(str(error))
    except Exception as error:  # a bug, perhaps in a user's own head
        traceback.print_exc()
        found.append(f"{type(error).__name__}: {error}")


@dataclass(frozen=True)
class _Work:
    """What every worker is told."""

    cache: Path
    task: str
    groups: list[list[Cell]]
    table: pd.DataFrame
    runs: Path
    notes: tuple[str, ...]
    replicas: str


def _train(work: _Work, bar: Progress, failed: dict[str, str], *, may_wait: bool) -> None:
    """Train what nobody else has claimed, group after group, and note what fails."""
    for cell, fault in _each(work, failed, may_wait):
        failed.update({cell.name: fault} if fault else {})
        bar.step(cell.label)


def _each(work: _Work, failed: Mapping[str, str], may_wait: bool) -> Iterator[tuple[Cell, str]]:
    cache = open_cache(work.cache)
    for group in work.groups:
        with ExitStack() as claims:
            mine = [
                cell
                for cell in group
                if cell.name not in failed
                and not is_done(work.runs, cell)
                and claims.enter_context(_claimed(work.runs, cell, may_wait))
                and not is_done(work.runs, cell)  # finished by another between the look and the claim
            ]
            yield from train_group(cache, work.task, mine, work.table, work.runs, work.notes, work.replicas)


def _train_side_by_side(work: _Work, processes: int, bar: Progress, failed: dict[str, str]) -> None:
    """The same by several processes; one that is killed costs its own cell."""
    context = get_context("spawn")  # a fork of a process with running threads may hang
    results: SimpleQueue[tuple[str, str]] = context.SimpleQueue()
    workers = [context.Process(target=_worker, args=(work, results), daemon=True) for _ in range(processes)]

    def look() -> None:
        while not results.empty():
            name, fault = results.get()
            failed.update({name: fault} if fault else {})
            bar.step()

    try:
        with shielded_children():
            for worker in workers:
                worker.start()
        while any(worker.is_alive() for worker in workers):
            look()
            time.sleep(_LOOK_EVERY_S)
        look()
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
    if any(worker.exitcode for worker in workers):
        for cell in (cell for group in work.groups for cell in group if not is_done(work.runs, cell)):
            failed.setdefault(cell.name, _KILLED)


def _worker(work: _Work, results: SimpleQueue[tuple[str, str]]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for cell, fault in _each(work, {}, may_wait=False):
        results.put((cell.name, fault))


def _end_with_parent() -> None:
    """A worker whose parent was killed must not go on by itself."""
    parent = parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


@contextmanager
def _claimed(runs: Path, cell: Cell, may_wait: bool) -> Iterator[bool]:
    """Whether this process alone may train the cell, until the block ends or the process does."""
    path = runs / _CLAIMS / cell.name
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if may_wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def _nothing(message: str) -> None:
    """Warnings stand in the table, once for all runs."""


def report_failures(outcome: Outcome) -> None:
    """What failed, on stderr."""
    for name, fault in outcome.failed.items():
        print(f"failed: {name}: {fault}", file=sys.stderr)


def raise_if_stopped(outcome: Outcome) -> None:
    """Say that Ctrl-C left something to do, once the tables of the rest are written.

    Raises:
        StoppedError: it did.
    """
    if outcome.left:
        total = len(outcome.done) + len(outcome.failed) + len(outcome.left)
        raise StoppedError(f"{len(outcome.done)} of {total} runs are finished; run the same command again to go on")
