"""How stage one shares the cores of a machine, as a rule over machines of many sizes."""

from __future__ import annotations

from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgcli.extract import BackboneError
from mgcli.extract.device import choose_decoder_threads, choose_workers

CORES = st.integers(1, 512)


def split(cores: int, asked: int | None = None, num_files: int = 10_000) -> tuple[int, int]:
    """Decoder processes, and threads of each, on a machine with so many cores; fewer files take fewer processes."""
    with patch("mgcli.extract.device.num_cores", lambda: cores):
        workers = min(choose_workers(asked), num_files)
        return workers, choose_decoder_threads(workers)


@given(CORES, st.integers(1, 20))
def test_decoders_take_each_core_once_at_most(cores: int, num_files: int) -> None:
    workers, threads = split(cores, num_files=num_files)
    assert 1 <= workers <= min(8, num_files)
    assert 1 <= threads <= 16
    assert workers * threads <= max(cores, workers)
    if workers > 1:
        assert workers <= cores // 2  # the network has at least as many cores to itself


@given(CORES, st.integers(0, 600))
def test_as_many_workers_as_are_asked_for_and_never_a_decoder_without_a_thread(cores: int, asked: int) -> None:
    workers, threads = split(cores, asked)
    assert workers == asked
    assert 1 <= threads <= 16
    assert threads == 1 or workers * threads <= cores


@pytest.mark.parametrize(
    ("cores", "expected"), [(1, (1, 1)), (2, (1, 2)), (4, (2, 2)), (16, (8, 2)), (64, (8, 8)), (256, (8, 16))]
)
def test_machines_of_usual_sizes(cores: int, expected: tuple[int, int]) -> None:
    assert split(cores) == expected


def test_a_single_video_on_a_large_machine_is_not_decoded_by_a_crowd() -> None:
    assert split(64, num_files=1) == (1, 16)


def test_fewer_workers_than_none_are_refused() -> None:
    with pytest.raises(BackboneError, match=r"workers is -1; it must be 0 \(decode between batches\) or more"):
        choose_workers(-1)
