"""Faces of one person over a video: found or given, followed, and aligned by five points to 112 x 112.

The reference points are those of ArcFace (CVPR 2019), on whose crops SwinFace was trained. A detector is anything
with `detect`; the default, `face_mtcnn.Mtcnn`, works offline.
"""

# Shapes: F frames, H, W height and width.

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional as F

from mgcli.cache import MgcliError
from mgcli.extract.media_file import why_unreadable

ALIGNED_PX = 112
# Left eye, right eye, nose, left and right mouth corner, as seen in the picture, in the aligned crop.
REFERENCE_POINTS = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
MIN_FACE_PX = 20  # smaller faces tell nothing, and are not detected reliably
MAX_GAP_S = 1.0  # after so long without the main person, the largest face becomes the main person
MAX_MOVE = 1.0  # a followed face moves at most so many of its own sizes from one look to the next
DEFAULT_DETECTOR = "mtcnn"
DETECTORS: dict[str, str] = {  # name -> where it is; imported when asked for
    "mtcnn": "mgcli.extract.face_mtcnn:Mtcnn",
    "insightface": "mgcli.extract.face_insightface:InsightFace",  # or insightface:PACK
}


class FaceError(MgcliError):
    """A face file or a face detector that cannot be used."""


@dataclass(frozen=True, eq=False)
class Face:
    """One face in one frame."""

    box: np.ndarray  # (4,) left, top, right, bottom in pixels
    points: np.ndarray  # (5, 2) x, y in pixels, in the order of REFERENCE_POINTS
    score: float = 1.0

    @property
    def size_px(self) -> float:
        """The longer side of the box."""
        return float(np.max(self.box[2:] - self.box[:2]))

    @property
    def centre(self) -> np.ndarray:
        return (self.box[:2] + self.box[2:]) / 2


class FaceDetector(Protocol):
    """Finds all faces of at least `MIN_FACE_PX` in frames of one size."""

    def detect(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        """Faces of each (H, W, 3) uint8 RGB frame, surest first; they do not depend on the other frames."""
        ...


@cache
def load_detector(name: str, device: torch.device) -> FaceDetector:
    """A face detector by its name, on a device; the same one each time.

    Raises:
        FaceError: unknown, or its package or its weights are not installed.
    """
    kind, pack = _detector_class(name)
    return kind(pack, device=device) if pack else kind(device=device)


def describe_detector(name: str) -> str:
    """What decides the faces that a detector finds, in a few words for a spec.

    Raises:
        FaceError: unknown, or not installed where its version must be known.
    """
    kind, pack = _detector_class(name)
    return kind.describe(pack) if pack else kind.describe()


def _detector_class(name: str) -> tuple[Any, str]:
    """The class behind a name, and what stands after its colon."""
    family, _, pack = name.partition(":")
    if family not in DETECTORS or (pack and family == DEFAULT_DETECTOR):
        near = difflib.get_close_matches(family, DETECTORS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise FaceError(f"unknown face detector {name!r}; {hint}There are: {', '.join(DETECTORS)}, insightface:PACK")
    module_name, _, class_name = DETECTORS[family].partition(":")
    return getattr(import_module(module_name), class_name), pack


class FaceFollower:
    """Picks the main person's face, look after look, in ascending order of time.

    The main person is the largest face of the first look that has any, and then whoever is nearest to where
    that face was last seen. One follower sees one clip, so that its faces depend on nothing else.
    """

    def __init__(self) -> None:
        self._last: Face | None = None
        self._last_s = -np.inf

    def pick(self, faces: Sequence[Face], time_s: float) -> Face | None:
        """The main person's face among those of one frame; None where it is not seen."""
        faces = [face for face in faces if face.size_px >= MIN_FACE_PX]
        if self._last is not None and time_s - self._last_s <= MAX_GAP_S:
            faces = [face for face in faces if self._distance(face) <= MAX_MOVE]
            chosen = min(faces, key=self._distance, default=None)
        else:
            chosen = max(faces, key=lambda face: face.size_px, default=None)
        if chosen is not None:
            self._last, self._last_s = chosen, time_s
        return chosen

    def _distance(self, face: Face) -> float:
        """From where the face was last seen, in sizes of that face."""
        assert self._last is not None
        return float(np.linalg.norm(face.centre - self._last.centre)) / self._last.size_px


@dataclass(frozen=True)
class FaceJitter:
    """How far from its place an augmented view sees an aligned face."""

    zoom: float
    shift: complex  # x + iy, in sides of the aligned face
    mirrored: bool


def align_face(frame: np.ndarray, face: Face | None, jitter: FaceJitter | None = None) -> np.ndarray:
    """The face turned, scaled and moved so that its points lie on the reference points.

    Args:
        frame: (H, W, 3) uint8 RGB.
        face: None where no face was seen.
        jitter: of an augmented view: the crop is zoomed, moved, and then mirrored or not.

    Returns:
        (112, 112, 3) uint8 RGB, black outside the frame, and black all over where there is no face.
    """
    if face is None:
        return np.zeros((ALIGNED_PX, ALIGNED_PX, 3), dtype=np.uint8)
    scale, shift = similarity(face.points, REFERENCE_POINTS)
    if jitter is not None:
        middle = (ALIGNED_PX - 1) / 2 * (1 + 1j)
        scale, shift = jitter.zoom * scale, jitter.zoom * (shift - middle) + middle + ALIGNED_PX * jitter.shift
    column, row = np.meshgrid(np.arange(ALIGNED_PX), np.arange(ALIGNED_PX))
    source = (column + 1j * row - shift) / scale  # (112, 112) x + iy in the frame, pixel centres at whole numbers
    height, width = frame.shape[:2]
    place = np.stack([(2 * source.real + 1) / width - 1, (2 * source.imag + 1) / height - 1], axis=-1)
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].float()  # (1, 3, H, W)
    grid = torch.from_numpy(place[None]).float()  # (1, 112, 112, 2) in -1..1
    aligned = F.grid_sample(pixels, grid, mode="bilinear", align_corners=False)[0]  # (3, 112, 112)
    crop: np.ndarray = aligned.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return crop[:, ::-1] if jitter is not None and jitter.mirrored else crop


def similarity(points: np.ndarray, reference: np.ndarray) -> tuple[complex, complex]:
    """The rotation, scale and shift of least squares between two sets of points in the plane, never a reflection.

    Args:
        points: (P, 2).
        reference: (P, 2).

    Returns:
        `a` and `b` such that `a * (x + iy) + b` brings the points to the reference (Umeyama, PAMI 1991).
    """
    z = points[:, 0] + 1j * points[:, 1]
    w = reference[:, 0] + 1j * reference[:, 1]
    spread = np.sum(np.abs(z - z.mean()) ** 2)
    scale = np.sum((z - z.mean()).conj() * (w - w.mean())) / max(spread, 1e-12)
    return complex(scale), complex(w.mean() - scale * z.mean())


def read_faces(path: Path) -> list[Face | None]:
    """Faces that a data set gives, one row a video frame.

    Args:
        path: `.npy`, (F, 14): left, top, right, bottom, then x, y of the five points in the order of
            REFERENCE_POINTS, in pixels. A row of zeros, or one with a NaN, has no face.

    Raises:
        FaceError: missing, damaged, or of another shape.
    """
    fault = why_unreadable(path)
    if fault:
        raise FaceError(f"{path}: {fault}")
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FaceError(f"{path}: not a .npy array, or cut short ({error})") from error
    if rows.ndim != 2 or rows.shape[1] != 14 or rows.dtype.kind not in "fiu":
        raise FaceError(f"{path} holds {rows.dtype} of shape {rows.shape}; expected numbers of shape (frames, 14)")
    rows = rows.astype(np.float64)
    seen = np.isfinite(rows).all(axis=1) & rows.any(axis=1)
    return [Face(row[:4], row[4:].reshape(5, 2)) if known else None for row, known in zip(rows, seen, strict=True)]
