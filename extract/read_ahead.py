"""Run generators in threads, a bounded number of items ahead, and hand their items on in the order of the jobs."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

Job = TypeVar("Job")
Item = TypeVar("Item")

_POLL_S = 0.1  # how often a thread that waits for room looks whether it should stop


def read_ahead(
    jobs: Iterable[Job], read: Callable[[Job], Iterator[Item]], *, workers: int, lookahead: int
) -> Generator[Item, None, None]:
    """All items of the first job, then all of the second, ... whatever the number of workers.

    Args:
        jobs: what there is to read, each taken when it is about to be read.
        read: gives the items of one job; runs in a worker's thread.
        workers: jobs read at once; 0 reads them one by one in the caller's thread.
        lookahead: items that each worker may be ahead of the caller.

    Raises:
        Exception: what `read` raised, once the items before it are handed on.
    """
    if workers == 0:
        for job in jobs:
            yield from read(job)
        return
    stop = threading.Event()
    todo = iter(jobs)
    open_queues: deque[queue.Queue[Item | _End]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="mgcli-read") as pool:

        def start_next() -> None:
            for job in todo:
                open_queues.append(queue.Queue(maxsize=max(1, lookahead)))
                pool.submit(_fill, open_queues[-1], read, job, stop)
                return

        try:
            for _ in range(workers):
                start_next()
            while open_queues:
                while not isinstance(item := open_queues[0].get(), _End):
                    yield item
                if item.error is not None:
                    raise item.error
                open_queues.popleft()
                start_next()
        finally:
            stop.set()  # the pool then waits for the threads to notice


@dataclass(frozen=True)
class _End:
    """The end of a job, with the error that ended it early."""

    error: BaseException | None = None


class _StoppedError(Exception):
    """The caller has left."""


def _fill(
    items: queue.Queue[Item | _End], read: Callable[[Job], Iterator[Item]], job: Job, stop: threading.Event
) -> None:
    """Read a job into its queue until it ends or the caller has left."""

    def put(item: Item | _End) -> None:
        while not stop.is_set():
            try:
                return items.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
        raise _StoppedError

    try:
        for item in read(job):
            put(item)
        put(_End())
    except _StoppedError:
        pass
    except BaseException as error:  # raised again where the queue is read
        with suppress(_StoppedError):
            put(_End(error))
