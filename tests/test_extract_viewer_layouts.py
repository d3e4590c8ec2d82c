"""The viewer on clips that were really extracted: attention over MViTv2-S's 7 x 7 grid and over 2s-AGCN's joints."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import opened
from test_cli import mgcli
from tiny_media import make_video

from mgcli.cache import Page, open_cache
from mgcli.extract import Answer, look_at_clip, viewer_section
from mgcli.fuse import run_attention

pytestmark = pytest.mark.slow  # MViTv2-S in full, half a minute to two

CLIPS = 6
FRAMES, SIZE_PX = 25, (160, 120)
BOX = (27.5, 7.5, 132.5, 112.5)  # of 160 x 120 pixels the middle 224/256 of the shorter side
TINY = [f"--option={name}" for name in ("epochs=1", "min_steps=5", "width=16", "num_heads=2")]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips with video and skeleton, both in layout `full`, and a head that was trained for a moment."""
    folder = tmp_path_factory.mktemp("project")
    rows = ["clip_id,video,skeleton,subject_id,split,gesture"]
    for i in range(CLIPS):
        make_video(folder / f"v{i}.mp4", num_frames=FRAMES, size_px=SIZE_PX, first_number=7 * i)
        skeleton = np.full((FRAMES, 22, 3), 0.9, dtype=np.float32)
        skeleton[..., :2] = joint_places() + np.sin(np.arange(FRAMES) / 4)[:, None, None] * (1 + i % 2)
        np.save(folder / f"s{i}.npy", skeleton)
        rows.append(f"c{i},v{i}.mp4,s{i}.npy,p{i},{('train', 'val', 'test')[i // 2]},{i % 2}")
    (folder / "clips.csv").write_text("\n".join([*rows, ""]))
    shared = ("--tokens", "full", "--weights", "random:0", "--clips", "clips.csv", "--workers", "0")
    mgcli("extract", "--modality", "video", *shared, cwd=folder)
    mgcli("extract", "--modality", "pose", "--backbone", "agcn_joint", *shared, cwd=folder)
    mgcli("fuse-train", "--task", "gesture", "--seeds", "1", *TINY, cwd=folder)
    return folder


def joint_places() -> np.ndarray:
    """(22, 2) pixels: a circle, so that no two joints lie on each other."""
    angle = 2 * np.pi * np.arange(22) / 22
    return np.stack([80 + 50 * np.cos(angle), 60 + 50 * np.sin(angle)], axis=1)


def data_of(html: str) -> list[dict[str, Any]]:
    """What the page carries for each clip's viewer."""
    found = re.findall(r'<script type="application/json" id="[a-z]+-\w*-?\d+-data">(.*?)</script>', html)
    return [json.loads(text) for text in found]


def test_the_report_draws_the_attention_of_the_run(project: Path) -> None:
    (run,) = (project / "runs").iterdir()
    mgcli("report", f"runs/{run.name}", "--clip", "c4", cwd=project)
    (data,) = data_of((project / "report.html").read_text(encoding="utf-8"))
    attention = run_attention(run, open_cache(project / "features"), ["c4"]).clips["c4"].tokens
    assert {name: len(each) for name, each in attention.items()} == {"video": 1 + 8 * 49, "pose": 16 * 22}
    for each in attention.values():
        assert each.sum() == pytest.approx(1.0, abs=1e-5)
    expected = {"grid": attention["video"][1:].reshape(8, 49), "joints": attention["pose"].reshape(16, 22)}
    for name, values in expected.items():
        assert data[name]["layer"] == f"attention, {'video' if name == 'grid' else 'pose'}"
        np.testing.assert_allclose(data[name]["values"], values / max(values.max(), 3 * values.mean()), atol=6e-4)
    assert data["grid"]["side"] == 7
    assert tuple(data["grid"]["box"]) == BOX
    assert data["joints"]["places"] == list(range(22))


def test_what_a_head_looks_at_is_painted_where_it_lies(project: Path) -> None:
    """All attention on the third row and sixth column at the fourth time, and on joint 7 at the ninth."""
    row, column, time, joint, moment = 2, 5, 3, 7, 8
    cache = open_cache(project / "features")
    video, pose = np.zeros(1 + 8 * 49), np.zeros(16 * 22)
    video[1 + time * 49 + row * 7 + column] = 1.0
    pose[moment * 22 + joint] = 1.0
    names = {each.spec.modality: each.name for each in cache.feature_sets()}
    answer = Answer(
        head="planted",
        seed=0,
        how="planted",
        true="1",
        probabilities={"1": 1.0},
        attention={names["video"]: video, names["pose"]: pose},
    )
    clip = next(each for each in cache.read_clips().to_dict("records") if each["clip_id"] == "c4")
    section = viewer_section([look_at_clip(cache, clip, answer)])
    page = Page(title="Clip", lead="", sections=[section])
    page.write(project / "planted.html")
    (data,) = data_of(page.html())
    assert np.argwhere(data["grid"]["values"]).tolist() == [[time, row * 7 + column]]
    assert np.argwhere(data["joints"]["values"]).tolist() == [[moment, joint]]
    left, top, right, _ = BOX
    cell = (right - left) / 7
    middles = [(left + (c + 0.5) * cell, top + (r + 0.5) * cell) for r in range(7) for c in range(7)]
    with opened(project / "planted.html") as found:

        def painted(at_s: float, layer: str, places: list[tuple[float, float]]) -> list[int]:
            """Which places of the frame, in its pixels, are covered while only this layer is drawn."""
            for box in found.page.locator("[data-layer]").all():
                box.set_checked(box.get_attribute("data-layer") == layer)
            found.page.locator("input[type=range]").fill(str(at_s))
            return found.page.evaluate(
                """([places, size]) => {
                  const canvas = document.querySelector('canvas');
                  const copy = new OffscreenCanvas(canvas.width, canvas.height);
                  const pen = copy.getContext('2d', {willReadFrequently: true});
                  pen.drawImage(canvas, 0, 0);
                  const alpha = ([x, y]) => pen.getImageData(
                    x / size[0] * canvas.width, y / size[1] * canvas.height, 1, 1).data[3];
                  return places.flatMap((place, i) => alpha(place) ? [i] : []);
                }""",
                [places, SIZE_PX],
            )

        assert painted(data["grid"]["times"][time], "attention, video", middles) == [row * 7 + column]
        assert painted(data["grid"]["times"][time + 2], "attention, video", middles) == []
        joints = [tuple(place) for place in joint_places().tolist()]
        assert painted(data["joints"]["times"][moment], "attention, pose", joints) == [joint]
        assert painted(data["joints"]["times"][0], "attention, pose", joints) == []
        found.expect_quiet()
