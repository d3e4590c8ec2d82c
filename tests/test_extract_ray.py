"""A run on a Ray cluster of two machines, which are two raylets of this one. All of it needs the extra `ray`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from many_clips import NUM_CLIPS, check_equal, local_tokens, make_many_clips

from mgcli.cache import open_cache, verify_cache

TESTS = Path(__file__).parent


def start(folder: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    """Start `mgcli extract --engine ray` as a user does."""
    command = [sys.executable, "-m", "mgcli.cli", "extract", "--modality", "video", "--clips", "clips.csv"]
    command += ["--weights", "random:0", "--precision", "float32", "--engine", "ray", *words]
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    variables = os.environ | {"PYTHONPATH": path, "RAY_ADDRESS": ""} | environment
    return subprocess.Popen(
        command,
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """What it says, once its exit code is checked."""
    said, errors = process.communicate(timeout=300)
    assert process.returncode == code, f"exit {process.returncode}\n{said}\n{errors}"
    return said, errors


def extract(folder: Path, *words: str, code: int = 0, **environment: str) -> tuple[str, str]:
    """Run it to its end."""
    return finish(start(folder, *words, **environment), code)


def wait_for_clips(cache: Path, count: int) -> None:
    """Until a run has committed so many."""
    until = time.monotonic() + 240
    while True:
        found = open_cache(cache) if (cache / "mgcache.json").exists() else None
        if found is not None and found.feature_sets() and len(found.feature_set("video")) >= count:
            return
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two machines with one core each."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'mgcli[ray]'")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.add_node(num_cpus=1)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    make_many_clips(folder)
    return folder


def test_a_killed_worker_costs_a_cluster_no_clip(cluster: Any, folder: Path, tmp_path: Path) -> None:
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    (deaths / "0").touch()
    said, errors = extract(
        folder,
        *("--cache", str(tmp_path / "features"), "--backbone", "tiny_backbones:MortalVideo"),
        *("--option", f"deaths={deaths}"),
        RAY_ADDRESS=cluster.address,
    )
    assert said.startswith(f"video: {NUM_CLIPS} clips done, 0 there already, 0 failed")  # and nothing that Ray prints
    assert not list(deaths.iterdir())
    assert errors.count("is lost: its Ray actor is gone") == 1
    expected = local_tokens(pd.read_csv(folder / "clips.csv"), tmp_path / "local")
    check_equal(open_cache(tmp_path / "features"), expected)


SLOWLY = ("--backbone", "tiny_backbones:TinyVideo", "--batch-size", "1", "--option", "delay_s=0.1")


@pytest.mark.faults
def test_a_machine_that_is_lost_costs_a_cluster_no_clip(cluster: Any, folder: Path, tmp_path: Path) -> None:
    machine = cluster.add_node(num_cpus=1)
    running = start(folder, "--cache", str(tmp_path / "features"), *SLOWLY, RAY_ADDRESS=cluster.address)
    wait_for_clips(tmp_path / "features", 20)
    cluster.remove_node(machine, allow_graceful=False)
    said, errors = finish(running)
    assert said.startswith(f"video: {NUM_CLIPS} clips done, 0 there already, 0 failed")
    assert errors.count("is lost: its Ray actor is gone") == 1
    expected = local_tokens(pd.read_csv(folder / "clips.csv"), tmp_path / "local")
    check_equal(open_cache(tmp_path / "features"), expected)


@pytest.mark.faults
def test_ctrl_c_keeps_what_is_whole_and_leaves_the_cluster_to_the_next_run(
    cluster: Any, folder: Path, tmp_path: Path
) -> None:
    words = ("--cache", str(tmp_path / "features"), *SLOWLY)
    running = start(folder, *words, RAY_ADDRESS=cluster.address)
    wait_for_clips(tmp_path / "features", 10)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=300)
    assert running.returncode not in (0, 3)
    assert "Traceback" not in errors
    cache = open_cache(tmp_path / "features")
    num_kept = len(cache.feature_set("video"))
    assert 10 <= num_kept < NUM_CLIPS
    assert verify_cache(cache).ok
    assert not list(cache.path.glob(".tmp-run-*"))
    said, _ = extract(folder, *words, RAY_ADDRESS=cluster.address)
    assert said.startswith(f"video: {NUM_CLIPS - num_kept} clips done, {num_kept} there already, 0 failed")
    expected = local_tokens(pd.read_csv(folder / "clips.csv"), tmp_path / "local")
    check_equal(open_cache(tmp_path / "features"), expected)


def test_ray_absent_or_out_of_reach_is_said_in_a_line(folder: Path, tmp_path: Path) -> None:
    words = ("--cache", str(tmp_path / "features"), "--backbone", "tiny_backbones:TinyVideo")
    (tmp_path / "ray.py").write_text("raise ImportError('no such thing')")
    absent = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(TESTS), os.environ.get("PYTHONPATH", "")])}
    _, errors = extract(folder, *words, code=1, **absent)
    assert errors == "mgcli: --engine ray needs Ray, here and on every machine: pip install 'mgcli[ray]'\n"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:9", "mgcli: no Ray cluster answers at RAY_ADDRESS=127.0.0.1:9 (["),
        ("nowhere.invalid:6379", "mgcli: no Ray cluster answers at RAY_ADDRESS=nowhere.invalid:6379 (["),
        ("nonsense", "mgcli: the Ray cluster nonsense cannot be joined: Invalid address format: nonsense; start one"),
    ],
)
def test_a_cluster_out_of_reach_is_said_at_once(address: str, message: str, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'mgcli[ray]'")
    words = ("--cache", str(tmp_path / "features"), "--backbone", "tiny_backbones:TinyVideo")
    _, errors = extract(folder, *words, code=1, RAY_ADDRESS=address)
    assert errors.startswith(message)
    assert "start one with `ray start --head`" in errors
    assert len(errors.splitlines()) == 1
