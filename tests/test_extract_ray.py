"""A run on a Ray cluster of two machines, which are two raylets of this one. All of it needs the extra `ray`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from many_clips import NUM_CLIPS, check_equal, local_tokens, make_many_clips

from mgcli.cache import open_cache

TESTS = Path(__file__).parent


def extract(folder: Path, *words: str, code: int = 0, **environment: str) -> tuple[str, str]:
    """Run `mgcli extract --engine ray` as a user does."""
    command = [sys.executable, "-m", "mgcli.cli", "extract", "--modality", "video", "--clips", "clips.csv"]
    command += ["--weights", "random:0", "--precision", "float32", "--engine", "ray", *words]
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    variables = os.environ | {"PYTHONPATH": path, "RAY_ADDRESS": ""} | environment
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two machines with one core each."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'mgcli[ray]'")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.add_node(num_cpus=1)
    yield made.address
    made.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    make_many_clips(folder)
    return folder


def test_a_killed_worker_costs_a_cluster_no_clip(cluster: str, folder: Path, tmp_path: Path) -> None:
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    (deaths / "0").touch()
    said, errors = extract(
        folder,
        *("--cache", str(tmp_path / "features"), "--backbone", "tiny_backbones:MortalVideo"),
        *("--option", f"deaths={deaths}"),
        RAY_ADDRESS=cluster,
    )
    assert said.startswith(f"video: {NUM_CLIPS} clips done, 0 there already, 0 failed")  # and nothing that Ray prints
    assert not list(deaths.iterdir())
    assert errors.count("is lost: its Ray actor is gone") == 1
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
    ],
)
def test_a_cluster_out_of_reach_is_said_at_once(address: str, message: str, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'mgcli[ray]'")
    words = ("--cache", str(tmp_path / "features"), "--backbone", "tiny_backbones:TinyVideo")
    _, errors = extract(folder, *words, code=1, RAY_ADDRESS=address)
    assert errors.startswith(message)
    assert "start one with `ray start --head`" in errors
    assert len(errors.splitlines()) == 1
