"""Which hand comes first in the rows of iMiGUE's `*_light_hand.csv`, told from the data.

Layout `imigue35` takes points 25-29 for the left hand's fingertips, as OpenPose's own order has it; a starter kit calls
them right. Fingertips are near the wrist that they belong to, so real data tell.
"""

# Shapes: T frames, V joints.

from __future__ import annotations

from typing import Literal

import numpy as np

HandOrder = Literal["left first", "right first", "unclear"]

_FIRST_TIPS = slice(25, 30)
_LEFT_WRIST, _RIGHT_WRIST = 7, 4  # of BODY_25
_LEAST_FRAMES = 10  # with both wrists and a fingertip
_CLEAR_RATIO = 2.0  # one wrist must be so many times as near as the other; in the one raw file seen it was 14


def hand_order(joints: np.ndarray) -> HandOrder:
    """Whose fingertips points 25-29 are: those of the wrist that they are nearer to, by the median over frames.

    Args:
        joints: (T, V, 3) x, y, confidence with the points of `imigue35`; zeros where missing.

    Returns:
        "unclear" where too few frames show both wrists and a fingertip, or where both wrists are about as near.

    Raises:
        ValueError: fewer than 30 points.
    """
    if joints.ndim != 3 or joints.shape[1] < _FIRST_TIPS.stop:
        raise ValueError(f"joints of shape {joints.shape}; expected (T, 30 or more, 3)")
    is_seen = joints[..., 2] > 0  # (T, V)
    tips = is_seen[:, _FIRST_TIPS]  # (T, 5)
    used = tips.any(axis=1) & is_seen[:, _LEFT_WRIST] & is_seen[:, _RIGHT_WRIST]
    if used.sum() < _LEAST_FRAMES:
        return "unclear"
    points = np.where(tips[used][..., None], joints[used, _FIRST_TIPS, :2], np.nan)  # (T', 5, 2)

    def distance(wrist: int) -> float:
        return float(np.nanmedian(np.linalg.norm(points - joints[used, wrist, None, :2], axis=-1)))

    to_left, to_right = distance(_LEFT_WRIST), distance(_RIGHT_WRIST)
    if to_right > _CLEAR_RATIO * to_left:
        return "left first"
    return "right first" if to_left > _CLEAR_RATIO * to_right else "unclear"
