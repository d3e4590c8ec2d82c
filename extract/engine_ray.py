"""Workers on the machines of a Ray cluster that is running: one for each GPU, or for each machine where there is none.

Ray actors rather than Ray Data: a worker keeps its networks, decodes and computes side by side, and leaves its result
in the cache, so there is no stream of blocks for Ray Data to carry. Nor could its retries know what the cache holds
already; `coordinate.py` does, in the same way for processes of one machine and for actors of a cluster.

All machines need mgcli and Ray in the same versions, and see the data and the cache under the same paths, on a shared
disk, or the cache in an object store. Workers are told the working folder and the import paths of the first process,
for a user's own backbones that lie on the shared disk.
"""

from __future__ import annotations

import os
import pickle
import queue
import sys
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgcli.cache import joined_cluster, worker_death
from mgcli.extract.engine import Ended, Engine, EngineError, FileWork, Lost, Message, WorkerTask, share_of_cores


@dataclass(frozen=True)
class _Place:
    """Room for one worker on a machine."""

    node_id: str
    host: str
    index: int  # among the workers of the machine
    count: int  # workers of the machine
    num_cpus: int
    num_gpus: int


class RayEngine(Engine):
    """Actors on a Ray cluster."""

    def __init__(self, device: str | None) -> None:
        """Join the cluster that RAY_ADDRESS names, or that runs on this machine.

        Args:
            device: of the workers; None: the GPU that Ray gives them, or the processor where there is none.

        Raises:
            ClusterError: Ray is not installed, or the cluster cannot be reached.
            EngineError: the cluster has no room.
        """
        with ExitStack() as joining:
            self._ray = joining.enter_context(joined_cluster())
            self._places = _places(self._ray.nodes(), with_gpus=device is None or device.startswith("cuda"))
            if not self._places:
                raise EngineError("the Ray cluster has no machine with room for a worker; see `ray status`")
            self._exit = joining.pop_all()
        self._device = device
        self.slots = [f"{place.host} (worker {place.index})" for place in self._places]
        self._actors: dict[int, Any] = {}
        self._heard: dict[Any, int] = {}  # what is to be the next message of a worker -> its slot

    def device(self, slot: int) -> str | None:
        if self._device is not None:
            return self._device
        return "cuda" if self._places[slot].num_gpus else "cpu"

    def start(self, slot: int, task: WorkerTask) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        place = self._places[slot]
        if place.node_id not in {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}:
            raise EngineError("its machine has left the cluster")
        actor = self._ray.remote(RayWorker).options(
            num_cpus=place.num_cpus,
            num_gpus=place.num_gpus,
            max_concurrency=4,  # `listen` waits while the others are called
            scheduling_strategy=NodeAffinitySchedulingStrategy(place.node_id, soft=False),
        )
        # the task as bytes: they are read only once the worker has its place, its folder and its paths
        content = self._ray.cloudpickle.dumps(task)
        self._actors[slot] = actor.remote(content, place.index, place.count, str(Path.cwd()), sys.path)
        self._listen(slot)

    def wait(self, timeout_s: float) -> list[tuple[int, Message]]:
        ready, _ = self._ray.wait(list(self._heard), num_returns=len(self._heard), timeout=0)
        if not ready:
            ready, _ = self._ray.wait(list(self._heard), num_returns=1, timeout=timeout_s)
        messages: list[tuple[int, Message]] = []
        for reference in ready:
            slot = self._heard.pop(reference)
            try:
                messages += [(slot, message) for message in self._ray.get(reference)]
            except self._ray.exceptions.RayError as error:
                messages.append((slot, Lost(f"its Ray actor is gone: {worker_death(error)}")))
            if isinstance(messages[-1][1], Ended | Lost):
                self._end(slot)
            else:
                self._listen(slot)
        return messages

    def answer(self, slot: int, file: FileWork | None) -> None:
        self._actors[slot].answer.remote(file)

    def stop(self) -> None:
        for actor in self._actors.values():
            actor.stop.remote()

    def close(self) -> None:
        for slot in list(self._actors):
            self._end(slot)
        self._exit.close()

    def _listen(self, slot: int) -> None:
        self._heard[self._actors[slot].listen.remote()] = slot

    def _end(self, slot: int) -> None:
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actors.pop(slot))


class RayWorker:
    """The actor: a worker in a thread of its own, and the ends of its line."""

    def __init__(self, task: bytes, index: int, count: int, folder: str, import_paths: list[str]) -> None:
        """Start the worker; what goes wrong is its last message.

        Args:
            task: the worker's task, pickled.
            index: of the worker among those of its machine.
            count: how many workers its machine has.
            folder: in which the run was started.
            import_paths: of the process that started the run.
        """
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        with suppress(OSError):
            os.chdir(folder)
        sys.path += [path for path in import_paths if path not in sys.path]
        with share_of_cores(index, count):
            from mgcli.extract.worker import WorkerFeed, work  # torch loads here

            told: WorkerTask = pickle.loads(task)
            self._feed = WorkerFeed(told.name, self._messages.put)
            threading.Thread(target=work, args=(told, self._feed), daemon=True).start()

    def listen(self) -> list[Message]:
        """The messages since the last call; waits until there is one."""
        messages = [self._messages.get()]
        while not self._messages.empty():
            messages.append(self._messages.get())
        return messages

    def answer(self, file: FileWork | None) -> None:
        """What the worker asked for."""
        self._feed.answer(file)

    def stop(self) -> None:
        """Commit what is whole, and end."""
        self._feed.stop()


def _places(nodes: list[dict[str, Any]], with_gpus: bool) -> list[_Place]:
    """A worker for each GPU of the cluster, or, without GPUs, for each machine."""
    alive = [(node, {name: int(count) for name, count in node["Resources"].items()}) for node in nodes if node["Alive"]]
    gpus_count = with_gpus and any(resources.get("GPU", 0) for _, resources in alive)
    places = []
    for node, resources in sorted(alive, key=lambda each: each[0]["NodeID"]):
        cpus = resources.get("CPU", 0)
        count = resources.get("GPU", 0) if gpus_count else min(cpus, 1)
        for index in range(count):
            place = _Place(
                node_id=node["NodeID"],
                host=node["NodeManagerHostname"],
                index=index,
                count=count,
                num_cpus=cpus // count,
                num_gpus=int(gpus_count),
            )
            places.append(place)
    return places
