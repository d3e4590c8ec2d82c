"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from planted import planted_cache
from samples import FORMATS

from mgcli.cache import FeatureCache, open_cache

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # tests that a shell runs in the background would ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Several threads wait for each other in a loop: beside anything else that runs, small tests took ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the commands that tests start
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True)
def _no_skeleton_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests leave the user's store of parsed skeletons alone; those about it name one of their own."""
    monkeypatch.setenv("MGCLI_SKELETON_STORE", "off")


@pytest.fixture(params=FORMATS)
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> FeatureCache:
    """An empty cache of each format in turn."""
    return open_cache(tmp_path / "features", create=True, format=request.param)


@pytest.fixture
def clips_csv(tmp_path: Path) -> Callable[[str], Path]:
    """Write CSV text as a clip table and give its path."""

    def write(text: str) -> Path:
        path = tmp_path / "clips.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def planted(tmp_path: Path) -> FeatureCache:
    """A small exclusive-or of `video` and `pose`."""
    return planted_cache(tmp_path / "features")
