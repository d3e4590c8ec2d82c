"""Training the cells of a grid that nobody else trains: in stacks or one by one, each claimed first.

Who trains a cell holds a lock on `.claims/NAME` in the runs folder, which the operating system takes back however its
process ends; several workers, and several `mgcli ablate`, share a grid by it without talking.
"""

from __future__ import annotations

import fcntl
import traceback
from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mgcli.cache import FeatureCache, MgcliError, open_cache
from mgcli.fuse.grid import Cell
from mgcli.fuse.plan import is_done, why_cells_one_by_one
from mgcli.fuse.prepare import PreparedRun, prepare_run
from mgcli.fuse.run import RunError, check_writable
from mgcli.fuse.seeds import Trained, train_one_by_one, train_together
from mgcli.fuse.train import finish_run
from mgcli.fuse.usable_clips import LoadedClips

_CLAIMS = ".claims"


@dataclass(frozen=True)
class Work:
    """What every worker is told."""

    cache: Path
    task: str
    table: pd.DataFrame
    runs: Path
    notes: tuple[str, ...]
    replicas: str


def make_claims(runs: Path) -> None:
    """The folder of the claims.

    Raises:
        RunError: the runs folder cannot be written to.
    """
    check_writable(runs)
    try:
        (runs / _CLAIMS).mkdir(exist_ok=True)
    except FileExistsError:
        raise RunError(
            f"{runs / _CLAIMS} is a file, where a folder is kept; remove it, or choose another --runs"
        ) from None


def train_unclaimed(
    work: Work, groups: Sequence[Sequence[Cell]], failed: Container[str], *, may_wait: bool
) -> Iterator[tuple[Cell, str]]:
    """Train what nobody else has claimed, group after group.

    Args:
        work: what every worker is told.
        groups: of cells of one architecture each.
        failed: names of cells that are not tried again.
        may_wait: for a cell that another has claimed, until it is finished there or its claim ends.

    Returns:
        Each cell that was tried, with its fault: empty where it has its run folder now.
    """
    cache = open_cache(work.cache)
    for group in groups:
        with ExitStack() as claims:
            mine = [
                cell
                for cell in group
                if cell.name not in failed
                and not is_done(work.runs, cell)
                and claims.enter_context(_claimed(work.runs, cell, may_wait))
                and not is_done(work.runs, cell)  # finished by another between the look and the claim
            ]
            yield from _train_group(cache, work, mine)


def _train_group(cache: FeatureCache, work: Work, group: Sequence[Cell]) -> Iterator[tuple[Cell, str]]:
    """Train the cells of one architecture; each with its fault, empty where it has its run folder now."""
    with _faults() as unusable:  # such as a device that there is not
        one_by_one = not group or bool(why_cells_one_by_one(cache, group, work.replicas))
    if unusable:
        yield from ((cell, unusable[0]) for cell in group)
    elif one_by_one:
        yield from _train_one_by_one(cache, work, group)
    else:
        yield from _train_together(cache, work, group)


def _train_one_by_one(cache: FeatureCache, work: Work, group: Sequence[Cell]) -> Iterator[tuple[Cell, str]]:
    for cell in group:
        with _faults() as fault:
            prepared = _prepare(cache, work, cell)
            finish_run(prepared, list(train_one_by_one(prepared.job(), progress=False)))
        yield cell, "".join(fault)


def _train_together(cache: FeatureCache, work: Work, group: Sequence[Cell]) -> Iterator[tuple[Cell, str]]:
    """The same in stacks: a cell is finished with its last seed."""
    prepared: list[tuple[Cell, PreparedRun]] = []
    for cell in group:
        with _faults() as fault:
            loaded = prepared[0][1].loaded if prepared else None  # one architecture reads the same tokens
            prepared.append((cell, _prepare(cache, work, cell, loaded)))
        if fault:
            yield cell, fault[0]
    trained: dict[int, list[Trained]] = {place: [] for place in range(len(prepared))}
    with _faults() as broken:
        for place, each in train_together([run.job() for _, run in prepared], progress=False) if prepared else ():
            trained[place].append(each)
            cell, run = prepared[place]
            if len(trained[place]) == len(cell.seeds):
                with _faults() as fault:
                    finish_run(run, trained.pop(place))
                yield cell, "".join(fault)
    for place in trained:
        yield prepared[place][0], "".join(broken)


def _prepare(cache: FeatureCache, work: Work, cell: Cell, loaded: LoadedClips | None = None) -> PreparedRun:
    return prepare_run(
        cache,
        work.task,
        head=cell.head,
        modalities=cell.modalities,
        seeds=cell.seeds,
        config=cell.config,
        features=cell.features,
        clips=work.table,
        runs=work.runs,
        name=cell.name,
        notes=work.notes,
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
