"""Run generators in threads, a bounded number of items ahead, and hand their items on as they come."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

Job = TypeVar("Job")
Item = TypeVar("Item")

_POLL_S = 0.1  # how often a thread that waits for room looks whether it should stop


def read_ahead(
    jobs: Iterable[Job], read: Callable[[Job], Iterator[Item]], *, workers: int, lookahead: int
) -> Generator[Item, None, None]:
    """The items of all jobs: each job's in their order, those of jobs that are read at once as they come.

    Args:
        jobs: what there is to read, each taken when it is about to be read.
        read: gives the items of one job; runs in a worker's thread.
        workers: jobs read at once; 0 reads them one by one in the caller's thread.
        lookahead: items that all workers together may be ahead of the caller, besides the one that each holds.

    Raises:
        Exception: what `read` raised, once the items before it are handed on.
    """
    if workers == 0:
        for job in jobs:
            yield from read(job)
        return
    stop = threading.Event()
    items: queue.Queue[Item | _End] = queue.Queue(maxsize=max(1, lookahead))
    todo = _Shared(iter(jobs))
    running = workers
    with ThreadPoolExecutor(workers, thread_name_prefix="mgcli-read") as pool:
        try:
            for _ in range(workers):
                pool.submit(_fill, items, read, todo, stop)
            while running:
                item = items.get()
                if not isinstance(item, _End):
                    yield item
                elif item.error is not None:
                    raise item.error
                else:
                    running -= 1
        finally:
            stop.set()  # the pool then waits for the threads to notice


@dataclass(frozen=True)
class _End:
    """The end of a thread, with the error that ended it early."""

    error: BaseException | None = None


class _Shared(Iterator[Job]):
    """An iterator that several threads take from."""

    def __init__(self, jobs: Iterator[Job]) -> None:
        self._jobs = jobs
        self._lock = threading.Lock()

    def __next__(self) -> Job:
        with self._lock:
            return next(self._jobs)


class _StoppedError(Exception):
    """The caller has left."""


def _fill(
    items: queue.Queue[Item | _End], read: Callable[[Job], Iterator[Item]], todo: Iterator[Job], stop: threading.Event
) -> None:
    """Read job after job into the queue until there are none or the caller has left."""

    def put(item: Item | _End) -> None:
        while not stop.is_set():
            try:
                return items.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
        raise _StoppedError

    try:
        try:
            for job in todo:
                for item in read(job):
                    put(item)
            put(_End())
        except _StoppedError:
            raise
        except BaseException as error:  # raised again where the queue is read
            put(_End(error))
    except _StoppedError:
        pass
