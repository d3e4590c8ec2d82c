"""How much is decoded: never more than what the needed frames hang on, and the same bits by every plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_media import make_video

from mgcli.extract import DecodeCount, VideoIndex, decode_frames, index_video, plan_decode

NUM_FRAMES = 150
STRUCTURES: dict[str, dict[str, Any]] = {  # name -> how it is made
    "closed.mp4": {"key_every": 12},
    "open.mp4": {"key_every": 12, "codec_options": {"x264-params": "open-gop=1", "bf": "3"}},
    "pyramid.mkv": {"key_every": 40, "codec_options": {"bf": "5", "b-pyramid": "normal"}},
    "no_b.mp4": {"key_every": 7, "codec_options": {"bf": "0"}},
    "one_gop.mp4": {"key_every": 999},
    "all_key.mp4": {"key_every": 1},
    "mpeg4.mp4": {"codec": "mpeg4", "codec_options": {"bf": "2", "g": "15"}},
}


@pytest.fixture(scope="module", params=STRUCTURES)
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("plans") / request.param, NUM_FRAMES, **STRUCTURES[request.param])


def least_decoded(path: Path, frames: set[int]) -> int:
    """Packets from the key frame that each frame hangs on to the frame's own, each once, by a look at the file."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    shown = sorted(packet.pts for packet in packets if packet.pts is not None)
    place_of = {packet.pts: place for place, packet in enumerate(packets)}
    needed: set[int] = set()
    for frame in frames:
        pts = shown[frame]
        own = place_of[pts]
        key = max(place for place in range(own + 1) if packets[place].is_keyframe and (packets[place].pts or 0) <= pts)
        needed |= {place for place in range(key, own + 1) if (packets[place].pts or 0) >= (packets[key].pts or 0)}
    return len(needed)


def decode(index: VideoIndex, frames: set[int], *, threads: int = 1) -> tuple[dict[int, bytes], DecodeCount]:
    count = DecodeCount()
    found = decode_frames(index, plan_decode(index, frames), threads=threads, count=count)
    return {frame: rgb.tobytes() for frame, rgb in found}, count


_whole: dict[Path, dict[int, bytes]] = {}


@settings(max_examples=60, deadline=None)
@given(frames=st.sets(st.integers(0, NUM_FRAMES - 1), min_size=1, max_size=25), threads=st.sampled_from([1, 2]))
def test_any_plan_decodes_the_least_and_gives_the_same_bits(video: Path, frames: set[int], threads: int) -> None:
    index = index_video(video)
    if video not in _whole:
        _whole[video] = decode(index, set(range(NUM_FRAMES)))[0]
    found, count = decode(index, frames, threads=threads)
    assert found == {frame: _whole[video][frame] for frame in frames}
    assert count.converted == len(frames)
    assert count.decoded <= plan_decode(index, frames).num_decoded
    assert count.decoded <= least_decoded(video, frames)


def test_frames_that_nothing_hangs_on_are_passed_over(tmp_path: Path) -> None:
    index = index_video(make_video(tmp_path / "v.mp4", 100, key_every=100, codec_options={"b-pyramid": "none"}))
    every_tenth, count = decode(index, set(range(0, 100, 10)))
    assert len(every_tenth) == 10
    assert count.decoded < 50 < plan_decode(index, range(0, 100, 10)).num_decoded  # two of three are B frames


def test_clips_that_overlap_cost_no_more_than_what_they_cover(tmp_path: Path) -> None:
    index = index_video(make_video(tmp_path / "v.mp4", 200, key_every=20))
    clips = [range(start, start + 40, 3) for start in range(0, 160, 4)]
    _, together = decode(index, {frame for clip in clips for frame in clip})
    one_by_one = sum(decode(index, set(clip))[1].decoded for clip in clips)
    assert together.decoded <= 200
    assert one_by_one > 5 * together.decoded


def test_signs_of_life_come_also_where_no_frame_does(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", 100, key_every=100)
    signs: list[int] = []
    index = index_video(path, on_packet=lambda: signs.append(1))
    assert len(signs) >= 100
    signs.clear()
    list(decode_frames(index, plan_decode(index, [99]), on_packet=lambda: signs.append(1)))
    assert len(signs) >= 95
