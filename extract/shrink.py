"""A picture made smaller and cut, once, where it is decoded: what travels on is a few per cent of its bytes."""

# Shapes: H height, W width; h, w those of the crop.

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

Taps = tuple[np.ndarray, np.ndarray, np.ndarray]  # (n,) first pixel, the one after it, and that one's weight


@dataclass(frozen=True)
class Shrink:
    """Bilinear resize without antialiasing, rounded to uint8, then the middle: torchvision's video transforms.

    Only pixels that the crop needs are looked at. The values are torchvision's; in one picture of a few, one pixel
    at a tie is rounded the other way, as torch's own order of sums differs from processor to processor.
    """

    resize_px: int | tuple[int, int]  # of the shorter side; or height and width
    crop_px: tuple[int, int]  # height and width; never more than what the resize gives

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (h, w, 3) uint8."""
        (*rows, down), (*columns, along) = self.taps((picture.shape[0], picture.shape[1]))
        left, right = ((3 * column[:, None] + np.arange(3)).reshape(-1) for column in columns)  # (w * 3,) of a row
        upper, lower = (
            _between(values.take(left, axis=1), values.take(right, axis=1), along.repeat(3))  # (h, w * 3)
            for values in (picture[row].reshape(len(row), -1) for row in rows)
        )
        shrunk = _between(upper, lower, down[:, None])
        return np.rint(shrunk, out=shrunk).astype(np.uint8).reshape(*self.crop_px, 3)

    def taps(self, size_px: tuple[int, int]) -> tuple[Taps, Taps]:
        """Which rows, and which columns, of a picture of that height and width each pixel of the crop lies between."""
        return _taps(size_px, self)

    def all(self, pictures: np.ndarray) -> np.ndarray:
        """(T, H, W, 3) uint8 -> (T, h, w, 3); those that have the size of the crop have been through it."""
        if pictures.shape[1:3] == self.crop_px:
            return pictures
        return np.stack([self(picture) for picture in pictures])


@dataclass(frozen=True)
class Framing:
    """A part of a picture, in the picture's own shape, mirrored or not: what an augmented view sees of it."""

    side: float  # of the part, as a share of the picture's
    down: float  # where the part lies: 0 at the top, 1 at the bottom
    along: float  # 0 at the left, 1 at the right
    mirrored: bool

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, C) -> (h, w, C), without a copy."""
        part = picture[self.part((picture.shape[0], picture.shape[1]))]
        return part[:, ::-1] if self.mirrored else part

    def part(self, size_px: tuple[int, int]) -> tuple[slice, slice]:
        """Which rows and columns of a picture of that height and width are seen."""
        height, width = size_px
        rows, columns = max(1, round(self.side * height)), max(1, round(self.side * width))
        top, left = round(self.down * (height - rows)), round(self.along * (width - columns))
        return slice(top, top + rows), slice(left, left + columns)


@dataclass(frozen=True)
class FramedShrink:
    """Of a part of a picture what a shrink makes of a whole one."""

    framing: Framing
    shrink: Shrink

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (h, w, 3) uint8, as large as the shrink has it."""
        return self.shrink(self.framing(picture))


Look = Shrink | FramedShrink | None  # what is made of a picture where it is decoded; None: it stays as large as it is


def _between(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Each pair of values weighted, in float32; `weight` is the second one's."""
    between = first * (1 - weight)
    between += second * weight
    return between


@lru_cache(64)
def _taps(size_px: tuple[int, int], shrink: Shrink) -> tuple[Taps, Taps]:
    height, width = size_px
    if isinstance(shrink.resize_px, int):
        short = min(height, width)
        resized = (shrink.resize_px * height // short, shrink.resize_px * width // short)
    else:
        resized = shrink.resize_px
    return tuple(map(_axis_taps, size_px, resized, shrink.crop_px))  # type: ignore[return-value]


def _axis_taps(size: int, resized: int, crop: int) -> Taps:
    first = round((resized - crop) / 2)
    places = np.arange(first, first + crop, dtype=np.float32) + np.float32(0.5)
    source = np.maximum(places * (np.float32(size) / np.float32(resized)) - np.float32(0.5), 0)
    low = np.minimum(source.astype(np.int64), size - 1)
    return low, np.minimum(low + 1, size - 1), (source - low).astype(np.float32)
