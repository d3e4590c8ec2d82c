"""How fast a backbone is: what is counted, and that the figures fit together. How fast, no test says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_faces import draw_face, needs_mtcnn
from tiny_media import draw_video

from mgcli.cache import MgcliError
from mgcli.extract import BackboneError, bench_backbone, bench_skeleton_reading, create_backbone
from mgcli.extract.bench_faces import time_faces
from mgcli.extract.bench_input import count_flops, make_input


def test_figures_are_positive_and_fit_together() -> None:
    report = bench_backbone("tiny_backbones:TinyVideo", batch_sizes=(8, 1, 4), seconds=0, device="cpu")
    assert [rate.batch_size for rate in report.rates] == [1, 4, 8]
    assert report.rounds == 3
    assert report.peak_flops_per_s > 0
    for rate in report.rates:
        assert rate.inputs_per_s > 0
        assert rate.peak_share == pytest.approx(rate.inputs_per_s * report.flops_per_input / report.peak_flops_per_s)
    assert report.batch_gain == report.rates[-1].inputs_per_s / report.rates[0].inputs_per_s
    assert report.input_shape == (4, 3 * 8 * 8)
    assert report.weights == "random:0"
    assert report.threads == torch.get_num_threads()


def test_a_report_says_all_it_holds_as_text_and_as_json() -> None:
    report = bench_backbone(
        "tiny_backbones:TinyVideo", tokens="pooled", batch_sizes=[2], seconds=0, device="cpu", precision="float32"
    )
    plain = report.to_json()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["tokens"] == "pooled"
    assert plain["rates"] == [vars(rate) for rate in report.rates]
    for part in ("tiny_video (pooled)", "float32", "weights random:0", "a window of 4 frames", report.device, "FLOP/s"):
        assert part in report.summary()
    assert "against" not in report.summary()  # there is one batch size


def test_below_float32_the_tokens_are_compared_with_those_in_float32() -> None:
    report = bench_backbone("tiny_backbones:TinyVideo", batch_sizes=[1], seconds=0, device="cpu", precision="bfloat16")
    assert report.cosine_to_float32 is not None
    assert 0.999 < report.cosine_to_float32 < 1
    assert report.to_json()["cosine_to_float32"] == report.cosine_to_float32
    assert "tokens against float32: mean cosine similarity 0.999" in report.summary()
    exact = bench_backbone("tiny_backbones:TinyVideo", batch_sizes=[1], seconds=0, device="cpu", precision="float32")
    assert exact.cosine_to_float32 is None
    assert "cosine" not in exact.summary()


@needs_mtcnn
def test_faces_are_timed_in_a_video_as_large_as_it_is(tmp_path: Path) -> None:
    draw_video(tmp_path / "v.mp4", [draw_face(40)] * 3 + [np.full((240, 320, 3), 90, np.uint8)] * 2)
    report = bench_backbone("swinface", batch_sizes=[1], seconds=0.001, device="cpu", video=tmp_path / "v.mp4")
    assert report.faces is not None
    assert (report.faces.frames, report.faces.frames_in_video) == (1, 5)  # the time is over after one
    faces = time_faces(tmp_path / "v.mp4", "mtcnn", torch.device("cpu"), seconds=60)
    assert (faces.frames, faces.frames_with_face, faces.width_px, faces.height_px) == (5, 3, 320, 240)
    assert faces.frames_per_s > 0
    plain = report.to_json()
    assert json.loads(json.dumps(plain))["faces"] == vars(report.faces)
    assert "320 x 240; 1 of 1 frames, the first of 5 have one" in report.summary()


def test_without_a_batch_size_some_are_chosen() -> None:
    report = bench_backbone("tiny_backbones:TinyVideo", seconds=0, device="cpu")
    assert [rate.batch_size for rate in report.rates] == [1, 2]  # no time for more
    assert "batch 2 against batch 1" in report.summary()


def test_a_fixed_computation_has_no_share_of_the_peak() -> None:
    report = bench_backbone("joints", options={"num_joints": 5}, batch_sizes=(1, 2), seconds=0, device="cpu")
    assert report.flops_per_input == 0
    assert report.weights == "none"
    assert [rate.peak_share for rate in report.rates] == [None, None]
    assert report.summary().splitlines()[-3].split()[-1] == "-"


def test_flops_are_those_of_products_and_convolutions() -> None:
    linear = create_backbone("tiny_backbones:TinyVideo", weights="random:0")
    by_hand = 2 * 4 * (192 * 16 + 2 * 2 * 16 * 32)  # 4 frames: the stem, two layers in each of two blocks
    assert count_flops(linear, torch.rand(1, 4, 192)) == by_hand
    assert count_flops(linear, torch.rand(3, 4, 192)) == 3 * by_hand


def test_flops_of_attention_count_both_of_its_products() -> None:
    backbone = create_backbone("timm:test_vit", weights="random:0", num_frames=1)
    inputs, _ = make_input(backbone)
    width, tokens, hidden, layers = 64, 101, 3 * 64, 6
    layer = tokens * (4 * width**2 + 2 * width * hidden) + 2 * tokens**2 * width
    stem = (tokens - 1) * width * 3 * 16**2
    assert count_flops(backbone, backbone.finish(inputs[None])) == 2 * (layers * layer + stem)


@pytest.mark.parametrize(
    ("name", "options", "said", "shape"),
    [
        ("agcn_joint", {"num_frames": 8}, "a skeleton clip of 8 frames, 22 joints, people: 1", (3, 8, 22, 1)),
        ("agcn_bone", {"num_people": 2, "joints": "ntu25"}, "64 frames, 25 joints, people: 2", (3, 64, 25, 2)),
        ("swinface", {}, "a face", (3, 112, 112)),
        ("timm:test_vit", {"num_frames": 2}, "a window of 2 frames", (2, 3, 160, 160)),
    ],
)
def test_inputs_are_what_the_backbone_prepares(
    name: str, options: dict[str, object], said: str, shape: tuple[int, ...]
) -> None:
    inputs, found = make_input(create_backbone(name, weights="random:0", **options))
    assert tuple(inputs.shape) == shape
    assert said in found


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("mvit", {}, "unknown backbone 'mvit'; did you mean 'mvit_v2_s'"),
        ("tiny_backbones:TinyVideo", {"batch_sizes": (4, 0)}, "batch size is 0; it must be 1 or more"),
        ("tiny_backbones:TinyVideo", {"precision": "float8"}, "unknown precision 'float8'"),
        ("tiny_backbones:TinyVideo", {"options": {"num_frame": 2}}, "did you mean 'num_frames'"),
        ("joints", {"weights": "random:1"}, "without weights"),
        ("tiny_backbones:TinyVideo", {"video": Path("v.mp4")}, "with a backbone that reads them; tiny_video does not"),
        ("tiny_backbones:HungryVideo", {"batch_sizes": (1, 2)}, "not enough memory for a batch of 2; name smaller"),
    ],
)
def test_what_cannot_be_timed_says_why(name: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        bench_backbone(name, device="cpu", **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["csv", pytest.param("xlsx", marks=pytest.mark.slow)])
def test_reading_skeletons_is_timed_from_files_and_from_the_store(form: str, tmp_path: Path) -> None:
    report = bench_skeleton_reading(scale=0.003, form=form, workers=1, folder=tmp_path, progress=False)
    assert (report.videos, report.clips) == (1, 56)
    assert report.minutes == pytest.approx(2092 / 359, abs=0.1)
    frames = round(report.minutes * 60 * 25)
    joints_bytes = frames * {"csv": 35, "xlsx": 137}[form] * 3 * 4
    assert report.store_bytes == joints_bytes + 4096  # so the second reading had what it needed
    plain = report.to_json()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["first"]["seconds"] == plain["first"]["sources_s"] + plain["first"]["joints_s"] > 0
    assert f"56 clips of 1 videos, {report.minutes:.0f} min" in report.summary()
    assert not any(tmp_path.iterdir())


def test_a_benchmark_of_skeletons_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(MgcliError, match="no form 'ods' of skeleton files; there is: csv, xlsx"):
        bench_skeleton_reading(form="ods")
    with pytest.raises(MgcliError, match="scale is 0; it must be above 0"):
        bench_skeleton_reading(scale=0)
