"""Training a grid: resumed after any kill, shared by several processes or a cluster, no run done twice.

A finished cell is a run folder whose name ends in a hash of all that decides it: that it is there is all that a
resumed grid needs to know.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait as wait_for
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import pandas as pd

from mgcli.cache import ENGINES, FeatureCache, Progress, StoppedError, shielded_children
from mgcli.fuse.cells import Work, make_claims, train_unclaimed
from mgcli.fuse.grid import Cell, groups
from mgcli.fuse.plan import blocked, is_done, num_workers
from mgcli.fuse.seeds import check_replicas
from mgcli.fuse.settings import TrainError

_LOOK_EVERY_S = 0.2
_KILLED = "its process ended without a word (killed, or out of memory); run the same command again to go on"


@dataclass
class Outcome:
    """How far a grid is."""

    done: list[Cell] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # cell -> why
    left: list[Cell] = field(default_factory=list)  # where it was stopped

    def lose(self, damaged: Mapping[str, str]) -> None:
        """Runs that cannot be read, cell -> why, are failed and not done."""
        self.done = [cell for cell in self.done if cell.name not in damaged]
        self.failed |= damaged


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
    engine: str | None = None,
) -> Outcome:
    """Train the cells that have no run folder yet; Ctrl-C stops between two steps and keeps what is finished.

    Args:
        cache: where the tokens are.
        task: gesture or emotion.
        cells: of a grid.
        table: the clip table that they were planned on.
        runs: folder of the runs.
        notes: what to warn of wherever a result is shown.
        processes: cells trained at a time; by default one a core, one with a GPU, of the whole cluster with `engine`.
        replicas: whether cells of one architecture are trained together: on, off, or auto: on a GPU.
        engine: of ENGINES: ray trains on the cluster that RAY_ADDRESS names; None: on this machine alone.

    Raises:
        ClusterError: Ray is not installed, or the cluster cannot be reached or has no room.
        RunError: the runs folder cannot be written to.
        TrainError: no such choice of `replicas` or `engine`.
    """
    check_replicas(replicas)
    if engine not in (None, *ENGINES):
        raise TrainError(f"unknown engine {engine!r}; known: {', '.join(ENGINES)}")
    make_claims(runs)
    failed = {cell.name: why for cell in cells if (why := blocked(runs, cell))}
    todo = [cell for cell in cells if not is_done(runs, cell) and cell.name not in failed]
    work = Work(cache.path, task, table, runs, tuple(notes), replicas)
    with suppress(KeyboardInterrupt), Progress(f"{task}: grid", len(todo), unit="run") as bar:

        def tell(cell: Cell, fault: str) -> None:
            failed.update({cell.name: fault} if fault else {})
            bar.step(cell.label)

        if engine == "ray":
            from mgcli.fuse.engine_ray import train_on_cluster

            train_on_cluster(work, todo, processes, tell)
        else:
            _train_here(work, todo, num_workers(len(todo), processes), failed, tell)
    done = [cell for cell in cells if is_done(runs, cell)]
    finished = {cell.name for cell in done}
    return Outcome(done, failed, [cell for cell in cells if cell.name not in finished | set(failed)])


def _train_here(
    work: Work, cells: Sequence[Cell], workers: int, failed: dict[str, str], tell: Callable[[Cell, str], None]
) -> None:
    """On this machine, by so many processes."""
    in_groups = groups(cells, workers)
    if workers > 1:
        _train_side_by_side(work, in_groups, workers, failed, tell)
    for may_wait in (False, True)[workers > 1 :]:  # at last what another `mgcli ablate` had claimed
        for cell, fault in train_unclaimed(work, in_groups, failed, may_wait=may_wait):
            tell(cell, fault)


def _train_side_by_side(
    work: Work,
    in_groups: Sequence[Sequence[Cell]],
    processes: int,
    failed: dict[str, str],
    tell: Callable[[Cell, str], None],
) -> None:
    """The same by several processes; one that is killed costs its own cell."""
    cells = {cell.name: cell for group in in_groups for cell in group}
    context = get_context("spawn")  # a fork of a process with running threads may hang
    results: SimpleQueue[tuple[str, str]] = context.SimpleQueue()
    workers = [context.Process(target=_worker, args=(work, in_groups, results), daemon=True) for _ in range(processes)]

    def look() -> None:
        while not results.empty():
            name, fault = results.get()
            tell(cells[name], fault)

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
        for cell in cells.values():
            if not is_done(work.runs, cell):
                failed.setdefault(cell.name, _KILLED)


def _worker(work: Work, in_groups: Sequence[Sequence[Cell]], results: SimpleQueue[tuple[str, str]]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for cell, fault in train_unclaimed(work, in_groups, (), may_wait=False):
        results.put((cell.name, fault))


def _end_with_parent() -> None:
    """A worker whose parent was killed must not go on by itself."""
    parent = parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


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
