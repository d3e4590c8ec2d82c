"""Stage one end to end on tiny videos and backbones: the same tokens on every way, and no clip drags others down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny_media import draw_video, make_audio, make_grey_jpegs, make_skeleton, make_video, number_picture

from mgcli.cache import CacheError, ClipTableError, FeatureCache, check_clip_table, open_cache, verify_cache
from mgcli.extract import BackboneError, ExtractReport, extract_modalities

TINY = {"video": "tiny_backbones:TinyVideo", "context": "tiny_backbones:TinyWindows", "pose": "joints"}
BUFFER = {"workers": 0, "progress": False, "precision": "float32"}


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos of 60 frames at 25 frames/s, each with its skeleton."""
    folder = tmp_path_factory.mktemp("media")
    for i in range(3):
        make_video(folder / f"v{i}.mp4", 60, first_number=40 * i)
        make_skeleton(folder / f"v{i}.npy", 60, seed=i)
    return folder


def clip_table(media: Path, **columns: list[Any]) -> pd.DataFrame:
    """Four overlapping gesture clips and one whole interview of each video."""
    rows = []
    for i in range(3):
        files = {"video": str(media / f"v{i}.mp4"), "skeleton": str(media / f"v{i}.npy"), "split": "train"}
        for k in range(4):
            interval = {"start_s": 0.5 * k, "end_s": 0.5 * k + 0.8}
            rows.append({"clip_id": f"v{i}/{k}", **files, **interval, "gesture": str(k % 2)})
        rows.append({"clip_id": f"v{i}/all", **files, "emotion": "win"})
    return check_clip_table(pd.DataFrame(rows).assign(**columns))


def extract(cache: FeatureCache, table: pd.DataFrame, *modalities: str, **options: Any) -> ExtractReport:
    backbones = {name: TINY[name] for name in modalities if name in TINY}
    return extract_modalities(
        cache, table, modalities, **({"backbones": backbones, "weights": "random:0"} | BUFFER | options)
    )


def all_tokens(cache: FeatureCache, modality: str) -> dict[str, np.ndarray]:
    feature_set = cache.feature_set(modality)
    return {clip_id: feature_set.load([clip_id])[0].copy() for clip_id in feature_set.clips()["clip_id"]}


def failures(cache: FeatureCache, modality: str = "video") -> dict[str, tuple[str, str]]:
    rows = cache.feature_set(modality).failures().itertuples()
    return {row.clip_id: (row.stage, row.reason) for row in rows}


def scaled_error(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    assert found.keys() == expected.keys()
    largest = max(np.abs(tokens).max() for tokens in expected.values())
    return max(float(np.abs(found[key] - expected[key]).max()) for key in expected) / float(largest)


def test_a_grey_video_gives_the_tokens_of_the_same_pictures_in_colour(tmp_path: Path) -> None:
    pictures = [number_picture(number, 64, 48) for number in range(30)]
    draw_video(tmp_path / "colour.mp4", pictures, pixels="yuv420p")
    draw_video(tmp_path / "h264.mp4", pictures, pixels="gray")
    make_grey_jpegs(tmp_path / "mjpeg.avi", pictures)
    names = ["colour.mp4", "h264.mp4", "mjpeg.avi"]
    table = check_clip_table(pd.DataFrame({"clip_id": names, "video": [str(tmp_path / name) for name in names]}))
    cache = open_cache(tmp_path / "features", create=True)
    assert extract(cache, table, "video", "context").failed == 0
    for modality in ("video", "context"):
        colour, *grey = (all_tokens(cache, modality)[name] for name in names)
        for tokens in grey:
            np.testing.assert_allclose(tokens, colour, atol=0.05 * np.abs(colour).max())


def test_three_modalities_in_one_run(cache: FeatureCache, media: Path) -> None:
    report = extract(cache, clip_table(media), "video", "context", "pose")
    counts = {name: (each["done"], each["skipped"], each["failed"]) for name, each in report.to_json().items()}
    assert counts == {"video": (12, 0, 0), "context": (3, 0, 0), "pose": (12, 0, 0)}
    assert set(report.to_json()["video"]) == {
        *("feature_set", "done", "skipped", "failed", "seconds", "clips_per_second", "run")
    }
    json.dumps(report.to_json())
    assert "weights are random:0" in report.summary()
    tokens, offsets = cache.feature_set("video").load(["v0/0", "v2/3"])
    assert tokens.shape == (10, 16)
    assert offsets.tolist() == [0, 5, 10]
    assert cache.feature_set("context").load(["v1/all"])[0].shape == (6, 16)  # 2.4 s in windows of 0.4 s
    assert cache.feature_set("pose").load(["v1/2"])[0].shape == (32, 15)
    time_s, valid = cache.feature_set("video").load_times(["v0/1"])
    np.testing.assert_allclose(time_s, [0.9, 0.6, 0.8, 1.0, 1.2], atol=1e-6)
    assert valid.all()
    assert verify_cache(cache).ok


def test_modalities_together_equal_modalities_alone(tmp_path: Path, media: Path) -> None:
    together, alone = (open_cache(tmp_path / name, create=True) for name in ("together", "alone"))
    extract(together, clip_table(media), "video", "context", "pose")
    for modality in ("video", "context", "pose"):
        extract(alone, clip_table(media), modality)
        assert scaled_error(all_tokens(together, modality), all_tokens(alone, modality)) < 1e-5


def test_tokens_do_not_depend_on_the_number_of_workers_or_the_format(tmp_path: Path, media: Path) -> None:
    found = []
    for number, (workers, format) in enumerate([(0, "hdf5"), (2, "hdf5"), (3, "zarr")]):
        cache = open_cache(tmp_path / f"{number}", create=True, format=format)
        extract(cache, clip_table(media), "video", "context", workers=workers, batch_size=4)
        found.append([all_tokens(cache, "video"), all_tokens(cache, "context")])
    for other in found[1:]:
        for modality in (0, 1):
            assert scaled_error(other[modality], found[0][modality]) < 1e-5


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_tokens_do_not_depend_on_the_batch(batch_size: int, tmp_path: Path, media: Path) -> None:
    one, other = (open_cache(tmp_path / name, create=True) for name in ("one", "other"))
    extract(one, clip_table(media), "video", batch_size=2)
    extract(other, clip_table(media), "video", batch_size=batch_size)
    assert scaled_error(all_tokens(other, "video"), all_tokens(one, "video")) < 1e-5


def test_a_batch_that_is_too_large_is_halved(tmp_path: Path, media: Path) -> None:
    cache, plain = (open_cache(tmp_path / name, create=True) for name in ("hungry", "plain"))
    hungry = {"video": "tiny_backbones:HungryVideo"}
    assert extract(cache, clip_table(media), "video", backbones=hungry, batch_size=8).failed == 0
    extract(plain, clip_table(media), "video")
    assert scaled_error(all_tokens(cache, "video"), all_tokens(plain, "video")) < 1e-5


def test_a_second_run_does_nothing_and_new_clips_only(cache: FeatureCache, media: Path) -> None:
    table = clip_table(media)
    first = extract(cache, table.iloc[:6], "video")
    second = extract(cache, table, "video")
    third = extract(cache, table, "video")
    assert [(r.to_json()["video"]["done"], r.to_json()["video"]["skipped"]) for r in (first, second, third)] == [
        (5, 0),
        (7, 5),
        (0, 12),
    ]


def test_a_changed_interval_or_file_is_done_again_and_named_by_the_table(tmp_path: Path) -> None:
    video = make_video(tmp_path / "v.mp4", 40)
    skeleton = make_skeleton(tmp_path / "s.npy", 40)
    rows = {"clip_id": ["a"], "video": [str(video)], "skeleton": [str(skeleton)], "start_s": [0.0], "end_s": [1.0]}
    cache = open_cache(tmp_path / "cache", create=True)

    def run(**columns: list[float]) -> tuple[int, int]:
        report = extract(cache, check_clip_table(pd.DataFrame(rows | columns)), "video", "pose").to_json()
        return report["video"]["done"], report["pose"]["done"]

    assert run() == (1, 1)
    assert run() == (0, 0)
    assert run(end_s=[0.5]) == (1, 1)
    joints = np.load(skeleton)
    joints[20, 0] = 0  # size and ends of the file stay as they were
    np.save(skeleton, joints)
    assert run() == (0, 1)
    make_video(video, 40, first_number=99)
    assert run() == (1, 1)  # the skeleton has no rate of its own: its times come from the video
    newest = cache.read_clips()
    assert cache.feature_set("video").load(["a"], sources=newest["video_source"].tolist())[0].shape == (5, 16)
    assert len(cache.feature_set("video").clips()) == 3


def test_frames_and_seconds_name_the_same_interval(tmp_path: Path, media: Path) -> None:
    files = {"video": [str(media / "v0.mp4")] * 2}
    table = pd.DataFrame(
        {"clip_id": ["s", "f"], **files, "start_s": [0.4, ""], "end_s": [1.2, ""]}
        | {"start_frame": ["", 10], "end_frame": ["", 30]}
    )
    cache = open_cache(tmp_path / "cache", create=True)
    assert extract(cache, table, "video").failed == 0
    tokens = all_tokens(cache, "video")
    np.testing.assert_allclose(tokens["s"], tokens["f"], atol=1e-5)


def test_only_clips_of_the_task_are_extracted(tmp_path: Path, media: Path) -> None:
    cache = open_cache(tmp_path / "cache", create=True)
    report = extract(cache, clip_table(media), "video", "context", task="gesture")
    assert [each.done for each in report.modalities.values()] == [12, 12]
    no_labels = clip_table(media).assign(emotion="")
    assert extract(cache, no_labels, "context").modalities["context"].done == 3
    with pytest.raises(ClipTableError, match="no clip of the table has a label"):
        extract(cache, no_labels, "video", task="emotion")


def test_clips_without_any_label_go_with_those_that_look_like_them(tmp_path: Path, media: Path) -> None:
    table = clip_table(media)
    is_test = table["video"] == str(media / "v2.mp4")
    table.loc[is_test, ["gesture", "emotion"]] = ""
    cache = open_cache(tmp_path / "cache", create=True)
    report = extract(cache, table, "video", "context")
    assert [each.done for each in report.modalities.values()] == [12, 3]
    assert cache.feature_set("context").clips()["clip_id"].tolist() == ["v0/all", "v1/all", "v2/all"]
    assert extract(cache, table, "context", task="gesture").modalities["context"].done == 12


def broken_table(folder: Path, media: Path) -> pd.DataFrame:
    """A healthy clip, and one clip for each fault that a clip can have."""
    whole = make_video(folder / "whole.mp4", 100, container_options={"movflags": "+faststart"}).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) * 6 // 10])
    (folder / "headless.mp4").write_bytes(make_video(folder / "whole2.mp4").read_bytes()[:900])
    (folder / "empty.mp4").touch()
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(9000))
    make_audio(folder / "audio.m4a")
    healthy = str(media / "v0.mp4")
    rows = [
        ("healthy", healthy, 0.0, 1.0),
        ("missing", str(folder / "gone.mp4"), 0.0, 1.0),
        ("empty", str(folder / "empty.mp4"), 0.0, 1.0),
        ("headless", str(folder / "headless.mp4"), 0.0, 1.0),
        ("noise", str(folder / "noise.mp4"), 0.0, 1.0),
        ("audio", str(folder / "audio.m4a"), 0.0, 1.0),
        ("late", healthy, 5.0, 6.0),
        ("nameless", "", 0.0, 1.0),
        ("cut", str(folder / "cut.mp4"), None, None),
        ("cut, part", str(folder / "cut.mp4"), 0.0, 0.3),
        ("long, ä/ö #1", healthy, 1.0, 9.0),
    ]
    return pd.DataFrame(rows, columns=["clip_id", "video", "start_s", "end_s"])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_clip_that_fails_is_listed_and_the_run_goes_on(
    workers: int, cache: FeatureCache, media: Path, tmp_path: Path
) -> None:
    report = extract(cache, broken_table(tmp_path, media), "video", workers=workers)
    assert (report.modalities["video"].done, report.failed) == (3, 8)
    assert set(all_tokens(cache, "video")) == {"healthy", "cut, part", "long, ä/ö #1"}
    found = failures(cache)
    for clip_id, stage, reason in [
        ("missing", "open", "no such file"),
        ("empty", "open", "empty (0 bytes)"),
        ("headless", "open", "not a video, or cut short"),
        ("noise", "open", "not a video"),
        ("audio", "open", "only audio"),
        ("late", "interval", "starts at 5.00 s, after the end at 2.40 s"),
        ("nameless", "open", "names no video"),
        ("cut", "interval", "header says 4.00 s"),
    ]:
        assert found[clip_id][0] == stage
        assert reason in found[clip_id][1]
    assert report.warnings == [
        "clip 'long, ä/ö #1': the clip ends at 9.00 s, its video at 2.40 s; what is there is used"
    ]
    assert "8 of 11 clips failed, listed in" in report.summary()
    assert "run the same command again to retry them" in report.summary()
    assert verify_cache(cache).ok


def test_a_failed_clip_is_tried_again(cache: FeatureCache, media: Path, tmp_path: Path) -> None:
    table = broken_table(tmp_path, media).iloc[:2]
    assert extract(cache, table, "video").failed == 1
    make_video(tmp_path / "gone.mp4")
    report = extract(cache, table, "video")
    assert (report.modalities["video"].done, report.modalities["video"].skipped, report.failed) == (1, 1, 0)
    assert failures(cache) == {}


def test_clips_without_a_usable_skeleton_fail_with_the_reason(tmp_path: Path, media: Path) -> None:
    make_skeleton(tmp_path / "other.npy", 60, num_joints=7)
    make_skeleton(tmp_path / "long.npy", 200)
    make_skeleton(tmp_path / "free.npy", 30)
    table = pd.DataFrame(
        {
            "clip_id": ["good", "none", "gone", "other", "long", "rate", "late"],
            "video": [str(media / "v0.mp4")] * 5 + ["", ""],
            "skeleton": [
                *(str(media / "v0.npy"), "", str(tmp_path / "gone.npy"), str(tmp_path / "other.npy")),
                *(str(tmp_path / "long.npy"), str(tmp_path / "free.npy"), str(tmp_path / "free.npy")),
            ],
            "skeleton_fps": ["", "", "", "", "", 10, 10],
            "start_s": [0.0] * 6 + [4.0],
            "end_s": [1.0] * 6 + [5.0],
        }
    )
    cache = open_cache(tmp_path / "cache", create=True)
    extract(cache, table, "pose")
    assert set(all_tokens(cache, "pose")) == {"good", "rate"}
    found = failures(cache, "pose")
    assert "names no skeleton" in found["none"][1]
    assert "no such file" in found["gone"][1]
    assert "7 joints" in found["other"][1]
    assert "200 rows, its video 60 frames" in found["long"][1]
    assert found["late"] == ("interval", "the clip starts at 4.00 s, after the end at 3.00 s")


def test_tokens_that_are_not_finite_are_never_stored(cache: FeatureCache, tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "clip_id": ["bright", "dark"],
            "video": [str(make_video(tmp_path / f"{n}.mp4", 1, first_number=n)) for n in (200, 0)],
        }
    )
    report = extract(cache, table, "video", backbones={"video": "tiny_backbones:NanVideo"})
    assert report.failed == 1
    assert failures(cache)["dark"][0] == "tokens"
    assert set(all_tokens(cache, "video")) == {"bright"}


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_backbone_keeps_its_traceback_and_the_whole_clips(
    workers: int, tmp_path: Path, media: Path
) -> None:
    cache = open_cache(tmp_path / "cache", create=True)
    screaming = {"video": "tiny_backbones:ScreamingVideo"}
    with pytest.raises(ZeroDivisionError, match="a bug in a user's backbone"):
        extract(cache, clip_table(media), "video", backbones=screaming, batch_size=3, workers=workers)
    assert len(all_tokens(cache, "video")) == 6
    assert verify_cache(cache).ok


def test_weights_tokens_and_precision_open_feature_sets_of_their_own(tmp_path: Path, media: Path) -> None:
    cache = open_cache(tmp_path / "cache", create=True)
    table = clip_table(media).iloc[:2]
    for options in ({}, {"weights": "random:1"}, {"tokens": "pooled"}, {"precision": "bfloat16"}):
        extract(cache, table, "video", **options)
    specs = {feature_set.name: feature_set.spec for feature_set in cache.feature_sets()}
    assert len(specs) == 4
    assert {(s.weights, s.tokens, s.precision, s.dtype) for s in specs.values()} == {
        ("random:0", "time", "float32", "float32"),
        ("random:1", "time", "float32", "float32"),
        ("random:0", "pooled", "float32", "float32"),
        ("random:0", "time", "bfloat16", "float16"),
    }
    assert cache.feature_sets()[0].provenance["torch"]


def test_a_plain_value_goes_to_every_modality_that_it_fits(tmp_path: Path, media: Path) -> None:
    cache = open_cache(tmp_path / "cache", create=True)
    extract(cache, clip_table(media).iloc[:2], "video", "pose", tokens="pooled", weights="random:2")
    assert cache.feature_set("video").spec.tokens == "pooled"
    assert cache.feature_set("pose").spec.tokens == "time"
    assert cache.feature_set("pose").spec.weights == "none"


@pytest.mark.parametrize(
    ("modality", "options", "error", "message"),
    [
        ("vidoe", {}, BackboneError, "unknown modality 'vidoe'; did you mean 'video'?"),
        ("video", {"tokens": "full"}, BackboneError, "no token layout 'full'; tiny_video offers: time, pooled"),
        ("video", {"weights": {"pose": "random:0"}}, BackboneError, "weights are given for pose"),
        ("video", {"options": {"video": {"num_frame": 3}}}, BackboneError, "did you mean 'num_frames'"),
        *(
            (
                "video",
                {"options": {"video": {name: "pooled"}}},
                BackboneError,
                f"{name} is no option .* give it with {how}",
            )
            for name, how in {
                "tokens": "--tokens",
                "precision": "--precision",
                "device": "--device",
                "weights": "--weights",
                "weights_dir": r"path in \[weights\] of mgcli.toml",
            }.items()
        ),
        ("video", {"backbones": {"video": 7}}, BackboneError, "video: backbone is 7; it must be text"),
        ("video", {"tokens": {"video": 7}}, BackboneError, "video: tokens is 7; it must be text"),
        ("video", {"weights": {"video": 7}}, BackboneError, "video: weights is 7; it must be text"),
        ("video", {"precision": "half"}, BackboneError, "unknown precision 'half'"),
        ("video", {"batch_size": 0}, BackboneError, "batch size is 0"),
        ("video", {"workers": -1}, BackboneError, "workers is -1"),
        ("video", {"device": "abacus"}, BackboneError, "no device 'abacus'"),
        ("video", {"store_dtype": "int4"}, CacheError, "cannot be stored as 'int4'"),
        ("video", {"task": "jumping"}, ClipTableError, "unknown task 'jumping'"),
    ],
)
def test_a_wrong_option_is_said_before_any_work(
    modality: str, options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path, media: Path
) -> None:
    cache = open_cache(tmp_path / "cache", create=True)
    with pytest.raises(error, match=message):
        extract(cache, clip_table(media), modality, **options)
    assert cache.feature_sets() == []


def test_progress_goes_to_stderr_only(
    tmp_path: Path, media: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mgcli.cache.progress.LINE_EVERY_S", 0.0)
    cache = open_cache(tmp_path / "cache", create=True)
    extract(cache, clip_table(media), "video", progress=True)
    said = capsys.readouterr()
    assert said.out == ""
    assert "12/12 clips" in said.err
    assert "clips/s" in said.err
    assert "s left" in said.err
