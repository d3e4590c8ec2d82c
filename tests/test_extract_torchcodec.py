"""Decoding by torchcodec beside PyAV: the same bits for the same times, the same faults, and what is said."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from many_clips import TINY, tokens_of
from tiny_media import KINDS, draw_video, make_video, spoil, write_bad_file

from mgcli.cache import FeatureCache, check_clip_table, open_cache
from mgcli.extract import ExtractReport, create_backbone, extract_modalities, index_video
from mgcli.extract.bench_input import make_input
from mgcli.extract.decoder import Needs, needed_pictures
from mgcli.extract.decoder_library import (
    MOST_LEVELS_OFF,
    MOST_ON_AVERAGE,
    PYAV,
    DecoderChoiceError,
    Library,
    choose_library,
)
from mgcli.extract.shrink import FramedShrink, Framing, Shrink
from mgcli.extract.video_decode import DecodeCount

CPU = torch.device("cpu")
SMALL = Shrink(resize_px=24, crop_px=(16, 20))
TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def torchcodec() -> Library:
    try:
        return choose_library("torchcodec", CPU)[0]
    except DecoderChoiceError as error:
        pytest.skip(str(error))


def pictures(library: Library, path: Path, needs: Needs) -> tuple[dict[int, dict[Any, bytes]], DecodeCount, list[str]]:
    """Bits of what a library gives, what it counted, and what it said."""
    count, said = DecodeCount(), list[str]()
    found = needed_pictures(index_video(path), needs, library=library, threads=1, count=count, say=said.append)
    return {frame: {k: v.tobytes() for k, v in each.items()} for frame, each in found}, count, said


def noisy_video(path: Path, size_px: tuple[int, int]) -> Path:
    """Soft colours in motion under camera noise."""
    x, y = np.meshgrid(np.arange(size_px[0]), np.arange(size_px[1]))
    rng = np.random.default_rng(0)
    frames = [np.stack([x + 9 * n, y + 5 * n, 128 + 100 * np.sin((x + y) / 17 + n)], axis=2) % 256 for n in range(12)]
    return draw_video(path, [np.clip(each + rng.normal(0, 6, each.shape), 0, 255).astype(np.uint8) for each in frames])


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_gives_the_same_bits(name: str, torchcodec: Library, tmp_path: Path) -> None:
    path = make_video(tmp_path / name, 90, **KINDS[name])
    for frames in (range(90), [0, 40, 41, 88], [89], [25, 26, 70]):
        needs = dict.fromkeys(frames, (None, SMALL))
        found, count, said = pictures(torchcodec, path, needs)
        assert found == pictures(PYAV, path, needs)[0]
        assert count.converted == len(frames)
        assert (count.handed_over > 0) == bool(said)
        if name in ("h264.mp4", "h264.mkv", "mpeg4.mp4", "odd.mp4", "grey.mp4"):
            assert not said


@pytest.mark.parametrize("size_px", [(1280, 720), (322, 182), (180, 320)])
def test_colours_and_noise_come_with_the_same_bits(
    size_px: tuple[int, int], torchcodec: Library, tmp_path: Path
) -> None:
    path = noisy_video(tmp_path / "v.mp4", size_px)
    needs = dict.fromkeys(range(12), (None, Shrink(128, (112, 112))))
    found, count, said = pictures(torchcodec, path, needs)
    assert found == pictures(PYAV, path, needs)[0]
    assert (count.decoded, count.converted, count.handed_over, said) == (12, 12, 0, [])


@pytest.mark.parametrize("rotation_deg", [90, 180, -90])
def test_turned_and_late_videos_and_odd_rates_give_the_same_bits(
    rotation_deg: int, torchcodec: Library, tmp_path: Path
) -> None:
    paths = [
        make_video(tmp_path / "turned.mp4", 9, rotation_deg=rotation_deg),
        make_video(tmp_path / "late.mkv", 9, ticks=range(50, 59)),
        make_video(tmp_path / "odd.mp4", 9, ticks=[0, 1, 2, 10, 11, 30, 31, 50, 51]),
    ]
    for path in paths:
        found, _, said = pictures(torchcodec, path, dict.fromkeys([0, 3, 5, 8], (None,)))
        assert found == pictures(PYAV, path, dict.fromkeys([0, 3, 5, 8], (None,)))[0]
        assert said == []


def damaged(folder: Path) -> Path:
    path = make_video(folder / "damaged.mp4", 100)
    return spoil(path, path.read_bytes().index(b"mdat") + 3000)


def cut_short(folder: Path) -> Path:
    path = make_video(folder / "cut.mp4", 100, container_options={"movflags": "+faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    return path


@pytest.mark.parametrize("make", [damaged, cut_short])
def test_a_damaged_video_gives_the_same_frames(
    make: Callable[[Path], Path], torchcodec: Library, tmp_path: Path
) -> None:
    path = make(tmp_path)
    needs = dict.fromkeys(range(index_video(path).num_frames), (None,))
    found, count, said = pictures(torchcodec, path, needs)
    assert found == pictures(PYAV, path, needs)[0]
    assert 0 < count.handed_over < len(needs)
    assert said == ["torchcodec gives up on frames that it cannot decode; PyAV decodes those"]


def test_a_long_way_to_a_frame_has_signs_of_life(torchcodec: Library, tmp_path: Path) -> None:
    index = index_video(make_video(tmp_path / "v.mp4", 600, key_every=600))
    signs: list[int] = []
    (frame,) = needed_pictures(
        index,
        {590: (None,)},
        library=torchcodec,
        threads=1,
        count=(count := DecodeCount()),
        say=pytest.fail,
        on_packet=lambda: signs.append(1),
    )
    assert frame[0] == 590
    assert len(signs) == 3
    assert count.decoded == 591


def test_shrinking_on_a_device_gives_the_same_bits(torchcodec: Library) -> None:
    from mgcli.extract.video_decode_torchcodec import shrunk

    picture = np.random.default_rng(0).integers(0, 256, (270, 480, 3), dtype=np.uint8)
    framed = (FramedShrink(Framing(0.7, 0.2, 0.9, mirrored), SMALL) for mirrored in (False, True))
    for shrink in (Shrink(256, (224, 224)), Shrink((128, 171), (112, 112)), SMALL, *framed):
        np.testing.assert_array_equal(shrunk(torch.from_numpy(picture), shrink).numpy(), shrink(picture))


def test_what_a_probe_takes_for_rounding_moves_tokens_little() -> None:
    backbone = create_backbone("mvit_v2_s", weights="random:0", tokens="pooled")
    video, _ = make_input(backbone, 0)  # (T, H, W, C) uint8
    exact = backbone.embed_on_device(video[None], backbone)[0]
    noise = torch.randint(-MOST_LEVELS_OFF, MOST_LEVELS_OFF + 1, video.shape, generator=torch.manual_seed(0))
    for off in (noise, torch.full_like(noise, round(MOST_ON_AVERAGE))):
        moved = (video + off).clamp(0, 255).to(torch.uint8)
        tokens = backbone.embed_on_device(moved[None], backbone)[0]
        assert (tokens - exact).abs().max() <= 0.05 * exact.abs().max()


def extract(folder: Path, table: pd.DataFrame, **options: Any) -> tuple[FeatureCache, ExtractReport]:
    cache = open_cache(folder, create=True)
    return cache, extract_modalities(cache, table, ["video"], **(TINY | options))


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_files_fail_for_the_same_reasons_and_the_others_give_the_same_tokens(
    workers: int, torchcodec: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = ("missing", "empty", "headless", "noise", "text", "audio", "folder")
    videos = [write_bad_file(kind, tmp_path) for kind in kinds]
    videos += [
        damaged(tmp_path),
        cut_short(tmp_path),
        make_video(tmp_path / "v.ts", 60),
        make_video(tmp_path / "v.avi"),
    ]
    videos += [make_video(tmp_path / "v.mp4")]
    rows = [
        {"clip_id": f"{video.name}/{start_s}", "video": str(video), "start_s": start_s, "end_s": start_s + 0.4}
        for video in videos
        for start_s in (0.0, 0.7, 2.85, 90.0)
    ]
    table = check_clip_table(pd.DataFrame(rows))
    pyav, report = extract(tmp_path / "pyav", table, decoder="pyav", workers=workers)
    ours, again = extract(tmp_path / "torchcodec", table, decoder="torchcodec", workers=workers)
    assert report.failed == again.failed > 4 * len(kinds)
    failures = [cache.feature_set("video").failures().sort_values("clip_id") for cache in (pyav, ours)]
    assert failures[0].to_dict("list") == failures[1].to_dict("list")
    tokens, expected = tokens_of(ours), tokens_of(pyav)
    assert tokens.keys() == expected.keys()
    for clip_id in expected:
        np.testing.assert_array_equal(tokens[clip_id], expected[clip_id])
    said = [each for each in again.warnings if "torchcodec" in each]
    assert sorted(each.split(";")[0].removeprefix("torchcodec gives up on ") for each in said) == [
        *("files whose frames bear no times", "frames in whose place it gives others", "frames that it cannot decode")
    ]
    assert capsys.readouterr().err.count("torchcodec gives up on") == 3
    decoders = [PYAV.label, torchcodec.label]
    assert ours.feature_set("video").provenance["decoders"] == decoders[1:]
    assert again.to_json()["video"]["run"]["decoders"] == decoders[::-1]
    left = again.profile.handed_over_frames
    assert 0 < left < again.profile.converted_frames
    assert f" by {torchcodec.label} and {PYAV.label}, {left} pictures left to PyAV (" in again.summary()


def test_the_decoder_is_said_and_kept_and_not_in_the_fingerprint(
    torchcodec: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = [make_video(tmp_path / f"{number}.mp4", first_number=number) for number in (0, 90)]
    table = check_clip_table(pd.DataFrame({"clip_id": ["a", "b"], "video": [str(video) for video in videos]}))
    cache, report = extract(tmp_path / "features", table.iloc[:1])
    assert f"frames decoded by {PYAV.label} (" in report.summary()
    assert "decoded by" not in capsys.readouterr().err
    cache, report = extract(tmp_path / "features", table, decoder="torchcodec", devices=["cpu", "cpu"])
    assert (report.modalities["video"].done, report.modalities["video"].skipped) == (1, 1)
    assert f"frames decoded by {torchcodec.label} (" in report.summary()
    assert capsys.readouterr().err == f"videos are decoded by {torchcodec.label}\n"
    provenance = open_cache(cache.path).feature_set("video").provenance
    assert provenance["decoders"] == [PYAV.label, torchcodec.label]
    assert provenance["latest_run"]["decoders"] == [torchcodec.label]


def mgcli(folder: Path, *words: str, code: int, stub: str = "", library: str = "1.0") -> str:
    """What `mgcli extract` says on stderr where `import torchcodec` finds this code, if any."""
    places = [str(TESTS), os.environ.get("PYTHONPATH", "")]
    if stub:
        (folder / "stub" / f"torchcodec-{library}.dist-info").mkdir(parents=True)
        (folder / "stub" / f"torchcodec-{library}.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: torchcodec\nVersion: {library}\n"
        )
        (folder / "stub" / "torchcodec.py").write_text(stub)
        places.insert(0, str(folder / "stub"))
    make_video(folder / "v.mp4")
    (folder / "clips.csv").write_text("clip_id,video\na,v.mp4\n")
    command = [sys.executable, "-m", "mgcli.cli", "extract", "--modality", "video", "--clips", "clips.csv"]
    command += ["--backbone", "tiny_backbones:TinyVideo", "--weights", "random:0", "--device", "cpu", *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stderr


def test_torchcodec_that_does_not_load_or_is_old_is_said_with_what_to_install(tmp_path: Path) -> None:
    broken = "raise RuntimeError('Could not load libtorchcodec. Likely causes:\\n 1. FFmpeg is not installed')"
    said = mgcli(tmp_path, "--decoder", "torchcodec", code=1, stub=broken)
    assert said.startswith(
        "mgcli: torchcodec 1.0 does not work on cpu (Could not load libtorchcodec); it needs torch 2.11 or newer "
    )
    assert said.endswith("the shared libraries of FFmpeg, 4 or newer: apt install ffmpeg, or conda install ffmpeg\n")
    assert not list((tmp_path / "features").glob("video--*"))
    old = tmp_path / "old"
    old.mkdir()
    said = mgcli(old, "--decoder", "torchcodec", code=1, stub="raise AssertionError", library="0.9.1")
    assert said.startswith("mgcli: torchcodec 0.9.1 is too old: pip install 'mgcli[torchcodec]' takes a newer one")
    mgcli(old, "--decoder", "pyav", code=0)


def test_an_unknown_decoder_is_refused(tmp_path: Path) -> None:
    said = mgcli(tmp_path, "--decoder", "opencv", code=1)
    assert said == "mgcli: unknown decoder 'opencv'; known: auto, pyav, torchcodec\n"


def test_auto_looks_for_torchcodec_only_where_there_is_a_gpu_and_says_why_it_does_not_take_it() -> None:
    assert choose_library("auto", CPU) == (PYAV, "")
    if not torch.cuda.is_available():  # a GPU that does not work: where torchcodec is there, its probe fails too
        library, why = choose_library("auto", torch.device("cuda"))
        assert library == PYAV
        assert why.startswith("PyAV decodes on the processor: torchcodec ")


def test_absent_torchcodec_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError

    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("mgcli.extract.decoder_library.version", absent)
    with pytest.raises(DecoderChoiceError, match=r"^torchcodec is not installed: pip install 'mgcli\[torchcodec\]'$"):
        choose_library("torchcodec", CPU)


def test_a_library_whose_pictures_are_others_is_refused(torchcodec: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mgcli.extract.decoder_library.MOST_LEVELS_OFF", -1)
    with pytest.raises(DecoderChoiceError, match="pictures on cpu are up to 0 levels of 255 away from PyAV's"):
        choose_library("torchcodec", CPU)
