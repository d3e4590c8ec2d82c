"""A worker of a run: does the videos that it is given, one after another without a pause between them."""

from __future__ import annotations

import pickle
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mgcli.cache import Failure, FeatureCache, open_cache
from mgcli.extract.clip_request import ClipRequest
from mgcli.extract.device import choose_device
from mgcli.extract.engine import (
    Asking,
    ClipKey,
    ClipsOver,
    Ended,
    EngineError,
    FileWork,
    Message,
    Planned,
    Warned,
    WorkerTask,
)
from mgcli.extract.inputs import by_file
from mgcli.extract.media_file import why_unreadable
from mgcli.extract.plan import Stage, clip_key, plan_notes, plan_warnings, planned_modality
from mgcli.extract.run import run_extraction
from mgcli.extract.run_clock import RunProfile
from mgcli.extract.shard import span_of, work_s

_SAY_EVERY_S = 0.2  # a GPU ends a thousand clips a second


class StoppedError(Exception):
    """The run is over before its work is: Ctrl-C, or its first process is gone."""


def work(task: WorkerTask, feed: WorkerFeed) -> None:
    """Run a worker to its end, whatever ends it; the last message says what did."""
    error: BaseException | None = None
    profile: RunProfile | None = None
    try:
        device = choose_device(task.device)
        profile = run_extraction(_open(task), task.table, task.extraction, device=device, feed=feed)
    except StoppedError:
        pass
    except Exception as caught:
        error = caught
    feed.say_over()
    trace = "" if error is None else "".join(traceback.format_exception(error))
    feed.send(Ended(None if error is None else _portable(error), trace, profile))


class WorkerFeed:
    """A worker's end of the line: see `Feed`. The engine gives it a way to send, answers it, and may stop it."""

    def __init__(self, name: str, send: Callable[[Message], None]) -> None:
        self._name = name
        self._sends = send
        self._lock = threading.Lock()  # decoding, embedding and the engine may be different threads
        self._answers: queue.SimpleQueue[FileWork | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._over = ClipsOver(0)
        self._stands: tuple[RunProfile | None, RunProfile | None] = (None, None)  # lately, and so far
        self._said_at = time.monotonic()

    def answer(self, file: FileWork | None) -> None:
        """What `Asking` asked for."""
        self._answers.put(file)

    def stop(self) -> None:
        """End the run at the next sign of life."""
        self._stopped.set()
        self._answers.put(None)

    def send(self, message: Message) -> None:
        """Send at once; when nobody listens any more the run stops."""
        with self._lock:
            try:
                self._sends(message)
            except OSError:
                self._stopped.set()

    def say_over(self) -> None:
        """Send what was held back."""
        with self._lock:
            lately, so_far = self._stands
            over, self._over = replace(self._over, lately=lately, so_far=so_far), ClipsOver(0)
            self._stands = (None, None)
            self._said_at = time.monotonic()
        if over.num_over or over.lately is not None:
            self.send(over)

    def jobs(self, stages: Sequence[Stage]) -> Iterator[list[ClipRequest]]:
        """What this worker is given, until there is no more."""
        requests = [request for stage in stages for request in stage.requests]
        by_key = {clip_key(request): request for request in requests}
        files = [_file_work(each) for each in by_file(requests)]
        self.send(
            Planned([planned_modality(stage) for stage in stages], files, plan_notes(stages), plan_warnings(stages))
        )
        while True:
            self.say_over()
            self.send(Asking())
            file = self._answers.get()
            self._raise_if_stopped()
            if file is None:
                return
            if file.is_there and why_unreadable(Path(file.file), or_folder=True):
                raise EngineError(
                    f"{self._name} does not see {file.file}, which is there where the run was started; "
                    "the data must lie on a disk that all machines share, at the same path"
                )
            # a clip that this worker did not plan was committed before it started
            job = [by_key[key] for key in file.clips if key in by_key]
            self._add(len(file.clips) - len(job))
            if job:
                yield job

    def clip_over(self, request: ClipRequest, failure: Failure | None) -> None:
        """Count a clip, and pass a failure on."""
        self._add(1, [] if failure is None else [(clip_key(request), failure)])

    def sign_of_life(self, lately: RunProfile, so_far: RunProfile) -> None:
        """The moment to say what was held back, and to stop if the run is over."""
        self._stands = (lately, so_far)
        self._raise_if_stopped()
        if time.monotonic() - self._said_at >= _SAY_EVERY_S:
            self.say_over()

    def warning(self, message: str) -> None:
        """Pass a warning on."""
        self.send(Warned(message))

    def _raise_if_stopped(self) -> None:
        if self._stopped.is_set():
            raise StoppedError

    def _add(self, num_over: int, failures: Sequence[tuple[ClipKey, Failure]] = ()) -> None:
        with self._lock:
            self._over = ClipsOver(self._over.num_over + num_over, [*self._over.failures, *failures])


def _open(task: WorkerTask) -> FeatureCache:
    """The cache of the run, and no other one that bears the same path here."""
    cache = open_cache(task.cache)
    if not (cache.path / task.marker).is_file():
        raise EngineError(
            f"the cache {task.cache} that {task.name} sees is not the one of the run; "
            "it must lie on a disk that all machines share, or in an object store"
        )
    return cache


def _file_work(requests: Sequence[ClipRequest]) -> FileWork:
    return FileWork(
        file=str(requests[0].video or requests[0].skeleton or ""),
        is_there=any(request.source for request in requests),
        work_s=work_s(span_of(request.seconds, request.frames) for request in requests),
        clips={clip_key(request): request.source for request in requests},
    )


def _portable(error: BaseException) -> BaseException:
    """The error, or, where it cannot be sent, one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
