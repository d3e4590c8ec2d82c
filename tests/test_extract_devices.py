"""A run of several processes on one machine: the same tokens, whatever happens to a process on the way."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from many_clips import NUM_CLIPS, TINY, check_equal, local_tokens, make_many_clips
from tiny_media import make_video

from mgcli.cache import FeatureCache, check_clip_table, open_cache, verify_cache
from mgcli.extract import BackboneError, EngineError, ExtractReport, Shard, add_sources, extract_modalities
from mgcli.extract.engine import Ended, FileWork, Message, WorkerTask
from mgcli.extract.modality import modality_configs
from mgcli.extract.plan import Extraction
from mgcli.extract.worker import WorkerFeed, work


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return make_many_clips(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def expected(table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return local_tokens(table, tmp_path_factory.mktemp("local") / "features")


def extract(cache: FeatureCache, table: pd.DataFrame, **options: Any) -> ExtractReport:
    return extract_modalities(cache, table, ["video"], **(TINY | {"devices": ["cpu", "cpu"]} | options))


def when(happened: Callable[[], bool], do: Callable[[], object]) -> threading.Thread:
    """Do something, once, as soon as something else has happened."""

    def watch() -> None:
        until = time.monotonic() + 120
        while not happened() and time.monotonic() < until:
            time.sleep(0.02)
        do()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def num_committed(path: Path) -> int:
    cache = open_cache(path)
    return len(cache.feature_set("video")) if cache.feature_sets() else 0


def make_deaths(folder: Path, count: int) -> dict[str, Any]:
    """Options of a run whose processes are killed that many times, each at its twentieth batch."""
    folder.mkdir()
    for number in range(count):
        (folder / str(number)).touch()
    return {"backbones": {"video": "tiny_backbones:MortalVideo"}, "options": {"video": {"deaths": str(folder)}}}


def test_two_processes_give_the_tokens_of_one(
    tmp_path: Path, table: pd.DataFrame, expected: dict[str, np.ndarray]
) -> None:
    cache = open_cache(tmp_path / "features", create=True)
    report = extract(cache, table)
    counts = report.modalities["video"]
    assert (counts.done, counts.skipped, counts.failed) == (NUM_CLIPS, 0, 0)
    check_equal(cache, expected)
    again = extract(cache, table, shard=Shard(1, 4)).modalities["video"]
    assert (again.done, again.failed) == (0, 0)
    assert 20 <= again.skipped <= 80
    assert not list(cache.path.glob(".tmp-*"))


def test_several_processes_report_the_work_of_one(tmp_path: Path, table: pd.DataFrame) -> None:
    alone, shared = (open_cache(tmp_path / name, create=True) for name in ("alone", "shared"))
    one, two = extract(alone, table, devices=None), extract(shared, table)
    for count in ("inputs", "decoded_frames", "converted_frames"):
        assert getattr(two.profile, count) == getattr(one.profile, count) > 0
    assert (one.profile.devices, two.profile.devices) == (1, 2)
    assert 0 < two.profile.device_share <= 1
    assert two.profile.seconds < two.modalities["video"].seconds
    assert f"{two.profile.decoded_frames} frames decoded" in two.summary()
    assert "2 devices busy " in two.summary()
    assert "limited by: " in two.summary()
    assert shared.feature_set("video").provenance["latest_run"] == two.profile.to_json()


def test_a_replaced_video_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = [make_video(tmp_path / f"{number}.mp4", 20, first_number=number) for number in (0, 50)]
    table = check_clip_table(pd.DataFrame({"clip_id": ["a", "b"], "video": [str(video) for video in videos]}))
    cache = open_cache(tmp_path / "features", create=True)
    assert extract(cache, table).warnings == []
    make_video(videos[1], 30, first_number=99)
    report = extract(cache, table)
    assert (report.modalities["video"].done, report.modalities["video"].skipped) == (1, 1)
    (said,) = report.warnings
    assert "1 clip is in the cache as made from another file or interval" in said
    assert capsys.readouterr().err.count(said) == 1


@pytest.mark.slow
def test_that_the_networks_of_all_processes_are_compiled_is_said_once(
    tmp_path: Path, table: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    extract(open_cache(tmp_path / "features", create=True), table.iloc[::20], compile="on")
    assert capsys.readouterr().err == "tiny_video is compiled for 10 clips; --compile off forbids it\n"


@pytest.mark.parametrize("compile", ["off", pytest.param("on", marks=pytest.mark.slow)])
def test_what_each_process_finds_out_by_itself_is_said_once(
    compile: str,
    tmp_path: Path,
    table: pd.DataFrame,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CXX", "/bin/false")  # what torch.compile calls
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    cache = open_cache(tmp_path / "features", create=True)
    few = table.iloc[::20]  # of ten videos, so that both have some
    report = extract(cache, few, compile=compile, backbones={"video": "tiny_backbones:CrampedVideo"})
    assert report.modalities["video"].done == len(few)
    *compiled, shared = sorted(report.warnings)
    assert [said.partition(" (")[0] for said in compiled] == ["cramped_video cannot be compiled here"] * (
        compile == "on"
    )
    assert shared.startswith("no shared memory for decoded frames (no memory for it)")
    errors = capsys.readouterr().err
    assert [errors.count(said) for said in report.warnings] == [1] * len(report.warnings)


def test_the_clips_of_a_process_that_is_killed_are_done_by_others(
    tmp_path: Path, table: pd.DataFrame, expected: dict[str, np.ndarray]
) -> None:
    cache = open_cache(tmp_path / "features", create=True, format="zarr")
    report = extract(cache, table, **make_deaths(tmp_path / "deaths", 2))
    assert (report.modalities["video"].done, report.failed) == (NUM_CLIPS, 0)
    lost = [warning for warning in report.warnings if "was ended by SIGKILL; was there memory enough?" in warning]
    assert len(lost) == 2
    check_equal(cache, expected)


def test_what_a_killed_process_did_is_counted(tmp_path: Path, table: pd.DataFrame) -> None:
    cache = open_cache(tmp_path / "features", create=True)
    mortal = make_deaths(tmp_path / "deaths", 1)
    mortal["options"]["video"]["delay_s"] = 0.03  # twenty batches take longer than from one word of it to the next
    report = extract(cache, table, **mortal)
    assert (report.modalities["video"].done, report.failed) == (NUM_CLIPS, 0)
    assert report.profile.devices == 2
    assert NUM_CLIPS < report.profile.inputs <= NUM_CLIPS + 40  # two inputs a batch, done again by others


def test_a_video_that_kills_every_process_is_given_up_and_the_others_are_done(tmp_path: Path) -> None:
    rows = [
        {"clip_id": f"{number}/{k}", "video": str(make_video(tmp_path / f"{number}.mp4", 1, first_number=number))}
        for number in (0, 200, 220, 240)
        for k in range(3)
    ]
    cache = open_cache(tmp_path / "features", create=True)
    report = extract(cache, pd.DataFrame(rows), backbones={"video": "tiny_backbones:PoisonedVideo"}, devices=["cpu"])
    assert (report.modalities["video"].done, report.failed) == (9, 3)
    failures = cache.feature_set("video").failures()
    assert sorted(failures["clip_id"]) == ["0/0", "0/1", "0/2"]
    assert set(failures["stage"]) == {"worker"}
    assert "3 workers died over" in failures["reason"][0]
    assert "0.mp4" in failures["reason"][0]
    assert "ended by SIGKILL" in failures["reason"][0]


def test_a_bug_in_a_backbone_keeps_its_traceback_and_the_whole_clips(tmp_path: Path, table: pd.DataFrame) -> None:
    cache = open_cache(tmp_path / "features", create=True)
    with pytest.raises(ZeroDivisionError, match="a bug in a user's backbone") as caught:
        extract(cache, table, backbones={"video": "tiny_backbones:ScreamingVideo"}, batch_size=3)
    assert "tiny_backbones.py" in caught.value.__notes__[0]
    assert num_committed(cache.path) >= 6
    assert verify_cache(cache).ok


def test_what_all_processes_say_is_said_once(tmp_path: Path, table: pd.DataFrame) -> None:
    cache = open_cache(tmp_path / "features", create=True)
    with pytest.raises(BackboneError, match=r"^tiny_video has no option 'num_frame'; did you mean 'num_frames'\?"):
        extract(cache, table, options={"video": {"num_frame": 3}})
    assert cache.feature_sets() == []


def test_failed_clips_and_warnings_come_from_all_processes(tmp_path: Path, table: pd.DataFrame) -> None:
    late = {"start_s": 50.0, "end_s": 51.0}
    broken = table.assign(clip_id="late/" + table["clip_id"], **late).iloc[::20]
    gone = table.assign(video=str(tmp_path / "gone.mp4"), clip_id="gone/" + table["clip_id"]).iloc[::50]
    whole = table.drop_duplicates("video")
    cache = open_cache(tmp_path / "features", create=True)
    report = extract(cache, pd.concat([broken, gone, whole]))
    assert (report.modalities["video"].done, report.failed) == (10, 14)
    failures = cache.feature_set("video").failures()
    assert sorted(failures["clip_id"]) == sorted([*broken["clip_id"], *gone["clip_id"]])
    assert extract(cache, whole).failed == 0
    assert len(cache.feature_set("video").failures()) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": ["cpu", "cuda:99"]}, r"no device 'cuda:99' on this machine: it has \w+ GPU"),
        ({"devices": ["0", "99"]}, r"no device 'cuda:\d+' on this machine: it has \w+ GPU"),
        ({"devices": ["abacus"]}, "no device 'abacus' here"),
        ({"devices": []}, "no devices are named; give some, such as 0,1 or cpu,cpu"),
        ({"device": "cpu"}, "one device or several devices"),
        ({"devices": None, "engine": "rey"}, "unknown engine 'rey'; known: ray"),
        ({"engine": "ray"}, "Ray gives each worker its device"),
    ],
)
def test_workers_that_cannot_be_are_refused_before_any_work(
    options: dict[str, Any], message: str, tmp_path: Path, table: pd.DataFrame
) -> None:
    cache = open_cache(tmp_path / "features", create=True)
    with pytest.raises(EngineError, match=message):
        extract(cache, table, **options)
    assert cache.feature_sets() == []


def test_ctrl_c_ends_all_processes_and_keeps_what_is_whole(tmp_path: Path, table: pd.DataFrame) -> None:
    cache = open_cache(tmp_path / "features", create=True)
    slow = {"video": {"delay_s": 0.1}}
    interrupt = when(lambda: num_committed(cache.path) > 5, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        extract(cache, table, options=slow)
    interrupt.join()
    assert not multiprocessing.active_children()
    assert 5 < num_committed(cache.path) < NUM_CLIPS
    assert verify_cache(cache).ok


def last_word(task: WorkerTask, given: list[FileWork | None]) -> Ended:
    """What a worker ends with that is given these files."""
    said: list[Message] = []
    feed = WorkerFeed(task.name, said.append)
    for file in given:
        feed.answer(file)
    work(task, feed)
    assert isinstance(said[-1], Ended)
    return said[-1]


def test_a_worker_that_sees_another_cache_or_no_data_says_so(tmp_path: Path, table: pd.DataFrame) -> None:
    cache = open_cache(tmp_path / "features", create=True)
    configs = modality_configs(["video"], backbones=TINY["backbones"], weights="random:0", precision="float32")
    task = WorkerTask("far away", str(cache.path), "marker", add_sources(table), Extraction(configs=configs), "cpu")
    message = f"the cache {cache.path} that far away sees is not the one of the run; it must lie on a disk"
    assert str(last_word(task, [None]).error).startswith(message)
    (cache.path / "marker").touch()
    assert last_word(task, [None]).error is None
    unseen = FileWork(str(tmp_path / "gone.mp4"), True, 1.0, {("video", "v0/0", 0): "0" * 16})
    message = f"far away does not see {tmp_path / 'gone.mp4'}, which is there where the run was started"
    assert str(last_word(task, [unseen]).error).startswith(message)
