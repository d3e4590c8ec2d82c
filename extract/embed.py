"""One modality of a run: its inputs batched, through the network, whole clips into the cache."""

# Shapes: B batch, N tokens, D token width.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mgcli.cache import Failure, FeatureWriter, NonFiniteTokensError
from mgcli.extract.backbone import Backbone, BackboneError
from mgcli.extract.inputs import ClipRequest, InputReady

_Embedded = tuple[InputReady, np.ndarray, dict[str, np.ndarray]]  # a window, its tokens, what is kept beside them


class ModalityEmbedder:
    """Takes the inputs of one modality in any order of clips, and writes each clip once its last one is through."""

    def __init__(
        self,
        backbone: Backbone,
        writer: FeatureWriter,
        *,
        batch_size: int,
        on_clip: Callable[[ClipRequest, Failure | None], None],
    ) -> None:
        """Start with nothing done.

        Args:
            backbone: of this modality.
            writer: of this modality's feature set.
            batch_size: inputs per forward pass, halved when memory runs out.
            on_clip: called for each clip that is over, with what failed, if anything did.
        """
        self.num_done = 0
        self.failures: list[Failure] = []
        self._backbone = backbone
        self._writer = writer
        self._batch_size = batch_size
        self._on_clip = on_clip
        self._batch: list[InputReady] = []
        self._unfinished: dict[int, list[_Embedded | None]] = {}  # request -> its windows
        self._failed: set[int] = set()

    def add(self, ready: InputReady) -> None:
        """Take one input; a full batch goes through the network at once."""
        if ready.request.number in self._failed:
            return
        self._batch.append(ready)
        if len(self._batch) >= self._batch_size:
            self.flush()

    def fail(self, request: ClipRequest, stage: str, reason: str) -> None:
        """Give a clip up; whatever it has is dropped."""
        if request.number in self._failed:
            return
        self._failed.add(request.number)
        self._unfinished.pop(request.number, None)
        self.failures.append(Failure(request.clip_id, stage, reason))
        self._on_clip(request, self.failures[-1])

    def flush(self) -> None:
        """Run what waits for a batch, and commit if that is due."""
        batch, self._batch = [ready for ready in self._batch if ready.request.number not in self._failed], []
        if not batch:
            return
        tokens, kept = self._forward([ready.prepared.inputs for ready in batch])  # (B, N, D), (B, N, ...) each
        for row, ready in enumerate(batch):
            self._collect(ready, tokens[row].numpy(), {name: each[row].numpy() for name, each in kept.items()})
        self._writer.commit_if_due()

    def _forward(self, inputs: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Tokens and companions of the inputs, in smaller batches where memory does not suffice for all."""
        while True:
            size = min(self._batch_size, len(inputs))
            try:
                chunks = [inputs[start : start + size] for start in range(0, len(inputs), size)]
                done = [self._backbone.embed_with_companions(torch.stack(chunk)) for chunk in chunks]
                kept = {name: torch.cat([each[name] for _, each in done]) for name in done[0][1]}
                return torch.cat([tokens for tokens, _ in done]), kept
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                if size == 1:
                    raise BackboneError(f"not enough memory for a single input of {self._backbone.name}") from error
            self._batch_size = size // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _collect(self, ready: InputReady, tokens: np.ndarray, kept: dict[str, np.ndarray]) -> None:
        """Keep a window's tokens, (N, D), and companions, (N, ...); write the clip if it was the last one missing."""
        request = ready.request
        windows = self._unfinished.setdefault(request.number, [None] * ready.of)
        windows[ready.window] = (ready, tokens, kept)
        whole = [window for window in windows if window is not None]
        if len(whole) < ready.of or request.number in self._failed:
            return
        del self._unfinished[request.number]
        try:
            self._writer.add(
                request.clip_id,
                np.concatenate([tokens for _, tokens, _ in whole]),
                source=request.source,
                time_s=np.concatenate([ready.prepared.time_s for ready, _, _ in whole]),
                valid=np.concatenate([ready.prepared.valid for ready, _, _ in whole]),
                aux={name: np.concatenate([each[name] for _, _, each in whole]) for name in kept},
            )
        except NonFiniteTokensError as error:
            self.fail(request, "tokens", str(error))
            return
        self.num_done += 1
        self._on_clip(request, None)


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
