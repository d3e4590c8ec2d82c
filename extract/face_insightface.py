"""Faces by insightface, for those who have its models: `detector=insightface`, or `insightface:PACK`.

The package comes with `pip install 'mgcli[faces]'`; its models do not. insightface would fetch them by itself, so
it is only called where a pack is there already: under `~/.insightface/models/PACK/`, as insightface keeps them. They
are for non-commercial research only (the licence of its authors); the package's code is MIT.
"""

# Shapes: H, W height and width.

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mgcli.extract.face import Face, FaceError

DISTRIBUTION = "insightface"
DEFAULT_PACK = "buffalo_l"  # SCRFD-10GF
INPUT_PX = 640  # a frame is shrunk, or enlarged, to fit into this square
MIN_SCORE = 0.5
_INSTALL = "pip install 'mgcli[faces]'"


class InsightFace:
    """A face detector (a `FaceDetector`) out of one of insightface's model packs; its other models are not loaded."""

    def __init__(self, pack: str = "", device: str | torch.device = "cpu") -> None:
        """Load the detection model.

        Args:
            pack: such as buffalo_l, the default.
            device: where it runs; a GPU needs the distribution onnxruntime-gpu in place of onnxruntime.

        Raises:
            FaceError: the package or the pack is not there, or holds no detector.
        """
        folder = _pack_folder(pack)
        try:
            from insightface.app import FaceAnalysis
        except ImportError as error:
            raise FaceError(f"insightface cannot be imported ({error}); {_INSTALL}") from error
        number, providers = _providers(torch.device(device))
        try:
            with redirect_stdout(sys.stderr):  # it prints what it loads; stdout is for results
                self._app = FaceAnalysis(
                    name=folder.name,
                    root=str(_root()),
                    allowed_modules=["detection"],
                    providers=list(providers),
                    provider_options=list(providers.values()),
                )
                self._app.prepare(ctx_id=number, det_thresh=MIN_SCORE, det_size=(INPUT_PX, INPUT_PX))
        except Exception as error:  # its runtime's errors have no common class
            raise FaceError(f"insightface cannot load a face detector from {folder}: {error!r}") from error
        self._folder = folder
        self._lock = threading.Lock()  # several videos are read at once

    @classmethod
    def describe(cls, pack: str = "") -> str:
        """Its version, its pack and the first digits of the pack's SHA-256, as they go into a spec.

        Raises:
            FaceError: the package or the pack is not there.
        """
        folder = _pack_folder(pack)
        try:
            version = metadata.version(DISTRIBUTION)
        except metadata.PackageNotFoundError:
            raise FaceError(f"the face detector insightface is not installed; {_INSTALL}") from None
        stamps = tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in _models(folder))
        return f"insightface {version} {folder.name} {_sha256(stamps)[:8]} at {INPUT_PX} px above {MIN_SCORE}"

    def detect(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        """Faces of each (H, W, 3) uint8 RGB frame, surest first."""
        return [self._detect(frame) for frame in frames]

    def _detect(self, frame: np.ndarray) -> list[Face]:
        with self._lock:
            found = self._app.get(np.ascontiguousarray(frame[..., ::-1]))  # (H, W, 3) BGR
        if any(face.kps is None for face in found):
            raise FaceError(f"the detector in {self._folder} finds no eyes and mouths to align faces by")
        # `kps` are left eye, right eye, nose, left and right mouth corner as seen in the picture
        faces = [Face(_float64(face.bbox), _float64(face.kps), float(face.det_score)) for face in found]
        return sorted(faces, key=lambda face: -face.score)


def _root() -> Path:
    """Where insightface keeps its models."""
    return Path("~/.insightface").expanduser()


def _pack_folder(pack: str) -> Path:
    """The folder of a pack that is there.

    Raises:
        FaceError: it is not, and insightface would try to download it.
    """
    name = pack or DEFAULT_PACK
    folder = _root() / "models" / name
    if Path(name).name != name or not _models(folder):
        raise FaceError(
            f"no models of insightface in {folder}; mgcli does not download them. They are for non-commercial "
            f"research: get {name}.zip from https://github.com/deepinsight/insightface/releases/tag/model-zoo and "
            f"unpack it so that its .onnx files lie there, or use detector=mtcnn"
        )
    return folder


def _models(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.onnx"))


@cache
def _sha256(stamps: tuple[tuple[Path, int, int], ...]) -> str:
    """Over the names and bytes of files; size and time only tell when to read them again."""
    digest = hashlib.sha256()
    for path, _, _ in stamps:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _providers(device: torch.device) -> tuple[int, dict[str, dict[str, Any]]]:
    """insightface's device number, and what ONNX Runtime shall compute with, in order, with options.

    Raises:
        FaceError: ONNX Runtime is not installed.
    """
    on_cpu: dict[str, dict[str, Any]] = {"CPUExecutionProvider": {}}
    try:
        from onnxruntime import get_available_providers
    except ImportError as error:
        raise FaceError(f"onnxruntime cannot be imported ({error}); {_INSTALL}") from error
    if device.type != "cuda" or "CUDAExecutionProvider" not in get_available_providers():
        return -1, on_cpu
    number = device.index or 0
    return number, {"CUDAExecutionProvider": {"device_id": number}, **on_cpu}


def _float64(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)
