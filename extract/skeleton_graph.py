"""What a graph network takes from a joint layout: adjacency, bones and motion.

"Two-Stream Adaptive Graph Convolutional Networks for Skeleton-Based Action Recognition" (CVPR 2019),
Sec. 3 (spatial partition into three subsets) and Sec. 3.5 (bones). Bones are taken in every channel, the
confidence of 2-D joints among them, as in the released data.
"""

# Shapes: T frames, V joints, C channels.

from __future__ import annotations

from typing import TypeVar

import numpy as np
from torch import Tensor

from mgcli.extract.skeleton_layouts import JointLayout

Joints = TypeVar("Joints", np.ndarray, Tensor)


def adjacency(layout: JointLayout) -> np.ndarray:
    """The three spatial subsets: the joint itself, its parent, its children.

    Joints are mixed from the right: `out[w] = sum over v of x[v] * A[k, v, w]`. So A[1] brings a child its
    parent, and A[2] brings a parent the mean of its children.

    Returns:
        (3, V, V) float32; every column of A[1] and A[2] sums to 1, or to 0 where it has no edge.
    """
    inward = np.zeros((layout.num_joints, layout.num_joints))
    for child, parent in layout.edges:
        inward[parent, child] = 1.0
    subsets = [np.eye(layout.num_joints), _normalize_columns(inward), _normalize_columns(inward.T)]
    return np.stack(subsets).astype(np.float32)


def joints_to_bones(joints: Joints, layout: JointLayout) -> Joints:
    """Each joint minus its reference joint; the root, which is its own, becomes 0.

    Args:
        joints: (..., V, C), or any other last axis; an array or a tensor.
    """
    return joints - joints[..., layout.references, :]


def motion(joints: np.ndarray) -> np.ndarray:
    """What each joint (or bone) moves until the next frame; 0 in the last frame.

    Args:
        joints: (T, ..., C), time first.
    """
    moved = np.zeros_like(joints)
    moved[:-1] = joints[1:] - joints[:-1]
    return moved


def _normalize_columns(matrix: np.ndarray) -> np.ndarray:
    total = matrix.sum(axis=0)
    return np.divide(matrix, total, out=np.zeros_like(matrix), where=total > 0)
