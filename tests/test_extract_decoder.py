"""Decoders in this process and in others: the same pictures, and a crash or hang that costs its video only."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from decoder_children import child_ids
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_media import make_video, shown_number
from torchvision.transforms.functional import center_crop, resize

from mgcli.extract import VideoError
from mgcli.extract.decoder import Decoders, InlineDecoders
from mgcli.extract.decoder_library import DecoderChoiceError, Library, choose_library
from mgcli.extract.decoder_process import DecoderError, DecoderLostError, DecoderProcesses
from mgcli.extract.frame_ring import RingFull, RingReader, RingWriter, open_ring_file
from mgcli.extract.shrink import Shrink

SMALL = Shrink(resize_px=24, crop_px=(16, 20))


@pytest.fixture(params=["pyav", "torchcodec"])
def library(request: pytest.FixtureRequest) -> Library:
    try:
        return choose_library(request.param, torch.device("cpu"))[0]
    except DecoderChoiceError as error:
        pytest.skip(str(error))


@pytest.fixture(params=[InlineDecoders, DecoderProcesses])
def decoders(request: pytest.FixtureRequest, library: Library) -> Iterator[Decoders]:
    with closing(request.param(threads=1, library=library)) as opened:
        yield opened
    assert child_ids() == []


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return make_video(tmp_path / "v.mp4", 60, size_px=(96, 64))


def test_contract_each_frame_comes_once_as_all_that_it_is_needed_as(decoders: Decoders, video: Path) -> None:
    needs = {3: (None,), 7: (SMALL, None), 40: (SMALL,), 41: (None,)}
    for _ in range(2):  # the second time by the same process
        with decoders.borrow() as decoder:
            index = decoder.index(video)
            assert index.num_frames == 60
            found = list(decoder.pictures(index, needs))
        assert [frame for frame, _ in found] == list(needs)
        for frame, pictures in found:
            assert tuple(pictures) == needs[frame]
            for shrink, picture in pictures.items():
                assert picture.shape == ((64, 96, 3) if shrink is None else (16, 20, 3))
                assert picture.dtype == np.uint8
            if None in pictures:
                assert shown_number(pictures[None]) == frame
        both = dict(found)[7]
        np.testing.assert_array_equal(both[SMALL], SMALL(both[None]))
    assert decoders.count.converted == 8
    assert 8 <= decoders.count.decoded <= 100
    assert decoders.count.decode_s > 0


def test_contract_a_bad_file_says_its_fault_and_the_next_is_read(
    decoders: Decoders, video: Path, tmp_path: Path
) -> None:
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(np.random.default_rng(0).bytes(9000))
    with decoders.borrow() as decoder, pytest.raises(VideoError, match="not a video") as raised:
        decoder.index(noise)
    assert not isinstance(raised.value, DecoderLostError)
    with decoders.borrow() as decoder:
        assert decoder.index(video).num_frames == 60


def test_pictures_are_the_same_bits_in_all_decoders(video: Path) -> None:
    needs = dict.fromkeys(range(0, 60, 3), (SMALL, None))
    found = []
    for kind in (InlineDecoders, DecoderProcesses):
        for threads in (1, 2):
            with closing(kind(threads)) as decoders, decoders.borrow() as decoder:
                pictures = decoder.pictures(decoder.index(video), needs)
                found.append([(frame, {k: v.tobytes() for k, v in each.items()}) for frame, each in pictures])
    assert all(other == found[0] for other in found[1:])


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
def test_a_decoder_that_crashes_or_hangs_is_named_and_replaced(
    fault: signal.Signals, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = "hung, without a sign of life for 1.5 s" if fault == signal.SIGSTOP else f"crashed \\({fault.name}\\)"
    with closing(DecoderProcesses()) as decoders:
        with decoders.borrow() as decoder:
            index = decoder.index(video)
            (process,) = child_ids()
            os.kill(process, fault)
            with monkeypatch.context() as patch:
                patch.setattr("mgcli.extract.decoder_process.SILENCE_LIMIT_S", 1.5)  # a busy machine starts one slower
                with pytest.raises(DecoderLostError, match=message) as raised:
                    list(decoder.pictures(index, {5: (None,)}))
        assert str(video) in str(raised.value)
        with decoders.borrow() as decoder:
            assert decoder.index(video).num_frames == 60
        assert child_ids() != [process]
    assert child_ids() == []


def test_a_decoder_left_in_the_middle_is_not_used_again(video: Path) -> None:
    with closing(DecoderProcesses()) as decoders:
        with decoders.borrow() as decoder:
            next(decoder.pictures(decoder.index(video), dict.fromkeys(range(60), (None,))))
        assert child_ids() == []
        with decoders.borrow() as decoder:
            assert [frame for frame, _ in decoder.pictures(decoder.index(video), {9: (None,)})] == [9]


def test_closing_ends_a_wait(video: Path) -> None:
    decoders = DecoderProcesses()
    errors: list[Exception] = []
    waits = threading.Event()

    def wait() -> None:
        try:
            with decoders.borrow() as decoder:
                index = decoder.index(video)
                os.kill(child_ids()[0], signal.SIGSTOP)
                waits.set()
                list(decoder.pictures(index, {5: (None,)}))
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert waits.wait(60)
    time.sleep(0.2)
    decoders.close()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert isinstance(errors[0], DecoderLostError)
    assert child_ids() == []
    with pytest.raises(RuntimeError, match="closed"), decoders.borrow():
        pass


def test_without_shared_memory_pictures_go_through_a_file_and_that_is_said(
    video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no memory for it")

    monkeypatch.setattr(os, "memfd_create", refuse)
    with closing(DecoderProcesses()) as decoders, decoders.borrow() as decoder:
        ((_, pictures),) = decoder.pictures(decoder.index(video), {33: (None,)})
    assert shown_number(pictures[None]) == 33
    assert "no shared memory for decoded frames (no memory for it); they go through a file" in capsys.readouterr().err
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with (
        closing(DecoderProcesses()) as decoders,
        decoders.borrow() as decoder,
        pytest.raises(DecoderError, match=r"no room for decoded frames.*--workers 0"),
    ):
        decoder.index(video)


def test_a_decoder_process_loads_no_torch() -> None:
    code = "import sys, mgcli.extract.decoder_worker; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=40), seed=st.integers(0, 99))
def test_a_ring_gives_back_what_was_put_in(sizes: list[int], seed: int) -> None:
    descriptor, _ = open_ring_file(4096)
    writer, reader = RingWriter(descriptor), RingReader(descriptor)
    rng = np.random.default_rng(seed)
    put: list[tuple[np.ndarray, int]] = []
    taken = 0

    def take() -> None:
        nonlocal taken
        array, offset = put[taken]
        np.testing.assert_array_equal(reader.take(offset, array.shape), array)
        writer.taken()
        taken += 1

    for size in sizes:
        array = rng.integers(0, 256, size, dtype=np.uint8)
        while True:
            try:
                put.append((array, writer.put([array])[0]))
                break
            except RingFull:
                take()
        if rng.random() < 0.4 and taken < len(put):
            take()
    while taken < len(put):
        take()
    reader.close()


def test_a_ring_grows_for_a_picture_larger_than_it() -> None:
    descriptor, _ = open_ring_file(4096)
    writer, reader = RingWriter(descriptor), RingReader(descriptor)
    large = np.arange(10_000, dtype=np.uint8).reshape(100, 100)
    (offset,) = writer.put([large])
    np.testing.assert_array_equal(reader.take(offset, large.shape), large)
    reader.close()


@pytest.mark.parametrize("size_px", [(720, 1280), (1280, 720), (338, 600), (97, 131), (41, 67)])
@pytest.mark.parametrize("shrink", [Shrink(256, (224, 224)), Shrink((128, 171), (112, 112))])
def test_shrinking_is_that_of_torchvision(shrink: Shrink, size_px: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size_px, 3), dtype=np.uint8)
    resized = resize(
        torch.from_numpy(picture).permute(2, 0, 1)[None],
        [shrink.resize_px] if isinstance(shrink.resize_px, int) else list(shrink.resize_px),
        antialias=False,
    )
    expected = center_crop(resized, list(shrink.crop_px))[0].permute(1, 2, 0).numpy()
    difference = np.abs(shrink(picture).astype(int) - expected)
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= 3  # of 150,000: ties
