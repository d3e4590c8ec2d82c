"""Faces: detection on drawn ones, following the main person, alignment to the reference points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_faces import draw_face, needs_mtcnn

from mgcli.extract import face_mtcnn_network
from mgcli.extract.face import (
    REFERENCE_POINTS,
    Face,
    FaceError,
    FaceFollower,
    align_face,
    read_faces,
    similarity,
)
from mgcli.extract.face_mtcnn import Mtcnn, MtcnnConfig


@needs_mtcnn
@pytest.mark.parametrize("radius_px", [15, 25, 40])
def test_a_drawn_face_is_found_with_its_points(radius_px: int) -> None:
    ((face,),) = Mtcnn().detect([draw_face(radius_px)])
    eyes = np.array(
        [(160 - 0.34 * radius_px, 115 - 0.12 * radius_px), (160 + 0.34 * radius_px, 115 - 0.12 * radius_px)]
    )
    mouth_y = 115 + 0.62 * radius_px
    np.testing.assert_allclose(face.points[:2], eyes, atol=0.12 * radius_px)
    np.testing.assert_allclose(face.points[3:, 1], mouth_y, atol=0.15 * radius_px)
    assert face.box[0] < face.points[:, 0].min() < face.points[:, 0].max() < face.box[2]


@needs_mtcnn
def test_faces_do_not_depend_on_the_other_frames() -> None:
    frames = [draw_face(40), draw_face(25), np.zeros((240, 320, 3), np.uint8), draw_face(40, centre=(100, 100))]
    together = Mtcnn(MtcnnConfig(batch_frames=3)).detect(frames)
    assert [len(faces) for faces in together] == [1, 1, 0, 1]
    for frame, faces in zip(frames, together, strict=True):
        (alone,) = Mtcnn().detect([frame])
        for face, same in zip(faces, alone, strict=True):
            np.testing.assert_allclose(face.box, same.box, atol=1e-2)
            np.testing.assert_allclose(face.points, same.points, atol=1e-2)


@needs_mtcnn
def test_two_faces_and_frames_too_small_for_any() -> None:
    two = np.concatenate([draw_face(40), draw_face(25)], axis=1)
    (faces,) = Mtcnn().detect([two])
    assert sorted(round(float(face.centre[0]) / 160) for face in faces) == [1, 3]
    assert Mtcnn().detect([np.full((15, 15, 3), 90, np.uint8)]) == [[]]


@needs_mtcnn
def test_weights_of_another_version_are_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(face_mtcnn_network.WEIGHTS_SHA256, "rnet.lz4", "0" * 64)
    with pytest.raises(FaceError, match=r"not the known one; pip install mtcnn==1\.0\.0"):
        Mtcnn()


def test_without_the_distribution_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face_mtcnn_network, "DISTRIBUTION", "no-such-distribution")
    with pytest.raises(FaceError, match="pip install"):
        Mtcnn()


def make_face(x: float, y: float, size_px: float = 60) -> Face:
    box = np.array([x - size_px / 2, y - size_px / 2, x + size_px / 2, y + size_px / 2])
    return Face(box, np.tile([x, y], (5, 1)))


def test_the_largest_face_is_followed_even_when_another_grows() -> None:
    follower = FaceFollower()
    main = follower.pick([make_face(50, 50, 40), make_face(200, 60, 70)], 0.0)
    assert main is not None
    assert main.centre[0] == 200
    main = follower.pick([make_face(60, 50, 100), make_face(210, 60, 70)], 0.5)
    assert main is not None
    assert main.centre[0] == 210
    assert follower.pick([make_face(60, 50, 100)], 1.0) is None
    main = follower.pick([make_face(60, 50, 100)], 2.0)  # long enough without the main person
    assert main is not None
    assert main.centre[0] == 60


def test_faces_smaller_than_20_px_are_not_picked() -> None:
    assert FaceFollower().pick([make_face(50, 50, 19)], 0.0) is None
    assert FaceFollower().pick([], 0.0) is None


def test_similarity_finds_a_known_motion() -> None:
    turned = (REFERENCE_POINTS[:, 0] + 1j * REFERENCE_POINTS[:, 1] - (3 - 4j)) / (0.5 * np.exp(0.3j))
    scale, shift = similarity(np.stack([turned.real, turned.imag], axis=1), REFERENCE_POINTS)
    assert scale == pytest.approx(0.5 * np.exp(0.3j))
    assert shift == pytest.approx(3 - 4j)


def test_alignment_brings_points_to_their_places() -> None:
    frame = np.zeros((200, 300, 3), np.uint8)
    points = REFERENCE_POINTS * 1.5 + (60, 10)
    for x, y in points.round().astype(int):
        frame[y - 3 : y + 4, x - 3 : x + 4] = 255
    aligned = align_face(frame, Face(np.array([60, 10, 228, 178]), points))
    assert aligned.shape == (112, 112, 3)
    for x, y in REFERENCE_POINTS.round().astype(int):
        assert (aligned[y - 1 : y + 2, x - 1 : x + 2] > 200).all()
    assert aligned[0, 0].max() == 0
    assert not align_face(frame, None).any()


def test_an_aligned_face_stays_as_it_is() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    np.testing.assert_array_equal(align_face(frame, Face(np.array([0, 0, 112, 112]), REFERENCE_POINTS)), frame)


def test_faces_that_a_data_set_gives(tmp_path: Path) -> None:
    rows = np.arange(42, dtype=np.float32).reshape(3, 14)
    rows[1] = 0
    rows[2, 5] = np.nan
    np.save(tmp_path / "faces.npy", rows)
    first, *others = read_faces(tmp_path / "faces.npy")
    assert first is not None
    assert first.box.tolist() == [0, 1, 2, 3]
    assert first.points[4].tolist() == [12, 13]
    assert others == [None, None]
    np.save(tmp_path / "faces.npy", rows[:, :4])
    with pytest.raises(FaceError, match=r"expected numbers of shape \(frames, 14\)"):
        read_faces(tmp_path / "faces.npy")
    with pytest.raises(FaceError, match="no such file"):
        read_faces(tmp_path / "none.npy")
