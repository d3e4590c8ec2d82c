"""Inputs of a batch on a CPU, each on a share of the cores."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mgcli.extract.backbone import backbone_class
from mgcli.extract.core_lanes import MOST_LANES, each_beside_others, num_lanes
from mgcli.extract.device import choose_batch_size
from mgcli.extract.names import BACKBONES


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


class Watched:
    """Doubles its inputs, and notes who did that with how many threads."""

    def __init__(self, side_by_side: int = 1) -> None:
        self.seen: set[tuple[str, int]] = set()
        self._together = threading.Barrier(side_by_side)

    def __call__(self, inputs: Tensor) -> Tensor:
        assert len(inputs) == 1
        assert torch.is_inference_mode_enabled()
        self.seen.add((threading.current_thread().name, torch.get_num_threads()))
        self._together.wait(timeout=30)  # hangs unless so many are at work at once
        return inputs * 2


@pytest.mark.parametrize(("batch_size", "lanes"), [(2, 2), (4, 4), (8, 4), (12, 4)])
def test_each_input_has_its_share_of_the_threads(four_threads: None, batch_size: int, lanes: int) -> None:
    inputs = torch.randn(batch_size, 3)
    watched = Watched(lanes)
    with torch.inference_mode():
        assert torch.equal(each_beside_others(watched, inputs), inputs * 2)
    assert {threads for _, threads in watched.seen} == {4 // lanes}
    assert len({name for name, _ in watched.seen}) == lanes
    assert torch.get_num_threads() == 4
    started: list[int] = []
    other = threading.Thread(target=lambda: started.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert started == [4]


def test_a_single_input_has_all_threads(four_threads: None) -> None:
    watched = Watched()
    with torch.inference_mode():
        each_beside_others(watched, torch.ones(1, 3))
    assert watched.seen == {(threading.current_thread().name, 4)}


def test_more_inputs_than_lanes_with_one_thread_go_one_after_another() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        watched = Watched()
        with torch.inference_mode():
            each_beside_others(watched, torch.ones(3, 3))
    finally:
        torch.set_num_threads(before)
    assert watched.seen == {(threading.current_thread().name, 1)}


def test_gradients_pass(four_threads: None) -> None:
    weight = torch.tensor(2.0, requires_grad=True)
    each_beside_others(lambda inputs: inputs * weight, torch.ones(3, 2)).sum().backward()
    assert weight.grad == 6


def test_the_first_fault_is_raised(four_threads: None) -> None:
    def forward(inputs: Tensor) -> Tensor:
        raise RuntimeError(f"not enough memory for {inputs.item():g}")

    with torch.inference_mode(), pytest.raises(RuntimeError, match="not enough memory for 0"):
        each_beside_others(forward, torch.arange(3.0)[:, None])


def test_lanes_are_as_many_as_threads_and_not_too_many() -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 3, MOST_LANES + 5):
            torch.set_num_threads(threads)
            assert num_lanes() == min(threads, MOST_LANES)
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_computes() -> None:
    """Its pool would wait for threads that are in its parent alone."""
    program = """
import os, torch
from mgcli.extract.core_lanes import each_beside_others
torch.set_num_threads(2)
with torch.inference_mode():
    each_beside_others(lambda inputs: inputs + 1, torch.ones(2, 1))
    child = os.fork()
    found = each_beside_others(lambda inputs: inputs + 1, torch.ones(2, 1))
if not child:
    os._exit(int(found.sum()))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "4"


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_a_batch_is_larger_where_lanes_share_it(four_threads: None, backbone: str) -> None:
    kind = backbone_class(backbone)
    found = choose_batch_size(None, torch.device("cpu"), kind.in_lanes)
    assert found == (8 if backbone == "mvit_v2_s" else 2)
    assert choose_batch_size(5, torch.device("cpu"), kind.in_lanes) == 5
