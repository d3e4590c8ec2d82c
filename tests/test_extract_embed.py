"""Batches on a device. There is no GPU here: what would run on one is watched through stand-ins for torch's calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from samples import make_spec
from torch import Tensor

from mgcli.cache import FeatureCache
from mgcli.extract.backbone import Prepared, scale_pictures
from mgcli.extract.clip_request import InputReady
from mgcli.extract.device import on_device
from mgcli.extract.embed import ModalityEmbedder, _as_float16
from mgcli.extract.write_behind import WriteBehind

SECOND_GPU = torch.device("cuda:1")


class Events:
    """Stands in for `torch.cuda.Event`, and remembers which streams were told what."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.recorded: list[Any] = []
        self.waited = 0
        plain_empty = torch.empty
        self.pinned: list[tuple[int, ...]] = []

        def empty(*size: Any, pin_memory: bool = False, **options: Any) -> Tensor:
            if pin_memory:
                self.pinned.append(tuple(size[0]))
            return plain_empty(*size, **options)

        monkeypatch.setattr(torch, "empty", empty)
        monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: self)
        self.uploads = Uploads(monkeypatch)
        monkeypatch.setattr(torch.cuda, "current_stream", self.uploads.main)

    def record(self, stream: Any = None) -> None:
        self.recorded.append(stream)

    def synchronize(self) -> None:
        self.waited += 1

    def elapsed_time(self, _: Any) -> float:
        return 1.0


class Uploads:
    """Stands in for a GPU's streams and for copies to it, and remembers in which order they were told what."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[str] = []
        self._within = "main"
        plain_to = Tensor.to

        def to(tensor: Tensor, device: Any = None, *words: Any, **options: Any) -> Tensor:
            if device != SECOND_GPU:
                return plain_to(tensor, device, *words, **options)
            self.said.append(f"copy {len(tensor)} in {self._within}, waiting: {not options.get('non_blocking')}")
            return tensor.clone()

        monkeypatch.setattr(Tensor, "to", to)
        monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: self.said.append(f"kept for {stream}"))
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: "uploads")
        monkeypatch.setattr(torch.cuda, "stream", self.within)

    @contextmanager
    def within(self, stream: str) -> Iterator[None]:
        self._within = stream
        yield
        self._within = "main"

    def main(self, device: torch.device) -> MainStream:
        return MainStream(device, self.said)


@dataclass(frozen=True)
class MainStream:
    device: torch.device
    said: list[str] = field(compare=False)

    def wait_stream(self, other: str) -> None:
        self.said.append(f"main waits for {other}")

    def __str__(self) -> str:
        return "main"


class StandIn:
    """A backbone that says it is on the second GPU: tokens are the inputs' means."""

    name = "stand_in"
    device = SECOND_GPU

    def __init__(self) -> None:
        self.batches: list[Tensor] = []

    def embed_on_device(self, inputs: Tensor, network: object) -> tuple[Tensor, dict[str, Tensor]]:
        self.batches.append(inputs.clone())
        return inputs.float().mean(dim=1, keepdim=True).expand(-1, 4)[:, None].contiguous(), {}  # (B, 1, 4)


def embed(cache: FeatureCache, backbone: Any, count: int, *, compiled: bool = False) -> np.ndarray:
    """The tokens of so many one-window clips in batches of 4, (count, 4)."""
    features = cache.create_feature_set(make_spec(dtype="float32"))
    over: list[str] = []
    with features.writer() as writer, WriteBehind() as behind:
        embedder = ModalityEmbedder(
            backbone,
            writer,
            behind,
            batch_size=4,
            compiled=False,
            on_clip=lambda request, _: over.append(request.clip_id),
            on_warning=pytest.fail,
        )
        if compiled:
            embedder._network = lambda inputs: inputs
        for number in range(count):
            request: Any = SimpleNamespace(
                number=number, clip_id=f"c{number}", source="1" * 16, view=None, view_number=0, modality="video"
            )
            inputs = torch.full((3,), number, dtype=torch.uint8)
            embedder.add(InputReady(request, 0, 1, Prepared(inputs, np.zeros(1, np.float32), np.ones(1, bool))))
        embedder.flush()
    features.refresh()
    return features.load([f"c{number}" for number in range(count)])[0]


def test_events_are_of_the_gpu_that_computes_and_not_of_the_first_one(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = Events(monkeypatch)
    tokens = embed(cache, StandIn(), 10)
    np.testing.assert_array_equal(tokens, np.repeat(np.arange(10.0)[:, None], 4, axis=1))
    assert events.recorded == [MainStream(SECOND_GPU, [])] * 2 * 3  # begin and end of three batches
    assert events.waited == 3


def test_copies_to_a_gpu_have_a_stream_that_the_network_waits_for(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = Events(monkeypatch)
    tokens = embed(cache, StandIn(), 6)
    assert tokens[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert events.uploads.said == [
        line
        for size in (4, 2)
        for line in (f"copy {size} in uploads, waiting: False", "main waits for uploads", "kept for main")
    ]


def test_a_batch_is_put_together_in_pinned_memory_at_once(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    events, backbone = Events(monkeypatch), StandIn()
    embed(cache, backbone, 6)
    assert events.pinned == [(4, 3), (2, 3)]
    assert [len(batch) for batch in backbone.batches] == [4, 2]


def test_a_compiled_network_sees_one_batch_size(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    Events(monkeypatch)
    backbone = StandIn()
    tokens = embed(cache, backbone, 6, compiled=True)
    assert [batch[:, 0].tolist() for batch in backbone.batches] == [[0, 1, 2, 3], [4, 5, 5, 5]]
    assert tokens[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "words",
    [
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_batches_are_halved_whoever_lacks_memory(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    Events(monkeypatch)

    class Small(StandIn):
        def embed_on_device(self, inputs: Tensor, network: object) -> tuple[Tensor, dict[str, Tensor]]:
            if len(inputs) > 1:
                raise RuntimeError(words)
            return super().embed_on_device(inputs, network)

    backbone = Small()
    tokens = embed(cache, backbone, 5)
    assert [len(batch) for batch in backbone.batches] == [1] * 5
    assert tokens[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_a_gpu_is_made_the_usual_one_for_as_long_as_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Usual:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def __enter__(self) -> None:
            said.append(f"enter {self.device}")

        def __exit__(self, *_: object) -> None:
            said.append(f"leave {self.device}")

    monkeypatch.setattr(torch.cuda, "device", Usual)
    with on_device(SECOND_GPU):
        said.append("work")
    with on_device(torch.device("cpu")):
        said.append("on the processor")
    assert said == ["enter cuda:1", "work", "leave cuda:1", "on the processor"]


@given(
    arrays(np.float32, st.sampled_from([(3, 5), (1, 1), (100, 700)]), elements=st.floats(width=32), fill=st.just(0.5))
)
def test_tokens_are_rounded_as_numpy_rounds_them(tokens: np.ndarray) -> None:
    rounded = _as_float16(tokens)
    with np.errstate(over="ignore"):
        expected = tokens.astype(np.float16)
    if np.isfinite(expected).all():
        assert rounded.dtype == np.float16
        np.testing.assert_array_equal(rounded.view(np.uint16), expected.view(np.uint16))
    elif np.isfinite(tokens).all():
        assert rounded is tokens  # for the writer to say what is wrong


def test_scaling_pictures_hands_the_device_no_numbers_after_the_first_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = torch.randint(0, 256, (2, 3, 5, 4, 3), dtype=torch.uint8)
    mean, std = [0.45, 0.4, 0.35], (0.2, 0.25, 0.3)
    first = scale_pictures(pictures, mean, std)
    monkeypatch.setattr(torch, "tensor", lambda *_, **__: pytest.fail("a GPU would be waited for here"))
    with torch.inference_mode():
        assert torch.equal(scale_pictures(pictures, mean, std), first)
    expected = (
        pictures.permute(0, 4, 1, 2, 3).float() / 255 - torch.as_tensor(mean).view(3, 1, 1, 1)
    ) / torch.as_tensor(std).view(3, 1, 1, 1)
    assert torch.equal(first, expected)
