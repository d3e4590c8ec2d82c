"""Videos by presentation time: every odd kind of file, each needed frame once, and plain words for bad ones."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_media import KINDS, make_grey_jpegs, make_video, number_picture, shown_number, spoil, write_bad_file

from mgcli.extract import VideoError, VideoIndex, decode_frames, index_video, plan_decode


def numbers_shown(index: VideoIndex, frames: list[int], *, threads: int = 1) -> dict[int, int]:
    return {
        frame: shown_number(rgb) for frame, rgb in decode_frames(index, plan_decode(index, frames), threads=threads)
    }


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_comes_once_and_in_order(name: str, tmp_path: Path) -> None:
    index = index_video(make_video(tmp_path / name, **KINDS[name]))
    assert index.num_frames == 30
    np.testing.assert_allclose(index.time_s, np.arange(30) / 25, atol=1e-3)
    assert index.end_s == pytest.approx(30 / 25, abs=1e-3)
    decoded = list(decode_frames(index, plan_decode(index, range(30))))
    assert [frame for frame, _ in decoded] == list(range(30))
    assert [shown_number(rgb) for _, rgb in decoded] == list(range(30))
    width_px, height_px = KINDS[name].get("size_px", (64, 48))
    assert decoded[0][1].shape == (height_px, width_px, 3)
    assert decoded[0][1].dtype == np.uint8


@pytest.mark.parametrize("name", KINDS)
def test_frames_are_the_same_bits_whatever_else_is_asked_for(name: str, tmp_path: Path) -> None:
    index = index_video(make_video(tmp_path / name, 90, **KINDS[name]))
    all_frames = dict(decode_frames(index, plan_decode(index, range(90)), threads=2))
    for few in ([89], [0, 40, 41, 88], [25, 26, 70]):
        for frame, rgb in decode_frames(index, plan_decode(index, few)):
            np.testing.assert_array_equal(rgb, all_frames[frame])


@pytest.mark.parametrize("name", ["grey.avi", "grey.mov", "grey.mkv"])
def test_grey_motion_jpeg_decodes_to_three_equal_channels(name: str, tmp_path: Path) -> None:
    index = index_video(make_grey_jpegs(tmp_path / name, [number_picture(number, 64, 48) for number in range(30)]))
    with av.open(str(tmp_path / name)) as container:
        assert next(container.decode(video=0)).format.name == "gray"
    decoded = list(decode_frames(index, plan_decode(index, range(30))))
    assert [shown_number(rgb) for _, rgb in decoded] == list(range(30))
    for _, rgb in decoded:
        assert rgb.shape == (48, 64, 3)
        assert (rgb == rgb[..., :1]).all()


def test_variable_rate_is_addressed_by_presentation_time(tmp_path: Path) -> None:
    ticks = [0, 1, 2, 10, 11, 30, 31, 50]
    index = index_video(make_video(tmp_path / "vfr.mp4", 8, ticks=ticks))
    np.testing.assert_allclose(index.time_s, np.array(ticks) / 25, atol=1e-6)
    asked_s = np.array([-1.0, 0.0, 0.039, 0.04, 0.399, 0.4, 1.19, 1.2, 99.0])
    assert index.frames_at(asked_s).tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 7]
    assert numbers_shown(index, [2, 5]) == {2: 2, 5: 5}


def test_times_count_from_the_first_frame(tmp_path: Path) -> None:
    late = index_video(make_video(tmp_path / "late.mkv", 10, ticks=range(50, 60)))
    assert late.time_s[0] == 0
    assert late.end_s == pytest.approx(0.4, abs=1e-3)
    assert numbers_shown(late, [0, 9]) == {0: 0, 9: 9}


@pytest.mark.skipif(
    not hasattr(av.VideoStream, "set_display_rotation"), reason="this PyAV reads rotation, but cannot write it"
)
@pytest.mark.parametrize("rotation_deg", [90, 180, -90])
def test_rotation_metadata_turns_the_picture(rotation_deg: int, tmp_path: Path) -> None:
    index = index_video(make_video(tmp_path / "turned.mp4", 3, rotation_deg=rotation_deg, first_number=77))
    ((_, rgb),) = decode_frames(index, plan_decode(index, [1]))
    assert rgb.shape == ((48, 64, 3) if rotation_deg == 180 else (64, 48, 3))
    assert shown_number(np.rot90(rgb, -rotation_deg // 90)) == 78


def test_plan_seeks_over_gaps_and_decodes_little_more_than_needed(tmp_path: Path) -> None:
    index = index_video(make_video(tmp_path / "long.mp4", 200, key_every=20))
    plan = plan_decode(index, [5, 6, 103, 104, 185])
    assert [segment.start for segment in plan.segments] == [0, 100, 180]
    least = 7 + 5 + 6  # from the key frame before each group to its last frame
    assert plan.num_decoded <= least + 3 * 2  # a B frame needs the reference after it
    assert numbers_shown(index, [5, 6, 103, 104, 185]) == {f: f for f in (5, 6, 103, 104, 185)}


@settings(max_examples=15, deadline=None)
@given(frames=st.sets(st.integers(0, 119), min_size=1, max_size=12))
def test_any_set_of_frames_is_found(frames: set[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.mp4"
    if not path.exists():
        make_video(path, 120, key_every=15)
    index = index_video(path)
    assert numbers_shown(index, sorted(frames)) == {frame: frame for frame in frames}


def test_a_container_that_seeks_badly_is_decoded_from_the_start(tmp_path: Path) -> None:
    index = index_video(make_video(tmp_path / "long.ts", 200, key_every=20))
    assert numbers_shown(index, [3, 150, 199]) == {3: 3, 150: 150, 199: 199}


def test_a_damaged_stretch_costs_only_its_own_frames(tmp_path: Path) -> None:
    path = make_video(tmp_path / "damaged.mp4", 100)
    index = index_video(spoil(path, path.read_bytes().index(b"mdat") + 3000))
    shown = numbers_shown(index, list(range(100)))
    assert not index.cut_short
    for healthy in (range(60), range(90, 100)):
        assert [shown[frame] for frame in healthy] == list(healthy)


@pytest.mark.parametrize(("counts", "said"), [((50, 50), "at 1.96 s"), ((10, 10), "for 9 frames")])
def test_videos_one_behind_another_with_times_of_their_own_are_refused(
    counts: tuple[int, int], said: str, tmp_path: Path
) -> None:
    parts = [make_video(tmp_path / f"p{i}.ts", count, first_number=100 * i) for i, count in enumerate(counts)]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(VideoError, match=rf"both\.ts: its timestamps start anew {said}; remux it: ffmpeg -i FILE"):
        index_video(both)


def test_a_few_doubled_timestamps_cost_only_their_own_frames(tmp_path: Path) -> None:
    plain = {"codec_options": {"bf": "0"}}
    parts = [make_video(tmp_path / f"{k}.ts", 50, ticks=range(48 * k, 48 * k + 50), **plain) for k in (0, 1)]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert index_video(both).num_frames == 98


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.avi"])
def test_a_video_cut_short_tells_what_is_left(name: str, tmp_path: Path) -> None:
    options = {"movflags": "+faststart"} if name.endswith("mp4") else {}
    path = make_video(tmp_path / name, 100, container_options=options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    index = index_video(path)
    assert index.cut_short
    assert index.stated_s > index.end_s + 0.5
    assert 10 < index.num_frames < 90
    assert numbers_shown(index, list(range(10))) == {frame: frame for frame in range(10)}


def test_a_healthy_video_is_not_taken_for_one_cut_short(tmp_path: Path) -> None:
    for name in ("whole.mp4", "whole.mkv", "whole.avi", "whole.ts"):
        assert not index_video(make_video(tmp_path / name, 100)).cut_short


def test_a_header_that_lies_about_size_and_length_changes_no_frame(tmp_path: Path) -> None:
    honest = make_video(tmp_path / "honest.mp4", 30)
    content = bytearray(honest.read_bytes())
    size = content.index(b"avc1", content.index(b"stsd")) + 4 + 24
    content[size : size + 4] = (9999).to_bytes(2, "big") + (3).to_bytes(2, "big")
    for name in (b"mvhd", b"mdhd"):
        duration = content.index(name) + 4 + 4 + 8 + 4  # version and flags, two dates, the clock's rate
        content[duration : duration + 4] = (10**8).to_bytes(4, "big")
    liar = tmp_path / "liar.mp4"
    liar.write_bytes(content)
    index = index_video(liar)
    assert not index.cut_short
    assert index.end_s == pytest.approx(30 / 25, abs=1e-3)
    assert numbers_shown(index, [0, 13, 29]) == {0: 0, 13: 13, 29: 29}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"),
        ("empty", r"empty \(0 bytes\)"),
        ("headless", "not a video, or cut short"),
        ("noise", "not a video"),
        ("text", "not a video"),
        ("audio", "only audio"),
        ("folder", "is a folder"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(kind: str, message: str, tmp_path: Path) -> None:
    path = write_bad_file(kind, tmp_path)
    with pytest.raises(VideoError, match=message) as raised:
        index_video(path)
    assert str(path) in str(raised.value)
