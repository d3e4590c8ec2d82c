"""Drawn faces that a detector takes for real ones."""

from __future__ import annotations

from importlib import metadata

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter


def has_mtcnn() -> bool:
    return any(distribution.name == "mtcnn" for distribution in metadata.distributions())


needs_mtcnn = pytest.mark.skipif(not has_mtcnn(), reason="the mtcnn distribution, which has the weights, is missing")


def draw_face(
    radius_px: float, centre: tuple[float, float] = (160, 115), size: tuple[int, int] = (240, 320)
) -> np.ndarray:
    """A head with eyes, nose and mouth, (H, W, 3) uint8; its eyes are 0.34 radii from the middle."""
    image = Image.new("RGB", (2 * size[1], 2 * size[0]), (60, 80, 100))
    pen = ImageDraw.Draw(image)
    x, y, r = 2 * centre[0], 2 * centre[1], 2 * radius_px

    def ellipse(right: float, down: float, width: float, height: float, colour: tuple[int, int, int]) -> None:
        corners = (right - width, down - height, right + width, down + height)
        pen.ellipse([(x if i % 2 == 0 else y) + r * corner for i, corner in enumerate(corners)], fill=colour)

    ellipse(0, 2.5, 1.6, 1.2, (40, 40, 60))
    ellipse(0, -0.25, 0.95, 1.15, (50, 35, 30))
    ellipse(0, 0, 0.8, 1.1, (220, 175, 150))
    for side in (-0.34, 0.34):
        ellipse(side, -0.15, 0.2, 0.14, (175, 130, 110))
        ellipse(side, -0.12, 0.16, 0.08, (240, 240, 240))
        ellipse(side, -0.12, 0.075, 0.08, (40, 30, 30))
        ellipse(side, -0.33, 0.2, 0.03, (70, 45, 35))
    ellipse(0, 0.2, 0.1, 0.14, (195, 145, 125))
    ellipse(0, 0.62, 0.3, 0.09, (180, 80, 80))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(2)).resize((size[1], size[0]), Image.Resampling.BILINEAR))
