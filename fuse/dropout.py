"""Dropout that a key decides, so that trainings done together hide what each would hide alone.

# Shapes: B batch, N tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """In training, some numbers become zero and the others grow to make up for it.

    Which ones is a hash of a key, of the layer, and of a number's place (clip, token, column). The same key hides
    the same, however far a batch is padded and whatever is trained beside it, on every device; a training draws
    a key a step. Without a key, each call draws one from torch's global generator.

    The hash is multiplicative (Knuth, TAOCP 3, 6.4): once over the whole place of a clip's token, in 64 bits, and
    once over its columns, in 32. On a CPU it takes as long as drawing so many numbers.
    """

    threshold: Tensor  # () int32: a number whose hash lies below is hidden
    gain: Tensor  # () float32: what the others are multiplied by
    key: Tensor | None  # () int64

    def __init__(self, share: float) -> None:
        super().__init__()
        self.active = share > 0
        self.number = 0  # of the layer within its head
        # Buffers, so that replicas can each have their own; a checkpoint does not need them.
        self.register_buffer("threshold", torch.tensor(int(share * 2**32) - 2**31, dtype=torch.int32), persistent=False)
        self.register_buffer("gain", torch.tensor(1 / (1 - share)), persistent=False)
        self.register_buffer("key", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, which is kept."""
        if not self.training or not self.active:
            return x
        key = self.key if self.key is not None else torch.randint(_KEYS, (), device=x.device)
        kept = _hash(key + (self.number << 48), x.shape, x.device) >= self.threshold
        return x * (kept * self.gain)


def drop_by_key(module: nn.Module) -> Tensor:
    """Number the Dropouts inside a module and give them one key, () int64: fill it before each step."""
    key = torch.zeros((), dtype=torch.int64, device=next(module.parameters()).device)
    for number, each in enumerate(each for each in module.modules() if isinstance(each, Dropout)):
        each.key, each.number = key, number
    return key


def draw_keys(number: int, generator: torch.Generator) -> Tensor:
    """(number,) int64 keys for Dropouts, on the generator's device."""
    return torch.randint(_KEYS, (number,), generator=generator, device=generator.device)


@contextmanager
def without_cache() -> Iterator[None]:
    """Inside, all that a Dropout reads is made anew: a recorded pass may outlive what a cache holds."""
    token = _cached.set(False)
    try:
        yield
    finally:
        _cached.reset(token)


_cached = ContextVar("cached", default=True)
_KEYS = 2**62
_PLACE = 0x9E3779B97F4A7C15 - 2**64  # odd; 2^64 over the golden ratio, and so on: no small multiple is near 0
_ROW = 0xBF58476D1CE4E5B9 - 2**64  # of the finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)
_COLUMN = 0x9E3779B1 - 2**32
_LAST = 0x7FEB352D


def _hash(key: Tensor, shape: torch.Size, device: torch.device) -> Tensor:
    """int32 of this shape, evenly spread over all of them; a place's number does not depend on the shape."""
    places, columns = (_places, _columns) if _cached.get() else (_places.__wrapped__, _columns.__wrapped__)
    row = places(shape[:-1], device) + key * _PLACE
    row = (row ^ (row >> 32)) * _ROW
    row = (row >> 32).to(torch.int32) | 1
    x = row[..., None] * columns(shape[-1], device)
    return (x ^ (x >> 15)) * _LAST


@lru_cache(maxsize=256)
def _places(shape: torch.Size, device: torch.device) -> Tensor:
    """int64 of this shape, (B,) or (B, N): a number for each, its share in the hash."""
    place = torch.zeros((), dtype=torch.int64, device=device)
    for size in shape:
        place = place[..., None] * 65537 + torch.arange(size, device=device)
    return place * _PLACE


@lru_cache(maxsize=256)
def _columns(width: int, device: torch.device) -> Tensor:
    """(width,) odd int32."""
    return torch.arange(1, width + 1, dtype=torch.int32, device=device) * _COLUMN | 1
