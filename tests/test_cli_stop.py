"""Ctrl-C in long commands: one line that says what is safe and what to run next, exit code 130, no traceback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from planted import planted_cache
from tiny_media import make_skeleton, make_video

from mgcli.cache import open_cache
from mgcli.cache.startup import NOTHING_LEFT

LONG = ("--option", "min_steps=100000", "--option", "epochs=100000", "--option", "patience=9")


def stopped(words: tuple[str, ...], cwd: Path, started: Callable[[], bool]) -> str:
    """What a command says last, when Ctrl-C reaches it and all that it started, as a terminal sends it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mgcli.cli", *words],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 120
    while process.poll() is None and not started() and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    # Python ends itself by SIGINT where it was interrupted in `exec`; a shell calls both 130
    assert process.returncode in (130, -signal.SIGINT), errors
    assert "Traceback" not in errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith("mgcli: stopped; ")
    return last


def write_clips(folder: Path, num_clips: int) -> None:
    make_video(folder / "v.mp4", num_frames=60)
    rows = [f"c{i},v.mp4,{i % 30},{i % 30 + 20}\n" for i in range(num_clips)]
    (folder / "clips.csv").write_text("clip_id,video,start_frame,end_frame\n" + "".join(rows))


@pytest.mark.parametrize("more", [(), ("--devices", "cpu,cpu")])
def test_extract_goes_on_where_it_was(tmp_path: Path, more: tuple[str, ...]) -> None:
    write_clips(tmp_path, 500)
    words = ("extract", "--modality", "video", "--clips", "clips.csv", "--weights", "random:0", *more)
    features = tmp_path / "features"
    last = stopped(words, tmp_path, lambda: any(features.glob("*/spec.json")))
    assert last == ("mgcli: stopped; every finished clip is in the cache; run the same command again to go on")
    assert open_cache(features).feature_sets()
    assert not list(features.glob("*/parts/.tmp-*"))


@pytest.mark.parametrize("more", [(), ("--baselines",)])
def test_a_training_leaves_nothing_unfinished(tmp_path: Path, more: tuple[str, ...]) -> None:
    planted_cache(tmp_path / "features")
    words = ("fuse-train", "--task", "gesture", *LONG, *more)
    waited = time.monotonic() + 8  # in it, wherever that is
    last = stopped(words, tmp_path, lambda: (tmp_path / "runs").exists() and time.monotonic() > waited)
    assert last == ("mgcli: stopped; the unfinished run leaves nothing, finished ones stay; run the same command again")
    assert not list((tmp_path / "runs").glob(".tmp-*"))


def test_a_training_of_skeletons_goes_on_where_it_was_kept(tmp_path: Path) -> None:
    rows = ["clip_id,skeleton,skeleton_fps,subject_id,split,gesture"]
    for i in range(12):
        make_skeleton(tmp_path / f"{i}.npy", 20, num_joints=22, seed=i)
        rows.append(f"c{i},{i}.npy,25,s{i // 2},{'test' if i >= 10 else 'train'},{i % 2}")
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    tiny = ("--option", "num_frames=4", "--option", "min_steps=0", "--option", "epochs=100000")
    words = ("backbone-train", "--modality", "pose", "--clips", "clips.csv", *tiny)
    last = stopped(words, tmp_path, lambda: (tmp_path / "weights").exists())
    assert last == (
        "mgcli: stopped; of the training at most the last half minute is lost; run the same command again to go on"
    )


def test_a_search_keeps_the_runs_that_are_finished(tmp_path: Path) -> None:
    planted_cache(tmp_path / "features")
    quick = ("--option", "min_steps=5", "--option", "epochs=1")
    words = ("tune", "--task", "gesture", "--trials", "500", "--processes", "1", *quick)
    last = stopped(words, tmp_path, lambda: any((tmp_path / "runs").glob("gesture-*")))
    assert re.fullmatch(r"mgcli: stopped; \d+ of 500 runs are finished; run the same command again to go on", last)
    assert not list((tmp_path / "runs").glob(".tmp-*"))


@pytest.mark.parametrize("after_s", [0.03, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4])
def test_the_first_moments_are_no_exception(tmp_path: Path, after_s: float) -> None:
    """From the first line of mgcli on, wherever in its imports it is."""
    began = tmp_path / "began"
    program = f"import mgcli.cache.startup; open({str(began)!r}, 'w').close(); from mgcli.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "cache", "info"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not began.exists():
        time.sleep(0.001)
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    if after_s < 0.1 or process.returncode != 1:  # the command's own end, on a fast machine: there is no cache here
        assert process.returncode == 130, errors
        assert (said, errors) == ("", f"mgcli: stopped; {NOTHING_LEFT}\n")


def test_importing_the_command_line_leaves_interrupts_as_they_were() -> None:
    code = "import signal, mgcli.cli; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", code], check=True)


POOL = """
import time
from mgcli.cache import WorkerPool
if __name__ == "__main__":
    with WorkerPool(2) as pool:
        sleeping = [pool.submit(time.sleep, 600) for _ in range(4)]
        print("asleep", flush=True)
        sleeping[0].result()
"""


@pytest.mark.parametrize("after_s", [0.0, 0.3, 2.0])  # while its workers import, and when they are at work
def test_a_pool_of_workers_ends_at_once_and_silently(tmp_path: Path, after_s: float) -> None:
    (tmp_path / "pool.py").write_text(POOL)
    process = subprocess.Popen(
        [sys.executable, "pool.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "asleep\n"
    time.sleep(after_s)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert errors.count("Traceback") == 1  # its own
    assert "Process Spawn" not in errors


FINALIZER = """
import time, weakref
from mgcli.cache.interrupt import hear_interrupts

class Slow:
    asleep = False
    def __hash__(self):
        if Slow.asleep:
            print("asleep", flush=True)
            time.sleep(1)
        return 1
    def __del__(self):
        print("asleep", flush=True)
        time.sleep(1)

hear_interrupts()
kept = weakref.WeakValueDictionary()
value = kept[Slow()] = {make}
Slow.asleep = True
del value
time.sleep(20)
"""


@pytest.mark.parametrize("make", ["type('Value', (), {})()", "Slow()"])  # a weak reference's callback, a finalizer
def test_an_interrupt_is_heard_after_what_would_swallow_it(make: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FINALIZER.replace("{make}", make)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "asleep\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=15)
    assert process.returncode == -signal.SIGINT
    assert "Exception ignored" not in errors


def test_a_benchmark_leaves_no_files(tmp_path: Path) -> None:
    words = ("bench", "cache", "--folder", ".", "--megabytes", "64", "--seconds", "60")
    last = stopped(words, tmp_path, lambda: any(tmp_path.iterdir()))
    assert last == "mgcli: stopped; nothing half-written is left; run the same command again"
    assert not list(tmp_path.iterdir())


def test_the_demo_can_be_stopped_at_its_start(tmp_path: Path) -> None:
    last = stopped(("demo", "--folder", "d"), tmp_path, lambda: (tmp_path / "d/data").exists())
    assert last == "mgcli: stopped; what is finished is not done twice; run the same command again to go on"
