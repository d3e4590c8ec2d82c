"""A grid on a Ray cluster of two machines, which are two raylets of this one. All of it needs the extra `ray`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from planted import planted_cache

from mgcli.fuse import HeadOutput
from mgcli.fuse.head_baselines import Concat

TESTS = Path(__file__).parent
GRID = """
head = ["constant", "test_fuse_ray:Mortal", "concat"]
seeds = 2
folds = 2
[options]
epochs = 2
min_steps = 20
width = 16
num_heads = 2
learning_rate = [1e-3, 2e-3]
"""


class Mortal(Concat):
    """A user's head that kills its process in the middle of a grid, once for each file in the folder `deaths`."""

    steps = 0

    def forward(self, tokens: Any, mask: Any, time: Any) -> HeadOutput:
        Mortal.steps += 1
        if Mortal.steps == 60:
            for death in Path("deaths").glob("*"):
                with suppress(FileNotFoundError):  # another process had it
                    death.unlink()
                    Path("seen.json").write_text(json.dumps(finished(Path("runs"))))
                    os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(tokens, mask, time)


class Deadly(Concat):
    """A user's head that no process survives."""

    def forward(self, tokens: Any, mask: Any, time: Any) -> HeadOutput:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class Stubborn(Concat):
    """A user's head with a bug."""

    def forward(self, tokens: Any, mask: Any, time: Any) -> HeadOutput:
        raise RuntimeError("no")


def finished(runs: Path) -> dict[str, int]:
    """Finished run -> what tells this folder from one that was made anew."""
    return {each.parent.name: each.stat().st_mtime_ns for each in runs.glob("gesture-*/metrics.json")}


def start(folder: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    """Start `mgcli ablate` as a user does."""
    command = [sys.executable, "-m", "mgcli.cli", "ablate", "--task", "gesture", "--grid", "grid.toml", *words]
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path, "RAY_ADDRESS": ""} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ablate(folder: Path, *words: str, code: int = 0, **environment: str) -> tuple[str, str]:
    """Run it to its end; what it says."""
    process = start(folder, *words, **environment)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == code, f"exit {process.returncode}\n{said}\n{errors}"
    return said, errors


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two machines with one core each."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'mgcli[ray]'")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.add_node(num_cpus=1)
    yield made
    made.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    planted_cache(tmp_path / "features", num_train=48, num_test=24, num_subjects=(6, 6))
    (tmp_path / "grid.toml").write_text(GRID)
    return tmp_path


def test_a_killed_worker_costs_a_grid_nothing_and_no_run_is_done_twice(cluster: Any, folder: Path) -> None:
    ablate(folder, "--runs", "calm", "--out", "calm/out", "--processes", "1")
    (folder / "deaths").mkdir()
    (folder / "deaths/0").touch()
    said, errors = ablate(folder, "--engine", "ray", "--out", "out", RAY_ADDRESS=cluster.address)
    assert not list((folder / "deaths").iterdir())
    assert errors.count("a worker of the cluster is lost") == 1
    assert said.endswith("tables: out\n")
    seen, now = json.loads((folder / "seen.json").read_text()), finished(folder / "runs")
    assert seen
    assert seen.items() <= now.items()
    assert sorted(now) == sorted(finished(folder / "calm"))
    for name in ("table.csv", "table.md", "table.tex"):
        assert (folder / "out" / name).read_bytes() == (folder / "calm/out" / name).read_bytes()
    again = ablate(folder, "--engine", "ray", "--out", "out", RAY_ADDRESS=cluster.address)
    assert again[0] == said
    assert finished(folder / "runs") == now


@pytest.mark.faults
def test_what_no_worker_survives_fails_alone(cluster: Any, folder: Path) -> None:
    heads = ("--head", "test_fuse_ray:Deadly", "--head", "test_fuse_ray:Stubborn", "--head", "constant")
    said, errors = ablate(folder, *heads, "--engine", "ray", "--json", code=3, RAY_ADDRESS=cluster.address)
    failed = json.loads(said)["failed"]
    assert len(failed) == 8
    assert sum("3 workers of the cluster were lost with it, the last so: " in why for why in failed.values()) == 4
    assert sum(why == "RuntimeError: no" for why in failed.values()) == 4
    assert errors.count('raise RuntimeError("no")') == 4  # a bug keeps its traceback
    assert len(finished(folder / "runs")) == 4


def test_a_dry_run_says_how_the_cluster_would_go_about_it(cluster: Any, folder: Path) -> None:
    said, _ = ablate(folder, "--engine", "ray", "--dry-run", RAY_ADDRESS=cluster.address)
    assert said.endswith("in 6 group(s), by 2 process(es); 0 finished already\n")
    assert not finished(folder / "runs")


def test_ctrl_c_prints_the_table_of_what_is_finished(cluster: Any, folder: Path) -> None:
    (folder / "grid.toml").write_text(GRID.replace("min_steps = 20", "min_steps = 30000"))
    process = start(folder, "--engine", "ray", "--out", "out", RAY_ADDRESS=cluster.address)
    until = time.monotonic() + 240
    while len(finished(folder / "runs")) < 2:  # the constants; the others take longer
        assert process.poll() is None
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "of 12 runs are finished; run the same command again to go on" in errors
    assert said.endswith("tables: out\n")
    assert len(pd.read_csv(folder / "out/table.csv")) >= 1
    (folder / "grid.toml").write_text('head = "constant"\nseeds = 2')  # the cluster is there for the next
    ablate(folder, "--engine", "ray", RAY_ADDRESS=cluster.address)


def test_ray_absent_or_out_of_reach_is_said_in_a_line(folder: Path) -> None:
    (folder / "hidden").mkdir()
    (folder / "hidden/ray.py").write_text("raise ImportError('no such thing')")
    absent = {"PYTHONPATH": os.pathsep.join([str(folder / "hidden"), str(TESTS), os.environ.get("PYTHONPATH", "")])}
    _, errors = ablate(folder, "--engine", "ray", code=1, **absent)
    assert (
        errors.splitlines()[-1] == "mgcli: --engine ray needs Ray, here and on every machine: pip install 'mgcli[ray]'"
    )
    _, errors = ablate(folder, "--engine", "rya", code=2, **absent)
    assert "--engine 'rya': known: ray; without it this machine works alone" in errors


def test_a_cluster_out_of_reach_is_said_at_once(folder: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'mgcli[ray]'")
    _, errors = ablate(folder, "--engine", "ray", code=1, RAY_ADDRESS="127.0.0.1:9")
    assert errors.splitlines()[-1].startswith("mgcli: no Ray cluster answers at RAY_ADDRESS=127.0.0.1:9 ([")
    assert "Traceback" not in errors
