"""Training a grid on a Ray cluster: a group of cells at a time for each GPU, or for each core where there is none.

Ray tasks rather than actors: Ray finds the machine with room for a group, and all that a worker leaves is run folders.
What a lost worker did not finish is given to others, and what makes every worker die is given up after a few.

All machines need mgcli and Ray in the same versions, and see the cache and the runs folder under the same paths, on a
disk that they share and that knows file locks, or the cache in an object store. Workers are told the working folder
and the import paths of the first process, for a user's own heads that lie on the shared disk.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any

from mgcli.cache import ClusterError, FeatureCache, MgcliError, joined_cluster, open_cache, warn, worker_death
from mgcli.fuse.cells import Work, train_unclaimed
from mgcli.fuse.grid import Cell, groups
from mgcli.fuse.plan import Plan, is_done, make_plan

_LOOK_EVERY_S = 1.0
_TRIED_TOGETHER = 2  # so many workers may die of a group before its cells are tried each by itself


def train_on_cluster(
    work: Work, cells: Sequence[Cell], processes: int | None, tell: Callable[[Cell, str], None]
) -> None:
    """Train cells on the cluster that RAY_ADDRESS names, or that runs on this machine.

    Args:
        work: what every worker is told.
        cells: that have no run folder yet.
        processes: groups trained at a time; by default as many as there is room for.
        tell: told of each cell that was tried, with its fault: empty where it has its run folder now.

    Raises:
        ClusterError: Ray is not installed, or the cluster cannot be reached or has no room.
    """
    with joined_cluster() as ray:
        cluster = _Cluster(ray, cells)
        run = _ClusterRun(cluster, work, processes, tell)
        for may_wait in (False, True):  # then what another `mgcli ablate` had claimed
            run.train([cell for cell in cells if run.is_open(cell)], may_wait)


def plan_on_cluster(
    cache: FeatureCache, cells: Sequence[Cell], runs: Path, processes: int | None = None, replicas: str = "auto"
) -> Plan:
    """How `train_on_cluster` would go about these cells, as a machine of the cluster sees it.

    Raises:
        ClusterError: Ray is not installed, or the cluster cannot be reached or has no room.
    """
    with joined_cluster() as ray:
        cluster = _Cluster(ray, cells)
        places = processes or cluster.num_places()
        task = cluster.task(_plan, cells)
        try:
            plan: Plan = ray.get(task.remote(_here(), cache.path, list(cells), runs, places, replicas))
        except ray.exceptions.RayError as error:
            raise ClusterError(f"a worker of the Ray cluster cannot plan: {_why(error)}") from None
        return plan


class _Cluster:
    """What the cluster has for some cells."""

    def __init__(self, ray: Any, cells: Sequence[Cell]) -> None:
        self.ray = ray
        self._with_gpus = any(map(_may_use_gpu, cells)) and self._count("GPU") > 0

    def num_places(self) -> int:
        """How many groups can be trained at a time.

        Raises:
            ClusterError: none.
        """
        count = self._count("GPU" if self._with_gpus else "CPU")
        if not count:
            what = "GPU" if self._with_gpus else "core"
            raise ClusterError(
                f"the Ray cluster has no machine with a {what} for a worker; see `ray status`. Finished runs stay"
            )
        return count

    def task(self, function: Callable[..., Any], cells: Sequence[Cell], **options: Any) -> Any:
        """The function as a task for a worker that has what these cells need; it is not tried again by Ray."""
        num_gpus = int(self._with_gpus and any(map(_may_use_gpu, cells)))
        return self.ray.remote(function).options(num_cpus=1, num_gpus=num_gpus, max_retries=0, **options)

    def _count(self, resource: str) -> int:
        return sum(int(node["Resources"].get(resource, 0)) for node in self.ray.nodes() if node["Alive"])


class _ClusterRun:
    """Hands groups out, and hears of their cells."""

    def __init__(self, cluster: _Cluster, work: Work, processes: int | None, tell: Callable[[Cell, str], None]) -> None:
        self._cluster, self._work, self._tell = cluster, work, tell
        self._most = processes
        self._told = cluster.ray.put(work)
        self._failed: set[str] = set()

    def is_open(self, cell: Cell) -> bool:
        """Whether the cell is neither finished nor failed."""
        return cell.name not in self._failed and not is_done(self._work.runs, cell)

    def train(self, cells: Sequence[Cell], may_wait: bool) -> None:
        """Train all cells; those that another has claimed are left out, or waited for."""
        ray = self._cluster.ray
        places = self._most or self._cluster.num_places()
        waiting = [(group, 0) for group in groups(cells, places)]  # with how many workers died of it
        running: dict[Any, tuple[list[Cell], int]] = {}  # stream of a worker's words -> its group
        try:
            while waiting or running:
                while waiting and len(running) < places:
                    group, deaths = waiting.pop(0)
                    task = self._cluster.task(_train, group, num_returns="streaming")
                    running[task.remote(_here(), self._told, group, may_wait)] = group, deaths
                ready, _ = ray.wait(list(running), num_returns=1, timeout=_LOOK_EVERY_S)
                for stream in ready:
                    try:
                        self._hear(running[stream][0], *ray.get(next(stream)))
                    except StopIteration:
                        running.pop(stream)
                    except ray.exceptions.RayTaskError as error:  # it would say the same again
                        group, _ = running.pop(stream)
                        for cell in filter(self.is_open, group):
                            self._hear([cell], cell.name, f"on the cluster: {_why(error)}", "")
                    except ray.exceptions.RayError as error:
                        group, deaths = running.pop(stream)
                        waiting += self._again(group, deaths + 1, worker_death(error))
        finally:
            for stream in running:
                ray.cancel(stream, force=True)

    def _again(self, group: Sequence[Cell], deaths: int, why: str) -> list[tuple[list[Cell], int]]:
        """What is to be tried again of a group of whom so many workers died."""
        left = [cell for cell in group if self.is_open(cell)]
        if not left:
            return []
        self._cluster.num_places()  # none may be left
        if deaths > _TRIED_TOGETHER:
            fault = f"{deaths} workers of the cluster were lost with it, the last so: {why}"
            self._hear(left, left[0].name, fault, "")
            return []
        warn(f"a worker of the cluster is lost ({why}); its {len(left)} unfinished run(s) go to others")
        return [(left, deaths)] if deaths < _TRIED_TOGETHER else [([cell], deaths) for cell in left]

    def _hear(self, group: Sequence[Cell], name: str, fault: str, said: str) -> None:
        """Of one cell."""
        sys.stderr.write(said)
        self._failed.update({name} if fault else ())
        self._tell(next(cell for cell in group if cell.name == name), fault)


def _train(
    here: tuple[str, list[str]], work: Work, group: list[Cell], may_wait: bool
) -> Iterator[tuple[str, str, str]]:
    """In a worker: cell after cell of a group, with its fault and what was said on stderr meanwhile."""
    _go_there(*here)
    said = io.StringIO()
    with redirect_stderr(said):
        for cell, fault in train_unclaimed(work, [group], (), may_wait=may_wait):
            yield cell.name, fault, said.getvalue()
            said.seek(0)
            said.truncate()


def _plan(
    here: tuple[str, list[str]], cache: Path, cells: list[Cell], runs: Path, processes: int, replicas: str
) -> Plan:
    """In a worker."""
    _go_there(*here)
    return make_plan(open_cache(cache), cells, runs, processes, replicas)


def _here() -> tuple[str, list[str]]:
    """Where the first process works and what it imports from."""
    return str(Path.cwd()), sys.path


def _go_there(folder: str, import_paths: Sequence[str]) -> None:
    with suppress(OSError):
        os.chdir(folder)
    sys.path += [path for path in import_paths if path not in sys.path]


def _may_use_gpu(cell: Cell) -> bool:
    return cell.config.device != "cpu"


def _why(error: Any) -> str:
    """What went wrong in a worker that did not die of it, in a line."""
    cause = getattr(error, "cause", None)
    return str(cause) if isinstance(cause, MgcliError) else worker_death(error)
