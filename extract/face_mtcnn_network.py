"""The three networks of MTCNN, and their weights in the `mtcnn` distribution.

"Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks" (IEEE SPL 2016), Fig. 2.
"""

# Shapes: B pictures, H, W height and width, C channels. Pictures are RGB, (x - 127.5) / 128.

from __future__ import annotations

import hashlib
from importlib import metadata

import numpy as np
import torch
from torch import Tensor, nn

from mgcli.extract.face import FaceError

DISTRIBUTION = "mtcnn"  # 1.0.0, MIT
WEIGHTS_SHA256 = {
    "pnet.lz4": "ea6b0c3e685ebee3165326ad6484acc95f2ef78f1c94fbf40a55704fa989f7b5",
    "rnet.lz4": "cb00e6460f3c98b0bfafaba3c0a0ded4bdf6e62cee7174d969e8670d7e757fee",
    "onet.lz4": "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3",
}
NUM_POINTS = 5


class PNet(nn.Module):
    """Proposes: a face score and a box correction for every window of 12 pixels, 2 pixels apart."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 10, 3), nn.PReLU(10), nn.MaxPool2d(2, 2, ceil_mode=True)),
            *(nn.Conv2d(10, 16, 3), nn.PReLU(16)),
            *(nn.Conv2d(16, 32, 3), nn.PReLU(32)),
        )
        self.box = nn.Conv2d(32, 4, 1)
        self.face = nn.Conv2d(32, 2, 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> scores (B, H', W') and corrections (B, 4, H', W')."""
        x = self.features(pictures)
        return self.face(x).softmax(dim=1)[:, 1], self.box(x)


class RNet(nn.Module):
    """Refines: 24 x 24 pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 28, 3), nn.PReLU(28), nn.MaxPool2d(3, 2, ceil_mode=True)),
            *(nn.Conv2d(28, 48, 3), nn.PReLU(48), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(48, 64, 2), nn.PReLU(64)),
        )
        self.dense = nn.Sequential(nn.Linear(576, 128), nn.PReLU(128))
        self.box = nn.Linear(128, 4)
        self.face = nn.Linear(128, 2)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, 24, 24) -> scores (B,) and corrections (B, 4)."""
        x = self.dense(_flatten_by_column(self.features(pictures)))
        return self.face(x).softmax(dim=1)[:, 1], self.box(x)


class ONet(nn.Module):
    """Decides, and places the points: 48 x 48 pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 32, 3), nn.PReLU(32), nn.MaxPool2d(3, 2, ceil_mode=True)),
            *(nn.Conv2d(32, 64, 3), nn.PReLU(64), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 64, 3), nn.PReLU(64), nn.MaxPool2d(2, 2, ceil_mode=True)),
            *(nn.Conv2d(64, 128, 2), nn.PReLU(128)),
        )
        self.dense = nn.Sequential(nn.Linear(1152, 256), nn.PReLU(256))
        self.box = nn.Linear(256, 4)
        self.points = nn.Linear(256, 2 * NUM_POINTS)
        self.face = nn.Linear(256, 2)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, 48, 48) -> scores (B,), corrections (B, 4), points (B, 5, 2) as shares of the box."""
        x = self.dense(_flatten_by_column(self.features(pictures)))
        points = self.points(x).unflatten(1, (2, NUM_POINTS)).transpose(1, 2)  # all x, then all y
        return self.face(x).softmax(dim=1)[:, 1], self.box(x), points


def load_mtcnn() -> tuple[PNet, RNet, ONet]:
    """The three networks with the weights of the installed distribution.

    Raises:
        FaceError: it is not installed, or its files are not the known ones.
    """
    networks = (PNet(), RNet(), ONet())
    for network, file in zip(networks, WEIGHTS_SHA256, strict=True):
        arrays = [_torch_order(array) for array in _read_arrays(file)]
        parameters = list(network.parameters())
        if [array.shape for array in arrays] != [tuple(parameter.shape) for parameter in parameters]:
            raise FaceError(f"{file} of the {DISTRIBUTION} distribution holds another network")
        for parameter, array in zip(parameters, arrays, strict=True):
            parameter.data.copy_(torch.from_numpy(array))
        network.eval().requires_grad_(False)
    return networks


def _read_arrays(file: str) -> list[np.ndarray]:
    """The arrays of one network, in the order of its layers, out of the distribution's own file."""
    try:
        files = metadata.files(DISTRIBUTION) or []
        import joblib  # comes with the distribution
    except ImportError as error:  # PackageNotFoundError is one
        raise FaceError(f"no face detector: pip install {DISTRIBUTION}==1.0.0 lz4 joblib, or give the faces") from error
    path = next((entry.locate() for entry in files if entry.name == file), None)
    if path is None:
        raise FaceError(f"the {DISTRIBUTION} distribution has no {file}; pip install {DISTRIBUTION}==1.0.0")
    with open(str(path), "rb") as stream:  # noqa: PTH123 (a located file need not be a pathlib one)
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    if sha256 != WEIGHTS_SHA256[file]:  # before joblib sees it: loading an unknown file could run code
        raise FaceError(f"{path} has SHA-256 {sha256[:12]}..., not the known one; pip install {DISTRIBUTION}==1.0.0")
    return joblib.load(str(path))


def _torch_order(array: np.ndarray) -> np.ndarray:
    """Kernels (height, width, in, out) -> (out, in, height, width), dense (in, out) -> (out, in), slopes flat."""
    if array.ndim == 4:
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
    return np.ascontiguousarray(array.T) if array.ndim == 2 else array.reshape(-1)


def _flatten_by_column(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, W * H * C), width slowest, as the dense weights are stored."""
    return x.permute(0, 3, 2, 1).flatten(1)
