"""Training steps as graphs of a GPU: what a step starts there is recorded once, and started by one call from then on.

A step of a head is about a thousand small operations, and Python takes longer to start them than a GPU to do them. A
graph repeats the same operations on the same memory: new numbers are copied to where it reads, and all else that a
step reads must live as long as the graph. Each graph is tried against the usual step before it is relied on.

A GPU was never at hand: tests stand in for it with the operations of a step, recorded and repeated on a CPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from mgcli.fuse.data import Batch
from mgcli.fuse.dropout import without_cache
from mgcli.fuse.stack import inputs_of

_USUAL_FIRST = 2  # steps of a shape: only then have torch's libraries set up all that they need
_MOST_GRAPHS = 16  # shapes of batches; beyond, each is too rare to be worth a recording
_CLOSE = 1e-3  # what a graph and the usual step leave, relative to the largest number

Step = Callable[[Batch, Sequence[Tensor]], Sequence[Tensor]]
Recorded = tuple[Callable[[], None], Sequence[Tensor]]  # what does it all again, and where the results then are
Record = Callable[[Callable[[], Sequence[Tensor]]], Recorded]  # what it is given is gone through, but not done


class RecordError(RuntimeError):
    """A recording that failed, or that is not what was recorded."""


_refused: set[torch.device] = set()  # a recording failed there: torch's memory may take it for one that goes on


def recorder_of(device: torch.device) -> Record | None:
    """What records on a device, for graphs that live and go together; None where nothing does."""
    if device.type != "cuda" or device in _refused:
        return None
    # One pool will do for graphs of one training, as none needs what another left there. It is not for others: torch
    # takes no new graph into a pool whose graphs are all gone, but for what cuBLAS keeps there.
    stream, pool = _recording_stream(device), torch.cuda.graph_pool_handle()

    def record(act: Callable[[], Sequence[Tensor]]) -> Recorded:
        usual, graph = torch.cuda.current_stream(device), torch.cuda.CUDAGraph()
        try:
            # thread_local: another thread may be fetching batches meanwhile.
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                results = act()
        except RuntimeError as error:
            _refused.add(device)
            first = error.__context__ or error  # what went wrong, and not that the recording could not be ended
            raise RecordError(str(first)) from error
        finally:
            torch.cuda.set_stream(usual)  # torch goes back only from a recording that was begun and ended well
        return graph.replay, results

    return record


@cache
def _recording_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all: cuBLAS keeps memory for each. Of high priority, as torch gives its 32 usual ones out again."""
    return torch.cuda.Stream(device, priority=-1)


class RecordedStep:
    """A step that is done as usual for the first batches of a shape, and by a graph for all others."""

    def __init__(
        self, step: Step, state: Callable[[], Sequence[Tensor]], record: Record, say: Callable[[str], None]
    ) -> None:
        """Args:
        step: does the same operations for all batches of a shape, and moves the state.
        state: the tensors that a step changes in place; the same ones whenever it is asked.
        record: of `recorder_of`.
        say: told why steps are done as usual after all.
        """
        self._step, self._state, self._record, self._say = step, state, record, say
        self._seen: Counter[tuple[object, ...]] = Counter()
        self._graphs: dict[tuple[object, ...], _Graph] = {}
        self._given_up = False

    def __call__(self, batch: Batch, numbers: Sequence[Tensor]) -> Sequence[Tensor]:
        """What the step returns."""
        shapes = tuple((each.shape, each.dtype) for each in _tensors(batch, numbers))
        graph = self._graphs.get(shapes)
        if graph is not None:
            return graph(batch, numbers)
        self._seen[shapes] += 1
        if self._given_up or self._seen[shapes] <= _USUAL_FIRST or len(self._graphs) == _MOST_GRAPHS:
            return self._step(batch, numbers)
        before = [each.clone() for each in self._state()]
        try:
            self._graphs[shapes] = self._tried(batch, numbers, before)
        except RuntimeError as error:  # a GPU without room, an operation that cannot be recorded, another result
            self._given_up = True
            self._say(f"training steps are not recorded as a graph: {str(error).strip().splitlines()[0]}")
        self._set_state(before)
        return self._graphs[shapes](batch, numbers) if shapes in self._graphs else self._step(batch, numbers)

    def _tried(self, batch: Batch, numbers: Sequence[Tensor], before: Sequence[Tensor]) -> _Graph:
        """A graph that does what the step does; moves the state."""
        usual = self._left_by(self._step, batch, numbers)  # first: its memory serves the recording
        self._set_state(before)
        graph = _Graph(self._step, batch, numbers, self._record)
        self._set_state(before)
        for own, expected in zip(self._left_by(graph, batch, numbers), usual, strict=True):
            if not _close(own.double(), expected.double()):
                raise RecordError("a recorded step leaves other numbers than a usual one")
        return graph

    def _left_by(self, act: Step, batch: Batch, numbers: Sequence[Tensor]) -> list[Tensor]:
        """What a step returns, and copies of what it changes."""
        results = act(batch, numbers)
        return [*results, *(each.clone() for each in self._state())]

    def _set_state(self, numbers: Sequence[Tensor]) -> None:
        for each, own in zip(self._state(), numbers, strict=True):
            each.copy_(own)


class _Graph:
    """A recorded step, with the memory that it reads its inputs from."""

    def __init__(self, step: Step, batch: Batch, numbers: Sequence[Tensor], record: Record) -> None:
        tokens, mask, time = ({name: each.clone() for name, each in part.items()} for part in inputs_of(batch))
        own = Batch(tokens, mask, time, batch.labels.clone()), [each.clone() for each in numbers]
        self._inputs = _tensors(*own)
        with without_cache():
            self._repeat, self._results = record(lambda: step(*own))

    def __call__(self, batch: Batch, numbers: Sequence[Tensor]) -> Sequence[Tensor]:
        for own, each in zip(self._inputs, _tensors(batch, numbers), strict=True):
            own.copy_(each)
        self._repeat()
        return [each.clone() for each in self._results]


def _tensors(batch: Batch, numbers: Sequence[Tensor]) -> list[Tensor]:
    return [each for part in inputs_of(batch) for each in part.values()] + [batch.labels, *numbers]


def _close(own: Tensor, usual: Tensor) -> bool:
    margin = _CLOSE * float(usual.abs().nan_to_num(0.0).max()) if usual.numel() else 0.0
    return torch.allclose(own, usual, rtol=0, atol=margin, equal_nan=True)
