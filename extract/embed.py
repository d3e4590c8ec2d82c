"""One modality of a run: its inputs batched, through the network, whole clips to the writer's thread."""

# Shapes: B batch, N tokens, D token width.

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mgcli.cache import Failure, FeatureWriter, NonFiniteTokensError
from mgcli.extract.backbone import Backbone, BackboneError
from mgcli.extract.clip_request import ClipRequest, InputReady
from mgcli.extract.device import as_run, compile_fault
from mgcli.extract.write_behind import WriteBehind

# What others than torch's own allocator of a GPU say: that of a CPU, that of pinned memory, cuBLAS, and cuDNN, of
# whose ways to convolve all may want more memory than there is.
_NO_MEMORY = (
    *("can't allocate memory", "CUDA error: out of memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED"),
    *("CUDNN_STATUS_ALLOC_FAILED", "unable to find an engine to execute this computation"),
)
_ROUNDED_AT_ONCE = 1 << 15  # numbers; for more torch would take threads from the network
_FLOAT16_OVERFLOWS = 65520.0  # and all above it, rounded to the nearest
_Results = tuple[Tensor, dict[str, Tensor]]  # tokens (B, N, D) and companions (B, N, ...) of a chunk


@dataclass(frozen=True, eq=False)
class _Embedded:
    """What is kept of a window until its clip is whole; not its inputs, which are a hundred times as large."""

    tokens: np.ndarray  # (N, D)
    time_s: np.ndarray  # (N,)
    valid: np.ndarray  # (N,)
    kept: dict[str, np.ndarray]  # (N, ...) each


@dataclass(frozen=True, eq=False)
class _Launched:
    """A batch whose results a GPU may still be working on."""

    batch: list[InputReady]
    results: list[_Results]  # on the CPU, filled once `ended` has happened
    started: Any = None  # CUDA events; None on a CPU, where results are there at once
    ended: Any = None


class ModalityEmbedder:
    """Takes the inputs of one modality in any order of clips, and writes each clip once its last one is through.

    On a GPU one batch is on its way while the next is put together.
    """

    def __init__(
        self,
        backbone: Backbone,
        writer: FeatureWriter,
        behind: WriteBehind,
        *,
        batch_size: int,
        compiled: bool,
        on_clip: Callable[[ClipRequest, Failure | None], None],
        on_warning: Callable[[str], None],
    ) -> None:
        """Start with nothing done.

        Args:
            backbone: of this modality.
            writer: of this modality's feature set; used in the thread of `behind` alone.
            behind: writes.
            batch_size: inputs per forward pass, halved when memory runs out.
            compiled: run the network through torch.compile.
            on_clip: called for each clip that is over, with what failed, if anything did.
            on_warning: told what a person should know.
        """
        self.device_s = 0.0  # that the device was at work
        self.waited_s = 0.0  # that this thread waited for it
        self.first_batch: tuple[float, int] | None = None  # when it was through, by the clock, and its inputs
        self._backbone = backbone
        self._network = as_run(backbone, compiled)
        self._writer = writer
        self._behind = behind
        self._batch_size = batch_size
        self._on_clip = on_clip
        self._on_warning = on_warning
        self._batch: list[InputReady] = []
        self._launched: deque[_Launched] = deque()
        on_gpu = backbone.device.type == "cuda"
        self._uploads = torch.cuda.Stream(backbone.device) if on_gpu else None  # copies beside what it computes
        self._unfinished: dict[int, list[_Embedded | None]] = {}  # request -> its windows
        self._failed: set[int] = set()
        self._written: deque[tuple[ClipRequest, str]] = deque()  # and why not, from the writer's thread

    def add(self, ready: InputReady) -> None:
        """Take one input; a full batch goes through the network at once."""
        if ready.request.number in self._failed:
            return
        self._batch.append(ready)
        if len(self._batch) >= self._batch_size:
            self._launch_batch()

    def fail(self, request: ClipRequest, stage: str, reason: str) -> None:
        """Give a clip up; whatever it has is dropped."""
        if request.number in self._failed:
            return
        self._failed.add(request.number)
        self._unfinished.pop(request.number, None)
        of_view = f"view {request.view_number}: " if request.view is not None else ""
        self._on_clip(request, Failure(request.clip_id, stage, f"{of_view}{reason}"))

    def flush(self) -> None:
        """Run what waits for a batch, and hand all whole clips to the writer."""
        self._launch_batch()
        while self._launched:
            self._collect_oldest()

    def settle(self) -> None:
        """Tell of the clips that the writer has taken since the last call."""
        while self._written:
            request, fault = self._written.popleft()
            if fault:
                self.fail(request, "tokens", fault)
            else:
                self._on_clip(request, None)

    def _launch_batch(self) -> None:
        batch, self._batch = [ready for ready in self._batch if ready.request.number not in self._failed], []
        if batch:
            started = time.perf_counter()
            self._launched.append(self._forward(batch))
            self.waited_s += time.perf_counter() - started
        while len(self._launched) > (1 if self._backbone.device.type == "cuda" else 0):
            self._collect_oldest()
        self.settle()

    def _forward(self, batch: list[InputReady]) -> _Launched:
        """Put the batch on the device, in smaller ones where memory does not suffice for all."""
        inputs = [ready.prepared.inputs for ready in batch]
        while True:
            size = min(self._batch_size, len(inputs))
            chunks = [inputs[start : start + size] for start in range(0, len(inputs), size)]
            try:
                if self._backbone.device.type != "cuda":
                    start_s = time.perf_counter()
                    results = [self._chunk(chunk) for chunk in chunks]
                    self.device_s += time.perf_counter() - start_s
                    return _Launched(batch, results)
                stream = torch.cuda.current_stream(self._backbone.device)  # of this GPU, whichever is the usual one
                started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                started.record(stream)
                results = [self._chunk(chunk) for chunk in chunks]
                ended.record(stream)
                return _Launched(batch, results, started, ended)
            except RuntimeError as error:
                is_compiled = self._network is not self._backbone
                if is_compiled and (fault := compile_fault(self._backbone.name, error)):
                    self._on_warning(f"{fault}; it runs as it is")
                    self._network = self._backbone
                    continue
                if not _out_of_memory(error):
                    raise
                if size == 1:
                    reason = str(error).strip().splitlines()[0]
                    name = self._backbone.name
                    raise BackboneError(f"not enough memory for a single input of {name}: {reason}") from error
            self._batch_size = size // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _chunk(self, inputs: list[Tensor]) -> _Results:
        """Tokens and companions of a few inputs, on their way to the CPU."""
        count = len(inputs)
        # a compiled network is one for this batch size: others would be compiled anew
        size = self._batch_size if self._network is not self._backbone else count
        # at once into memory that a GPU reads by itself: new plain memory takes five times as long to fill
        pinned = self._backbone.device.type == "cuda"
        stacked = torch.empty((size, *inputs[0].shape), dtype=inputs[0].dtype, pin_memory=pinned)  # (B, ...)
        torch.stack(inputs, out=stacked[:count])
        stacked[count:] = inputs[-1]
        tokens, kept = self._backbone.embed_on_device(self._uploaded(stacked), self._network)
        return _to_host(tokens[:count]), {name: _to_host(each[:count]) for name, each in kept.items()}

    def _uploaded(self, stacked: Tensor) -> Tensor:
        """(B, ...) on the backbone's GPU, brought there while that still works on the batch before."""
        if self._uploads is None:
            return stacked
        device = self._backbone.device
        with torch.cuda.stream(self._uploads):
            there = stacked.to(device, non_blocking=True)
        current = torch.cuda.current_stream(device)
        current.wait_stream(self._uploads)
        there.record_stream(current)  # its memory is not given to the next upload before the network is through
        return there

    def _collect_oldest(self) -> None:
        launched = self._launched.popleft()
        if launched.ended is not None:
            started = time.perf_counter()
            launched.ended.synchronize()
            self.waited_s += time.perf_counter() - started
            self.device_s += launched.started.elapsed_time(launched.ended) / 1000
        if self.first_batch is None:
            self.first_batch = time.perf_counter(), len(launched.batch)
        tokens = _joined([each for each, _ in launched.results])  # (B, N, D)
        names = launched.results[0][1]
        kept = {name: _joined([each[name] for _, each in launched.results]) for name in names}
        for row, ready in enumerate(launched.batch):
            self._collect(ready, tokens[row].numpy(), {name: each[row].numpy() for name, each in kept.items()})
        self._behind.do(self._writer.commit_if_due)

    def _collect(self, ready: InputReady, tokens: np.ndarray, kept: dict[str, np.ndarray]) -> None:
        """Keep a window's tokens, (N, D), and companions, (N, ...); write the clip if it was the last one missing."""
        request = ready.request
        if request.number in self._failed:
            return
        windows = self._unfinished.setdefault(request.number, [None] * ready.of)
        if ready.of > 1:  # a batch beside a GPU is locked memory: it must not wait for the clip's other windows
            tokens, kept = tokens.copy(), {name: each.copy() for name, each in kept.items()}
        windows[ready.window] = _Embedded(tokens, ready.prepared.time_s, ready.prepared.valid, kept)
        whole = [window for window in windows if window is not None]
        if len(whole) == ready.of:
            del self._unfinished[request.number]
            self._behind.do(partial(self._write, request, whole))

    def _write(self, request: ClipRequest, windows: list[_Embedded]) -> None:
        """Give a whole clip to the writer; runs in the writer's thread."""
        tokens = np.concatenate([window.tokens for window in windows])
        try:
            self._writer.add(
                request.clip_id,
                tokens if self._writer.dtype != "float16" else _as_float16(tokens),
                source=request.source,
                view=request.view_number,
                time_s=np.concatenate([window.time_s for window in windows]),
                valid=np.concatenate([window.valid for window in windows]),
                aux={name: np.concatenate([window.kept[name] for window in windows]) for name in windows[0].kept},
            )
        except NonFiniteTokensError as error:
            self._written.append((request, str(error)))
        else:
            self._written.append((request, ""))


def _as_float16(tokens: np.ndarray) -> np.ndarray:
    """(N, D) float32 rounded by torch, to numpy's bits and much faster; as they are where a number does not fit."""
    if max(-tokens.min(), tokens.max()) >= _FLOAT16_OVERFLOWS:  # the writer will say so, or that one is none
        return tokens
    rounded = np.empty(tokens.shape, np.float16)
    step = max(1, _ROUNDED_AT_ONCE // tokens.shape[1])
    for start in range(0, len(tokens), step):
        rows = slice(start, start + step)
        torch.from_numpy(rounded[rows]).copy_(torch.from_numpy(tokens[rows]))
    return rounded


def _joined(chunks: list[Tensor]) -> Tensor:
    """(B, ...) of all chunks; of a single one without a copy."""
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks)


def _to_host(tensor: Tensor) -> Tensor:
    """On the CPU; from a GPU it arrives later, into memory that the GPU can write to by itself."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _NO_MEMORY)
