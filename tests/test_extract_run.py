"""A run with decoder processes: faults of a process, Ctrl-C, what is said of the run, how a network is run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from decoder_children import child_ids
from tiny_media import make_video
from torch._dynamo.exc import TorchDynamoException

from mgcli.cache import FeatureCache, check_clip_table, open_cache, verify_cache
from mgcli.extract import (
    BackboneError,
    ExtractReport,
    PipelineBench,
    PipelineBenchConfig,
    add_sources,
    bench_extraction,
    create_backbone,
    extract_modalities,
)
from mgcli.extract.alone import extract_alone
from mgcli.extract.bench_forward import warm_up
from mgcli.extract.bench_ready import decode_alone
from mgcli.extract.decoder_library import PYAV
from mgcli.extract.device import COMPILE_FROM_CLIPS, choose_compile
from mgcli.extract.modality import clip_requests, modality_configs
from mgcli.extract.plan import Extraction
from mgcli.extract.read_ahead import read_ahead
from mgcli.extract.run import make_decoders
from mgcli.extract.write_behind import WriteBehind

CLIPS_PER_VIDEO = 40
RUNNER = """
import sys
from pathlib import Path
from mgcli.cache import open_cache, read_clip_table
from mgcli.extract import extract_modalities

folder = Path(sys.argv[1])
extract_modalities(
    open_cache(folder / "cache", create=True), read_clip_table(folder / "clips.csv"), ["video"],
    backbones={"video": "tiny_backbones:TinyVideo"}, options={"video": {"delay_s": 0.2}},
    weights="random:0", precision="float32", workers=2, batch_size=1, progress=False,
)
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Three videos, large enough that a decoder has to wait for room, with 40 overlapping clips each."""
    folder = tmp_path_factory.mktemp("run")
    rows = []
    for i in range(3):
        video = make_video(folder / f"v{i}.mp4", 200, size_px=(640, 480), first_number=50 * i)
        for k in range(CLIPS_PER_VIDEO):
            rows.append({"clip_id": f"v{i}/{k}", "video": str(video), "start_s": 0.18 * k, "end_s": 0.18 * k + 0.8})
    return check_clip_table(pd.DataFrame(rows))


def run(cache: FeatureCache, table: pd.DataFrame, *, delay_s: float = 0.0, **options: Any) -> ExtractReport:
    usual = {"precision": "float32", "weights": "random:0", "progress": False, "batch_size": 2, "workers": 1}
    return extract_modalities(
        cache,
        table,
        ["video"],
        backbones={"video": "tiny_backbones:TinyVideo"},
        options={"video": {"delay_s": delay_s}},
        **(usual | options),
    )


def tokens_of(cache: FeatureCache) -> dict[str, np.ndarray]:
    features = cache.feature_set("video")
    return {clip_id: features.load([clip_id])[0].copy() for clip_id in features.clips()["clip_id"]}


def strike(fault: signal.Signals, after_s: float) -> threading.Thread:
    """Send a signal to the first decoder process that has run for so long."""

    def wait_and_strike() -> None:
        while not (found := child_ids()):
            time.sleep(0.01)
        time.sleep(after_s)
        os.kill(found[0], fault)

    thread = threading.Thread(target=wait_and_strike, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("fault", [signal.SIGSEGV, signal.SIGSTOP])
def test_a_crash_or_hang_costs_one_video_and_the_next_run_mends_it(
    fault: signal.Signals, tmp_path: Path, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mgcli.extract.decoder_process.SILENCE_LIMIT_S", 3.0)
    cache, undisturbed = (open_cache(tmp_path / name, create=True) for name in ("struck", "undisturbed"))
    struck = strike(fault, after_s=0.5)
    report = run(cache, table, delay_s=0.1)
    struck.join()
    assert 0 < report.failed <= CLIPS_PER_VIDEO
    failures = cache.feature_set("video").failures()
    assert failures["clip_id"].str.partition("/")[0].nunique() == 1
    said = "hung, without a sign of life" if fault == signal.SIGSTOP else "crashed (SIGSEGV)"
    assert failures["reason"].str.contains(said, regex=False).all()
    assert report.modalities["video"].done == len(table) - report.failed
    assert child_ids() == []
    assert run(cache, table).modalities["video"].done == report.failed
    run(undisturbed, table, workers=0)
    found, expected = tokens_of(cache), tokens_of(undisturbed)
    assert found.keys() == expected.keys()
    largest = max(np.abs(each).max() for each in expected.values())
    assert max(np.abs(found[key] - expected[key]).max() for key in expected) <= 1e-5 * largest
    assert verify_cache(cache).ok


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_leaves_no_decoder_behind(stop: signal.Signals, tmp_path: Path, table: pd.DataFrame) -> None:
    table.to_csv(tmp_path / "clips.csv", index=False)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(tmp_path)],
        env=environment,
        stderr=subprocess.PIPE,
    )
    until(lambda: len(child_ids(process.pid)) == 2)
    decoders = child_ids(process.pid)
    process.send_signal(stop)
    process.communicate(timeout=60)
    until(lambda: not any(Path(f"/proc/{each}").exists() for each in decoders))


def until(done: Callable[[], bool], limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_run_says_where_its_time_went(tmp_path: Path, table: pd.DataFrame) -> None:
    cache = open_cache(tmp_path / "cache", create=True)
    report = run(cache, table.iloc[:8], delay_s=0.05)
    plain = report.to_json()["video"]["run"]
    assert json.loads(json.dumps(plain)) == plain
    assert plain["inputs"] == 8
    assert plain["decoded_frames"] >= plain["converted_frames"] > 8
    assert plain["device_s"] >= 4 * 0.05
    assert plain["limited_by"] in ("decode", "device", "write")
    assert 0 < plain["device_share"] <= 1
    assert "frames decoded" in report.summary()
    assert "limited by: " in report.summary()
    reopened = open_cache(cache.path).feature_set("video")
    assert reopened.provenance["latest_run"] == plain
    assert reopened.provenance["torch"] in torch.__version__
    again = run(cache, table.iloc[:8])
    assert again.profile.inputs == 0
    assert open_cache(cache.path).feature_set("video").provenance["latest_run"] == plain


def test_a_video_that_was_replaced_is_said(
    tmp_path: Path, table: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = open_cache(tmp_path / "cache", create=True)
    video = make_video(tmp_path / "v.mp4", 40)
    rows = check_clip_table(pd.DataFrame({"clip_id": ["a"], "video": [str(video)], "start_s": [0.0], "end_s": [1.0]}))
    assert run(cache, rows).warnings == []
    make_video(video, 40, first_number=99)
    report = run(cache, rows)
    assert report.modalities["video"].done == 1
    (said,) = report.warnings
    assert "1 clip is in the cache as made from another file or interval" in said
    assert "mgcli cache explain" in said
    assert said in capsys.readouterr().err


def test_a_network_is_compiled_where_it_pays_or_is_forced() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [choose_compile("auto", device, COMPILE_FROM_CLIPS) for device in (cpu, cuda)] == [False, True]
    assert not choose_compile("auto", cuda, COMPILE_FROM_CLIPS - 1)
    assert choose_compile("on", cpu, 1)
    assert not choose_compile("off", cuda, 10**6)
    with pytest.raises(BackboneError, match="unknown choice 'maybe' for compile; known: auto, on, off"):
        choose_compile("maybe", cpu, 1)


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_tokens(
    tmp_path: Path, table: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, compiled = (open_cache(tmp_path / name, create=True) for name in ("plain", "compiled"))
    run(plain, table.iloc[:7])
    run(compiled, table.iloc[:7], compile="on", batch_size=4)
    assert "tiny_video is compiled for 7 clips; --compile off forbids it" in capsys.readouterr().err
    found, expected = tokens_of(compiled), tokens_of(plain)
    for clip_id, tokens in expected.items():
        assert np.abs(found[clip_id] - tokens).max() <= 1e-5 * np.abs(tokens).max()


def test_files_are_asked_for_when_they_are_about_to_be_read() -> None:
    asked: list[int] = []

    def files() -> Iterator[int]:
        for number in range(20):
            asked.append(number)
            yield number

    items = read_ahead(files(), lambda number: iter([number]), workers=2, lookahead=3)
    first = next(items)
    time.sleep(0.3)
    assert len(asked) <= 1 + 3 + 2  # taken, waiting, and one that each worker holds
    assert sorted([first, *items]) == list(range(20))


def test_writing_behind_keeps_the_order_and_hands_errors_back() -> None:
    done: list[int] = []

    def fail() -> None:
        raise OSError("disk full")

    with WriteBehind() as behind:
        for number in range(50):
            behind.do(lambda number=number: done.append(number))  # type: ignore[misc]
    assert done == list(range(50))
    with pytest.raises(OSError, match="disk full"), WriteBehind() as behind:
        behind.do(fail)
    assert behind.busy_s > 0


def bench_tiny(**changed: Any) -> PipelineBench:
    """The bench of stage one with little to do."""
    usual = {"backbone": "tiny_backbones:TinyVideo", "tokens": None, "videos": 2, "minutes": 0.05, "clips": 6}
    usual |= {"width_px": 96, "height_px": 64, "plain_clips": 2, "precision": "float32", "device": "cpu"}
    return bench_extraction(PipelineBenchConfig(**usual | changed), progress=False)


def test_bench_times_all_ways_and_its_figures_fit_together(capsys: pytest.CaptureFixture[str]) -> None:
    timed = bench_tiny()
    assert timed.clips == 6
    assert timed.over_forward == timed.pipeline_s / timed.forward_s
    assert timed.over_plain == pytest.approx(timed.plain_clip_s * 6 / timed.pipeline_s)
    assert 0 < timed.profile.decoded_frames <= timed.decoded_least
    plain = timed.to_json()
    assert json.loads(json.dumps(plain)) == plain
    assert {"over_forward", "over_plain", "profile", "config"} <= plain.keys()
    assert "times as fast" in timed.summary()
    assert (timed.compiled, timed.batch_size) == (False, 2)
    assert capsys.readouterr().out == ""


def test_bench_tells_the_network_and_the_decoders_apart() -> None:
    timed = bench_tiny(workers=1)
    ready, decode, h264 = timed.ready_profile, timed.decode_profile, timed.profile
    assert ready.inputs == decode.inputs == h264.inputs == 6
    assert ready.decoded_frames == ready.converted_frames == ready.decode_s == 0
    assert ready.device_s > 0 < ready.write_s
    assert decode.device_s == decode.write_s == 0
    assert (decode.decoded_frames, decode.converted_frames) == (h264.decoded_frames, h264.converted_frames)
    assert h264.first_inputs == 2
    assert 0 < h264.first_s < h264.seconds
    assert h264.inputs_per_s == 4 / (h264.seconds - h264.first_s)
    rates = timed.rates()
    assert rates["forward_per_s"] == 6 / timed.forward_s
    assert rates["ready_of_forward"] == ready.inputs_per_s / rates["forward_per_s"]
    assert rates["h264_of_forward"] == h264.inputs_per_s / rates["forward_per_s"]
    slower = min(rates["forward_per_s"], rates["decode_per_s"])
    assert rates["h264_of_slower"] == h264.inputs_per_s / slower
    assert timed.slower == ("decoders" if slower == decode.inputs_per_s else "forward pass")
    assert timed.to_json() | rates == timed.to_json()
    said = timed.summary()
    assert f"from ready frames    {ready.inputs_per_s:8.2f} clips/s, {rates['ready_of_forward']:.2f} of" in said
    assert f"of the slower of it and the decoders: the {timed.slower}" in said


def test_pictures_given_again_make_the_tokens_that_decoding_makes(tmp_path: Path, table: pd.DataFrame) -> None:
    few = table.iloc[::10]
    config = {"backbones": {"video": "tiny_backbones:TinyVideo"}, "weights": "random:0", "precision": "float32"}
    extraction = Extraction(configs=modality_configs(["video"], **config), workers=2)
    backbone = create_backbone("tiny_backbones:TinyVideo", weights="random:0")
    requests = clip_requests(add_sources(few), backbone, "video")
    decoders = make_decoders(2, PYAV, pytest.fail)
    profile, ready = decode_alone(requests, decoders, workers=2, lookahead=2, repeats_after=7)
    assert profile.inputs == len(few)
    again, decoded = (open_cache(tmp_path / name, create=True) for name in ("again", "decoded"))
    report = extract_alone(again, few, extraction, device="cpu", show_progress=False, decoders=ready)
    assert report.profile.decoded_frames == 0
    extract_alone(decoded, few, extraction, device="cpu", show_progress=False)
    found, expected = tokens_of(again), tokens_of(decoded)
    assert found.keys() == expected.keys()
    for clip_id, tokens in expected.items():
        np.testing.assert_array_equal(found[clip_id], tokens)


def test_bench_compiles_the_network_of_the_pipeline_and_the_one_it_is_measured_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(torch, "compile", lambda network, dynamic: compiled.append(network.name) or network)
    timed = bench_tiny(compile="on")
    assert compiled == ["tiny_video"] * 3  # of the forward pass alone, from ready frames, from videos
    assert timed.compiled
    assert "float32, compiled, batch 2" in timed.summary()


def test_a_bench_of_a_network_that_cannot_be_compiled_says_so() -> None:
    backbone = create_backbone("tiny_backbones:TinyVideo", weights="random:0")

    def refuse(_: torch.Tensor) -> torch.Tensor:
        raise TorchDynamoException("no C++ compiler\nand more")

    with pytest.raises(BackboneError, match=r"tiny_video cannot be compiled here \(no C.. compiler\); give --compile"):
        warm_up(backbone, refuse, 2)


def test_a_bench_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(BackboneError, match="unknown choice 'maybe' for compile; known: auto, on, off"):
        bench_tiny(compile="maybe")
    with pytest.raises(BackboneError, match="clips is 0; it must be 1 or more"):
        PipelineBenchConfig(clips=0)
