"""insightface as a face detector, played by a small stand-in: what it is asked, what is made of it, what is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_faces import needs_mtcnn
from tiny_media import make_video

from mgcli.cache import open_cache, read_clip_table
from mgcli.extract import FaceError, create_backbone, extract_modalities
from mgcli.extract.face import REFERENCE_POINTS, Face, describe_detector, load_detector
from mgcli.extract.face_crops import FaceCrops

CPU = torch.device("cpu")
# Not insightface: a module that takes what the real one takes (2.1) and finds a face wherever there is pure red.
STAND_IN = """
import numpy as np

class Found(dict):
    __getattr__ = dict.get

class FaceAnalysis:
    def __init__(self, name="buffalo_l", root="~/.insightface", allowed_modules=None, **kwargs):
        print("find model:", name)
        assert allowed_modules == ["detection"]
        self.asked = {"name": name, "root": root, **kwargs}

    def prepare(self, ctx_id=0, det_thresh=0.5, det_size=None):
        self.asked |= {"ctx_id": ctx_id, "det_thresh": det_thresh, "det_size": det_size}

    def get(self, img, max_num=0):
        assert img.flags.c_contiguous and img.dtype == np.uint8
        y, x = np.nonzero((img[..., 2] > 200) & (img[..., :2] < 60).all(axis=2))
        if not len(x):
            return []
        box = np.array([x.min(), y.min(), x.max(), y.max()], np.float32)
        share = np.array([(0.3, 0.3), (0.7, 0.3), (0.5, 0.5), (0.35, 0.8), (0.65, 0.8)], np.float32)
        points = box[:2] + share * (box[2:] - box[:2])
        unsure = Found(bbox=np.array([0, 0, 30, 30], np.float32), kps=points, det_score=np.float32(0.6))
        return [unsure, Found(bbox=box, kps=points if self.asked["name"] != "no_points" else None, det_score=0.9)]
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without models."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[None]:
    """Stand-ins for the packages insightface and onnxruntime, found as real ones are; without models."""
    site = tmp_path / "site"
    (site / "insightface").mkdir(parents=True)
    (site / "insightface" / "__init__.py").touch()
    (site / "insightface" / "app.py").write_text(STAND_IN)
    (site / "onnxruntime.py").write_text("def get_available_providers():\n    return ['CPUExecutionProvider']\n")
    (site / "insightface-9.1.dist-info").mkdir()
    (site / "insightface-9.1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: insightface\nVersion: 9.1\n"
    )
    monkeypatch.syspath_prepend(str(site))
    names = ("insightface", "insightface.app", "onnxruntime")
    kept = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    load_detector.cache_clear()
    yield
    load_detector.cache_clear()
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(kept)


def add_pack(home: Path, pack: str = "buffalo_l", content: bytes = b"a model") -> Path:
    folder = home / ".insightface" / "models" / pack
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "det_10g.onnx").write_bytes(content)
    return folder


def red_face(left: int = 40, top: int = 20, size_px: int = 60) -> np.ndarray:
    frame = np.zeros((120, 160, 3), np.uint8)
    frame[top : top + size_px, left : left + size_px, 0] = 255
    return frame


def test_its_faces_are_ours(stand_in: None, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_pack(home)
    detector = load_detector("insightface", CPU)
    blue = red_face()[..., ::-1]
    (face, unsure), nothing = detector.detect([red_face(), blue])
    assert nothing == []
    assert (face.score, round(unsure.score, 6)) == (0.9, 0.6)
    np.testing.assert_allclose(face.box, [40, 20, 99, 79])
    np.testing.assert_allclose(face.points[:2], [(57.7, 37.7), (81.3, 37.7)], atol=1e-4)
    assert face.points.dtype == np.float64
    asked = detector._app.asked  # type: ignore[attr-defined]
    assert asked == {
        "name": "buffalo_l",
        "root": str(home / ".insightface"),
        "providers": ["CPUExecutionProvider"],
        "provider_options": [{}],
        "ctx_id": -1,
        "det_thresh": 0.5,
        "det_size": (640, 640),
    }
    assert capsys.readouterr().out == ""
    assert load_detector("insightface", CPU) is detector


def test_the_spec_names_version_pack_and_models(stand_in: None, home: Path) -> None:
    add_pack(home)
    add_pack(home, "antelopev2", b"another model")
    usual = create_backbone("swinface", weights="random:0", detector="insightface").transform["faces"]
    assert usual.startswith("given, else insightface 9.1 buffalo_l ")
    other = describe_detector("insightface:antelopev2")
    assert other.startswith("insightface 9.1 antelopev2 ")
    add_pack(home, content=b"retrained model")
    assert describe_detector("insightface") not in (usual.removeprefix("given, else "), other)


def test_the_spec_of_the_default_detector_stays_what_it_was() -> None:
    assert create_backbone("swinface", weights="random:0").transform == {
        "faces": "given, else mtcnn 1.0.0",
        "aligned_px": 112,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }


def test_without_its_models_it_says_where_they_belong_and_does_not_fetch_them(stand_in: None, home: Path) -> None:
    message = rf"no models of insightface in {home}/\.insightface/models/buffalo_l; mgcli does not download them"
    with pytest.raises(FaceError, match=message):
        create_backbone("swinface", weights="random:0", detector="insightface")
    with pytest.raises(FaceError, match=message):
        load_detector("insightface", CPU)
    with pytest.raises(FaceError, match=r"models/antelopev2; .*antelopev2\.zip"):
        describe_detector("insightface:antelopev2")
    (home / ".insightface" / "models" / "buffalo_l").mkdir(parents=True)  # there, but empty
    with pytest.raises(FaceError, match=message):
        load_detector("insightface", CPU)
    assert "insightface.app" not in sys.modules


@pytest.mark.skipif(find_spec("insightface") is not None, reason="insightface is installed")
def test_without_the_package_it_says_what_to_install(home: Path) -> None:
    add_pack(home)
    for use in (lambda: describe_detector("insightface"), lambda: load_detector("insightface", CPU)):
        with pytest.raises(FaceError, match=r"pip install 'mgcli\[faces\]'"):
            use()


def test_an_unknown_detector_is_said_to_be_one() -> None:
    with pytest.raises(FaceError, match=r"unknown face detector 'insihgtface'; did you mean 'insightface'\?"):
        create_backbone("swinface", weights="random:0", detector="insihgtface")
    with pytest.raises(FaceError, match="There are: mtcnn, insightface, insightface:PACK"):
        load_detector("mtcnn:large", CPU)


def test_a_pack_that_cannot_be_used_says_why(stand_in: None, home: Path) -> None:
    add_pack(home, "no_points")
    with pytest.raises(FaceError, match=r"models/no_points finds no eyes and mouths"):
        load_detector("insightface:no_points", CPU).detect([red_face()])


class _Fixed:
    """Finds one face, always at the same place."""

    def __init__(self, left: float) -> None:
        self.face = Face(np.array([left, 10, left + 60, 70]), REFERENCE_POINTS / 2 + (left, 10))

    def detect(self, frames: list[np.ndarray]) -> list[list[Face]]:
        return [[self.face] for _ in frames]


def test_faces_of_two_detectors_are_not_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    detectors = {"mtcnn": _Fixed(5), "insightface": _Fixed(70)}
    monkeypatch.setattr("mgcli.extract.face_crops.load_detector", lambda name, device: detectors[name])
    picture = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)

    def align(crops: FaceCrops, clip: int, detector: str) -> np.ndarray:
        return crops.align(clip, None, np.array([3]), np.zeros(1), [picture], detector)[0]

    shared = FaceCrops(10, CPU)
    together = [align(shared, clip, detector) for clip, detector in enumerate(detectors)]
    alone = [align(FaceCrops(10, CPU), 0, detector) for detector in detectors]
    assert not np.array_equal(*alone)
    np.testing.assert_array_equal(together, alone)


@needs_mtcnn
def test_it_finds_the_faces_of_an_extraction_and_has_a_feature_set_of_its_own(
    stand_in: None, home: Path, tmp_path: Path
) -> None:
    make_video(tmp_path / "v.mp4", 20)
    pd.DataFrame({"clip_id": ["a"], "video": ["v.mp4"]}).to_csv(tmp_path / "clips.csv", index=False)
    table = read_clip_table(tmp_path / "clips.csv")

    def extract(detector: str) -> str:
        cache = open_cache(tmp_path / "features", create=True)
        options = {"face": {"frames_per_s": 5.0, "detector": detector}}
        report = extract_modalities(
            cache, table, ["face"], weights="random:0", options=options, workers=0, progress=False
        )
        assert report.failed == 0
        return report.modalities["face"].feature_set

    with pytest.raises(FaceError, match="mgcli does not download them"):
        extract("insightface")
    add_pack(home)
    assert extract("insightface") != extract("mtcnn")
