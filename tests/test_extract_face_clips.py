"""The modality `face` end to end: given and detected faces through SwinFace into the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_faces import draw_face, needs_mtcnn
from tiny_media import draw_video, make_grey_jpegs, make_video

from mgcli.cache import FeatureSet, describe_clips, open_cache, read_clip_table
from mgcli.extract import ExtractReport, create_backbone, extract_modalities, face_mtcnn_network
from mgcli.extract.face import REFERENCE_POINTS, Face, FaceError, align_face, load_detector
from mgcli.extract.face_crops import FaceCrops

NUM_FRAMES = 20
POINTS = REFERENCE_POINTS / 4 + (20, 8)


def given_faces(num_frames: int = NUM_FRAMES) -> np.ndarray:
    """(F, 14) of a face that stays where it is and is hidden in the first ten frames."""
    rows = np.tile(np.concatenate([[22, 10, 46, 38], POINTS.ravel()]), (num_frames, 1))
    rows[:10] = 0
    return rows.astype(np.float32)


def clip_table(folder: Path, **columns: list[Any]) -> pd.DataFrame:
    pd.DataFrame(columns).to_csv(folder / "clips.csv", index=False)
    return read_clip_table(folder / "clips.csv")


def extract_faces(folder: Path, table: pd.DataFrame, **arguments: Any) -> ExtractReport:
    return extract_modalities(
        open_cache(folder / "features", create=True),
        table,
        ["face"],
        options={"face": {"frames_per_s": 5.0}},
        **{"weights": "random:0", "precision": "float32", "workers": 0, "progress": False, **arguments},
    )


def feature_set(folder: Path) -> FeatureSet:
    return open_cache(folder / "features").feature_set("face")


def test_given_faces_become_tokens_with_expressions(tmp_path: Path) -> None:
    make_video(tmp_path / "v.mp4", NUM_FRAMES)  # 0.8 s: four looks
    np.save(tmp_path / "faces.npy", given_faces())
    table = clip_table(tmp_path, clip_id=["a"], video=["v.mp4"], face=["faces.npy"], emotion=["win"])
    assert table["face"].tolist() == [str((tmp_path / "faces.npy").resolve())]
    assert extract_faces(tmp_path, table).failed == 0
    found = feature_set(tmp_path)
    assert (found.spec.reads, found.spec.tokens, found.spec.dim) == ("face", "expression", 512)
    tokens, _ = found.load(["a"])
    time_s, valid = found.load_times(["a"])
    assert tokens.shape == (4, 512)
    assert valid.tolist() == [False, False, True, True]
    np.testing.assert_allclose(time_s, [0.1, 0.3, 0.5, 0.7], atol=1e-6)
    probabilities = found.parts()[0].read_arrays(["aux/expression"])["aux/expression"]
    assert probabilities.shape == (4, 7)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    again = extract_faces(tmp_path, table).modalities["face"]
    assert (again.done, again.skipped) == (0, 1)
    moved = given_faces()
    moved[15] = 0
    np.save(tmp_path / "faces.npy", moved)
    assert extract_faces(tmp_path, table).modalities["face"].done == 1


def test_tokens_are_those_of_the_aligned_crop(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    np.save(tmp_path / "faces.npy", given_faces())
    crops = FaceCrops(NUM_FRAMES, torch.device("cpu"))
    crops.open(tmp_path / "faces.npy")
    found = crops.align(0, tmp_path / "faces.npy", np.array([3, 12, 25]), np.zeros(3), [picture] * 3)
    assert [bool(crop.any()) for crop in found] == [False, True, False]  # hidden, seen, past the last row
    expected = align_face(picture, Face(np.zeros(4), POINTS))
    np.testing.assert_allclose(found[1].astype(int), expected.astype(int), atol=1)
    backbone = create_backbone("swinface", weights="random:0", tokens="expression")
    inputs = torch.stack([backbone.prepare(crop[None], np.zeros(1)).inputs for crop in found])
    tokens, kept = backbone.embed_with_companions(inputs)
    torch.testing.assert_close(tokens, backbone.embed(inputs))
    assert kept["expression"].shape == (3, 1, 7)


@needs_mtcnn
def test_faces_are_detected_where_none_are_given(tmp_path: Path) -> None:
    empty = np.full((240, 320, 3), 90, np.uint8)
    draw_video(tmp_path / "v.mp4", [draw_face(40)] * 10 + [empty] * 10)
    table = clip_table(tmp_path, clip_id=["a", "b"], video=["v.mp4"] * 2, start_s=[0, 0.2], end_s=[0.8, 0.8])
    assert extract_faces(tmp_path, table).failed == 0
    assert feature_set(tmp_path).load_times(["a"])[1].tolist() == [True, True, False, False]
    assert feature_set(tmp_path).load_times(["b"])[1].tolist() == [True, False, False]


@needs_mtcnn
def test_of_two_faces_the_larger_one_is_followed_and_not_replaced(tmp_path: Path) -> None:
    empty = np.full((240, 320, 3), (60, 80, 100), np.uint8)
    small = draw_face(25)
    draw_video(tmp_path / "both.mp4", [np.hstack([small, draw_face(40)])] * 10 + [np.hstack([small, empty])] * 10)
    draw_video(tmp_path / "large.mp4", [np.hstack([empty, draw_face(40)])] * 10 + [np.hstack([empty, empty])] * 10)
    names = ["both", "large"]
    table = clip_table(tmp_path, clip_id=names, video=[f"{name}.mp4" for name in names])
    assert extract_faces(tmp_path, table).failed == 0
    for name in names:
        assert feature_set(tmp_path).load_times([name])[1].tolist() == [True, True, False, False]
    both, large = (feature_set(tmp_path).load([name])[0] for name in names)
    np.testing.assert_allclose(both, large, atol=0.05 * np.abs(large).max())


@needs_mtcnn
def test_a_face_in_grey_is_found_as_in_colour(tmp_path: Path) -> None:
    pictures = [draw_face(30)] * NUM_FRAMES
    draw_video(tmp_path / "grey.mp4", pictures, pixels="gray")
    make_grey_jpegs(tmp_path / "grey.avi", pictures)
    names = ["grey.mp4", "grey.avi"]
    assert extract_faces(tmp_path, clip_table(tmp_path, clip_id=names, video=names)).failed == 0
    for name in names:
        assert feature_set(tmp_path).load_times([name])[1].all()
        assert np.isfinite(feature_set(tmp_path).load([name])[0]).all()


def test_a_detector_that_is_missing_is_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face_mtcnn_network, "DISTRIBUTION", "no-such-distribution")
    load_detector.cache_clear()
    make_video(tmp_path / "v.mp4", NUM_FRAMES)
    with pytest.raises(FaceError, match="pip install"):
        extract_faces(tmp_path, clip_table(tmp_path, clip_id=["a"], video=["v.mp4"]))


def test_face_files_that_do_not_fit_fail_with_the_reason(tmp_path: Path) -> None:
    make_video(tmp_path / "v.mp4", NUM_FRAMES)
    np.save(tmp_path / "good.npy", given_faces())
    np.save(tmp_path / "long.npy", given_faces(60))
    np.save(tmp_path / "narrow.npy", given_faces()[:, :4])
    names = ["good", "long", "narrow", "gone"]
    table = clip_table(tmp_path, clip_id=names, video=["v.mp4"] * 4, face=[f"{name}.npy" for name in names])
    assert "1 face file(s) not found" in describe_clips(table)
    report = extract_faces(tmp_path, table)
    assert (report.modalities["face"].done, report.failed) == (1, 3)
    reasons = {row.clip_id: (row.stage, row.reason) for row in feature_set(tmp_path).failures().itertuples()}
    assert {stage for stage, _ in reasons.values()} == {"face"}
    assert "has 60 rows, its video 20 frames" in reasons["long"][1]
    assert "expected numbers of shape (frames, 14)" in reasons["narrow"][1]
    assert "no such file" in reasons["gone"][1]
