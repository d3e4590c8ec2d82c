"""The clip viewer: what it gathers of a clip, what it says where something is missing, what it does in a browser."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import THEMES, opened, serious_faults
from PIL import Image
from samples import make_spec
from tiny_media import draw_video, make_skeleton, make_video, shown_number

from mgcli.cache import FeatureCache, Page, check_clip_table, open_cache, trace_clip
from mgcli.extract import Answer, look_at_clip, view_clip, viewer_section
from mgcli.extract.video_decode import DecodeCount, _Run

HOSTILE = "<img src=x onerror=alert(1)>&'\""
GRID = {"class_tokens": 1, "times": 4, "places": 9, "middle": 1.5}


def make_clip(folder: Path, **changes: object) -> dict[str, Any]:
    """A row of a checked table: 2 s of a video of 3 s with a skeleton of 22 joints and a face in half of its frames."""
    make_video(folder / "v.mp4", num_frames=75)
    make_skeleton(folder / "s.npy", num_frames=75, num_joints=22)
    faces = np.tile([10.0, 5, 40, 35, 18, 15, 32, 15, 25, 22, 19, 28, 31, 28], (75, 1))
    faces[40:] = 0
    np.save(folder / "f.npy", faces)
    row = {"clip_id": "a/b 1", "video": "v.mp4", "start_s": 0.5, "end_s": 2.5, "skeleton": "s.npy", "face": "f.npy"}
    table = check_clip_table(pd.DataFrame([row | {"gesture": HOSTILE, "split": "test"} | changes]), root=folder)
    return {str(name): value for name, value in table.iloc[0].items()}


def make_cache(folder: Path, clip_id: str = "a/b 1") -> FeatureCache:
    """Video tokens of layout full, with places, and pose tokens of a layout that says nothing of them."""
    cache = open_cache(folder / "features", create=True)
    times = np.linspace(0.75, 2.25, 4)
    full = np.repeat(times, 9)
    rng = np.random.default_rng(0)
    video = cache.create_feature_set(make_spec(tokens="full"), {"token_grid": GRID})
    with video.writer() as writer:
        writer.add(clip_id, rng.standard_normal((37, 4)), time_s=np.concatenate([[1.5], full]))
    joints = {"class_tokens": 0, "times": 4, "places": 22, "middle": 1.5}
    spec = make_spec(modality="pose", reads="skeleton", tokens="full", transform={"joints": "imigue22"})
    with cache.create_feature_set(spec, {"token_grid": joints}).writer() as writer:
        valid = np.ones(88, dtype=bool)
        valid[:22] = False
        writer.add(clip_id, rng.standard_normal((88, 4)), time_s=np.repeat(times, 22), valid=valid)
    cache.create_feature_set(make_spec(modality="face", reads="face"))
    return cache


def make_answer(cache: FeatureCache, **changes: Any) -> Answer:
    names = {each.spec.modality: each.name for each in cache.feature_sets()}
    video, pose = np.zeros(37), np.zeros(88)
    video[0], video[1 + 2 * 9 + 4] = 0.2, 0.8  # the class token; the middle place at the third time
    pose[22:] = 1 / 66
    fields = {
        "head": "inter_fusion",
        "seed": 0,
        "how": "averaged over layers",
        "true": HOSTILE,
        "probabilities": {HOSTILE: 0.7, "other": 0.3},
        "attention": {names["video"]: video, names["pose"]: pose},
    }
    return Answer(**(fields | changes))


def test_frames_come_by_presentation_time_with_skeleton_and_face(tmp_path: Path) -> None:
    view = view_clip(make_clip(tmp_path), num_frames=4)
    assert view.times_s.tolist() == [0.72, 1.24, 1.72, 2.24]
    assert [face is not None for face in view.faces] == [True, True, False, False]
    assert view.size_px == (64, 48)
    assert view.skeleton is not None
    assert view.skeleton.layout is not None
    assert view.skeleton.layout.name == "imigue22"
    stored = np.load(tmp_path / "s.npy")
    np.testing.assert_allclose(view.skeleton.joints, stored[[18, 31, 43, 56], :, :2], atol=1e-4)
    assert all(frame[8:12] == b"WEBP" for frame in view.frames)
    pictures = [np.asarray(Image.open(io.BytesIO(frame))) for frame in view.frames]
    assert [shown_number(picture) for picture in pictures] == [18, 31, 43, 56]


def test_frames_are_small_and_joints_shrink_with_them(tmp_path: Path) -> None:
    clip = make_clip(tmp_path)
    make_video(tmp_path / "v.mp4", num_frames=75, size_px=(640, 480))
    view = view_clip(clip, num_frames=24, width_px=320, max_bytes=20_000)
    assert view.size_px == (320, 240)
    assert view.skeleton is not None
    assert np.nanmax(view.skeleton.joints) <= 30  # 60 px of the video
    assert sum(map(len, view.frames)) + sum(len(face) for face in view.faces if face) <= 20_000


def test_of_a_long_video_only_the_clip_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(tmp_path)
    make_video(tmp_path / "v.mp4", num_frames=3000)
    np.save(tmp_path / "f.npy", np.zeros((3000, 14)))
    counts: list[DecodeCount] = []
    frames = _Run.frames

    def watched(self: _Run, segments: Any) -> Any:
        counts.append(self.count)
        return frames(self, segments)

    monkeypatch.setattr(_Run, "frames", watched)
    view = view_clip(clip | {"start_s": 100.0, "end_s": 102.0, "skeleton": ""})
    assert len(view.frames) == 16
    assert view.times_s.min() >= 100
    assert sum(count.decoded for count in counts) <= 70


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"video": ""}, "no frames: the clip table names no video"),
        ({"video": "gone.mp4", "skeleton_fps": 25}, "no frames: .*gone.mp4: no such file"),
        ({"skeleton": ""}, "no skeleton: the clip table names none"),
        ({"skeleton": "gone.npy"}, "no skeleton: .*gone.npy: no such file"),
        ({"face": ""}, "no face: the clip table names no face file, and the cache has no tokens"),
        ({"face": "gone.npy"}, "no face: .*gone.npy: no such file"),
        ({"start_s": 9.0, "end_s": 10.0}, "the clip starts at 9.00 s; what it is cut from ends at 3.00 s"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, changes: dict[str, object], note: str) -> None:
    viewed = look_at_clip(None, make_clip(tmp_path, **changes))
    assert len([each for each in viewed.notes if re.search(note, each)]) == 1
    page = Page(title="t", lead="", sections=[viewer_section([viewed])]).html()
    assert "The cache has no tokens of this clip." in page
    if "skeleton_fps" in changes:  # the skeleton alone can still be shown
        assert viewed.view.skeleton is not None
        assert viewed.view.frames == ()


def test_a_clip_of_one_frame_is_shown(tmp_path: Path) -> None:
    clip = make_clip(tmp_path, start_s=1.0, end_s=1.04)
    view = view_clip(clip)
    assert len(view.frames) == 1


def test_a_skeleton_of_another_picture_size_is_noticed(tmp_path: Path) -> None:
    clip = make_clip(tmp_path)
    np.save(tmp_path / "s.npy", np.load(tmp_path / "s.npy") * [20, 20, 1])
    assert any("of the joints lie outside the frame" in note for note in view_clip(clip).notes)


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    clip, cache = make_clip(tmp_path), make_cache(tmp_path)
    viewed = look_at_clip(cache, clip | {"video_source": "0" * 16})
    assert "the video file has changed since the tokens were made: they are of the old one" in viewed.notes
    assert {trace.features.spec.modality for trace in viewed.traces} == {"pose", "video"}


def test_tokens_are_laid_out_by_time_and_place(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    traces, absent = trace_clip(cache, make_clip(tmp_path))
    pose, video = traces
    assert (video.num_places, pose.num_places) == (9, 22)
    assert video.place.tolist() == [-2, *list(range(9)) * 4]
    tokens, _ = video.features.load(["a/b 1"])
    np.testing.assert_allclose(video.norm, np.linalg.norm(tokens, axis=1), rtol=1e-6)
    assert (pose.norm[:22] == 0).all()
    (missing,) = absent
    assert missing.reason == "not extracted; where it should be: mgcli extract --modality face"
    traces, absent = trace_clip(cache, make_clip(tmp_path) | {"video_source": "1" * 16})
    assert "only tokens of another video file or interval" in absent[1].reason


def test_attention_to_other_tokens_than_these_is_not_shown(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    name = cache.feature_set("video").name
    viewed = look_at_clip(cache, make_clip(tmp_path), make_answer(cache, attention={name: np.ones(5) / 5}))
    assert f"attention to {name} is not shown: the head saw 5 tokens, the cache has 37" in viewed.notes


def write_page(folder: Path, num_clips: int = 1) -> Path:
    clip, cache = make_clip(folder), make_cache(folder)
    viewed = [look_at_clip(cache, clip, make_answer(cache)) for _ in range(num_clips)]
    Page(title="Clip", lead="", sections=[viewer_section(viewed)]).write(folder / "page.html")
    return folder / "page.html"


def test_text_stays_text(tmp_path: Path) -> None:
    html = write_page(tmp_path).read_text(encoding="utf-8")
    assert "<img src=x" not in html
    assert "&lt;img src=x" in html


@pytest.mark.parametrize("theme", THEMES)
def test_no_serious_fault_no_error_no_request(tmp_path: Path, theme: str) -> None:
    with opened(write_page(tmp_path, num_clips=2), theme=theme) as found:
        assert serious_faults(found.page) == []
        assert found.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        found.expect_quiet()


def test_it_fits_a_phone(tmp_path: Path) -> None:
    with opened(write_page(tmp_path), width=390, height=844) as found:
        assert found.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_scrubbing_moves_frame_skeleton_face_and_attention_together(tmp_path: Path) -> None:
    with opened(write_page(tmp_path)) as found:
        page = found.page
        slider = page.locator("input[type=range]")

        def state() -> dict[str, Any]:
            return page.evaluate(
                """() => ({
                  frame: document.querySelector('.picture img').dataset.frame,
                  drawn: document.querySelector('canvas').dataset.drawn,
                  face: !document.querySelector('.face img').hidden,
                  lanes: Object.fromEntries([...document.querySelectorAll('.lane')].map((lane) => [
                    lane.querySelector('figcaption span').textContent, lane.querySelector('.now').textContent])),
                  cursor: parseFloat(document.querySelector('.cursor').style.left),
                  said: document.querySelector('input[type=range]').getAttribute('aria-valuetext'),
                  output: document.querySelector('output').textContent,
                })"""
            )

        slider.fill("1.75")  # the third time of the tokens
        now = state()
        assert now["frame"] == "10"  # of 16, at 1.80 s
        assert now["drawn"] == "grid 2; skeleton 10"
        assert not now["face"]
        assert now["lanes"]["Attention to video (tiny, full)"].startswith("0.800, ")
        assert now["lanes"]["Face seen"] == "not seen"
        assert now["cursor"] == pytest.approx(62.5)
        assert now["said"].startswith("1.75 seconds, frame 11 of 16, no face, Attention to pose (tiny, full): 0.333")
        assert now["output"] == "1.75 s"
        slider.fill("0.75")
        now = state()
        assert now["drawn"].startswith("grid 0; ")
        assert now["face"]
        assert now["lanes"]["Attention to video (tiny, full)"].startswith("0.000")
        assert now["lanes"]["Token norm, pose (tiny, full)"] == "not valid"
        painted = "() => document.querySelector('canvas').toDataURL().length"
        before = page.evaluate(painted)
        page.get_by_label("skeleton", exact=True).uncheck()
        assert page.evaluate(painted) != before
        lane = page.locator(".lane svg").first
        lane.click(position={"x": 0.9 * lane.bounding_box()["width"], "y": 5})
        assert float(state()["output"].split()[0]) == pytest.approx(2.3, abs=0.02)
        found.expect_quiet()


def test_the_keyboard_steps_and_the_button_plays_and_pauses(tmp_path: Path) -> None:
    with opened(write_page(tmp_path)) as found:
        page = found.page
        slider = page.locator("input[type=range]")
        frame = "() => Number(document.querySelector('.picture img').dataset.frame)"
        slider.focus()
        page.keyboard.press("Home")
        assert page.evaluate(frame) == 0
        seen = []
        for _ in range(30):
            page.keyboard.press("ArrowRight")
            seen.append(page.evaluate(frame))
        assert sorted(set(seen)) == list(range(16))
        page.keyboard.press("Home")
        played = page.evaluate(
            """async () => {
              const [button, slider] = [document.querySelector('.play'), document.querySelector('input[type=range]')];
              const next = () => new Promise(requestAnimationFrame);
              const from = Number(slider.value);
              button.click();
              const during = button.textContent;
              while (Number(slider.value) === from) await next();
              if (button.textContent === 'Pause') button.click();
              const stopped = slider.value;
              for (let i = 0; i < 5; i++) await next();
              return [during, button.textContent, Number(stopped) > from, slider.value === stopped];
            }"""
        )
        assert played == ["Pause", "Play", True, True]
        found.expect_quiet()


def test_twenty_four_clips_stay_small(tmp_path: Path) -> None:
    """Noise is the worst there is to compress; real clips are far smaller."""
    rng = np.random.default_rng(0)
    clip = make_clip(tmp_path)
    draw_video(tmp_path / "v.mp4", [rng.integers(256, size=(480, 640, 3)).astype(np.uint8) for _ in range(75)])
    view = look_at_clip(make_cache(tmp_path), clip)
    page = Page(title="t", lead="", sections=[viewer_section([view])]).html()
    assert 24 * len(page.encode()) < 15e6
