"""Workers in processes of this machine, one for each device that is named."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from mgcli.cache import shielded_children
from mgcli.extract.engine import Ended, Engine, EngineError, FileWork, Lost, Message, WorkerTask, share_of_cores

if TYPE_CHECKING:
    from mgcli.extract.worker import WorkerFeed

_LEAVE_S = 30.0  # to go, after the last word
_STOP = "stop"


@dataclass(frozen=True, eq=False)
class _Worker:
    process: BaseProcess
    line: Connection


class ProcessEngine(Engine):
    """Processes on this machine; each has a device and its share of the cores."""

    def __init__(self, devices: Sequence[str]) -> None:
        """Check the devices; no process starts yet.

        Raises:
            EngineError: one that is not there.
        """
        self._devices = [checked_device(device) for device in devices]
        if not self._devices:
            raise EngineError("no devices are named; give some, such as 0,1 or cpu,cpu")
        self.slots = [f"{device} (worker {slot})" for slot, device in enumerate(self._devices)]
        self._workers: dict[int, _Worker] = {}
        self._leaving: list[BaseProcess] = []

    def device(self, slot: int) -> str:
        return self._devices[slot]

    def start(self, slot: int, task: WorkerTask) -> None:
        ours, its = get_context("spawn").Pipe()
        # not a daemon: those may not have decoder processes of their own
        process = get_context("spawn").Process(target=_main, args=(its,), name=f"mgcli {self.slots[slot]}")
        resource_tracker.ensure_running()
        with share_of_cores(slot, len(self.slots)), shielded_children():
            process.start()
        its.close()  # so that the worker's death is the end of the line
        self._workers[slot] = _Worker(process, ours)
        with suppress(OSError):  # it died at once: `wait` will say so
            ours.send(task)

    def wait(self, timeout_s: float) -> list[tuple[int, Message]]:
        connection.wait([worker.line for worker in self._workers.values()], timeout_s)
        messages: list[tuple[int, Message]] = []
        for slot, worker in list(self._workers.items()):
            message = _next(worker)
            if message is not None:
                messages.append((slot, message))
            if isinstance(message, Ended | Lost):
                worker.line.close()
                self._leaving.append(worker.process)
                del self._workers[slot]
        return messages

    def answer(self, slot: int, file: FileWork | None) -> None:
        with suppress(OSError):
            self._workers[slot].line.send(file)

    def stop(self) -> None:
        for worker in self._workers.values():
            with suppress(OSError):
                worker.line.send(_STOP)

    def close(self) -> None:
        for process in (*self._leaving, *(worker.process for worker in self._workers.values())):
            if process not in self._leaving:
                process.kill()
            process.join(_LEAVE_S)
            if process.is_alive():
                process.kill()
                process.join()


def checked_device(name: str) -> str:
    """The name of a device of this machine; "0" is the first GPU.

    The GPU itself is left alone: this process has no use for its memory.

    Raises:
        EngineError: it is not there.
    """
    import torch

    name = name.strip()
    name = f"cuda:{name}" if name.isdecimal() else name
    try:
        device = torch.device(name)
        if device.type != "cuda":
            torch.empty(0, device=device)
            return name
    except (RuntimeError, AssertionError) as error:
        raise EngineError(f"no device {name!r} here: {str(error).splitlines()[0]}") from None
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        there = f"its GPUs are cuda:0 to cuda:{count - 1}" if count > 1 else f"it has {count or 'no'} GPU"
        raise EngineError(f"no device {name!r} on this machine: {there}")
    return name


def _next(worker: _Worker) -> Message | None:
    """A worker's next message, or its death."""
    try:
        if worker.line.poll():
            return worker.line.recv()
        if worker.process.is_alive():
            return None
        if worker.line.poll():  # said before it died
            return worker.line.recv()
    except (EOFError, OSError):
        worker.process.join(_LEAVE_S)
    return Lost(_death(worker.process.exitcode))


def _death(exit_code: int | None) -> str:
    if exit_code is None:
        return "its process closed the line"
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = "; was there memory enough?" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended with exit code {exit_code}"


def _main(line: Connection) -> None:
    """A worker's process, from its start to its end."""
    task: WorkerTask = line.recv()
    from mgcli.extract.worker import WorkerFeed, work  # torch loads here

    feed = WorkerFeed(task.name, line.send)
    threading.Thread(target=_listen, args=(line, feed), daemon=True).start()
    work(task, feed)


def _listen(line: Connection, feed: WorkerFeed) -> None:
    """Hand answers on, until the run is to stop or its first process is gone."""
    try:
        while (message := line.recv()) != _STOP:
            feed.answer(message)
    except (EOFError, OSError):
        pass
    feed.stop()
