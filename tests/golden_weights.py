"""Weights and inputs that golden outputs were made with: formulas of a parameter's name and shape, no files.

Every value comes from numpy's RandomState, whose stream never changes, seeded by a CRC-32 of tag and name. Tiny
running variances and stems make outputs react to the norms' eps.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from torch import Tensor

TAG = "golden-v1"
FACTORS: dict[str, dict[str, float]] = {  # family -> part of a name -> extra factor; the first that fits counts
    "agcn": {".conv_a.": 6, ".conv_b.": 6, ".PA": 0.5, ".gcn1.bn.weight": 0.6, ".tcn1.bn.weight": 0.6},
    "aagcn": {".conv_a.": 2, ".conv_b.": 2, ".PA": 0.5, ".gcn1.bn.weight": 0.3, ".tcn1.bn.weight": 0.3},
    "swinface": {"patch_embed.proj.": 0.02},
    "mvit_v2_s": {"conv_proj.": 0.02, "class_token": 0.02},
}


def golden_state(module: torch.nn.Module, family: str, tag: str = TAG) -> dict[str, Tensor]:
    """A state dict for the module; integer buffers and attention masks are left as it builds them."""
    built = module.state_dict()
    state = {}
    for key, value in built.items():
        state[key] = value
        if value.is_floating_point() and not key.endswith("attn_mask"):
            is_batch_norm = key.removesuffix("weight") + "running_var" in built
            array = _values(f"{tag}/{key}", tuple(value.shape), is_batch_norm)
            factor = next((factor for part, factor in FACTORS[family].items() if part in key), 1)
            state[key] = torch.from_numpy((array * factor).astype(np.float32))
    return state


def golden_skeletons(case: str, num_frames: int, num_joints: int, num_clips: int = 2, tag: str = TAG) -> Tensor:
    """(clips, 3, T, V, 2) joints; the second person of the last clip is absent."""
    rng = np.random.RandomState(zlib.crc32(f"{tag}/input/{case}".encode()))
    pose = 0.5 * rng.standard_normal((num_clips, 3, 1, num_joints, 2))
    joints = pose + 0.25 * rng.standard_normal((num_clips, 3, num_frames, num_joints, 2))
    joints[-1, ..., 1] = 0
    return torch.from_numpy(joints.astype(np.float32))


def scaled_error(found: Tensor | np.ndarray, golden: np.ndarray) -> float:
    """The largest difference over the largest golden value."""
    return float(np.abs(np.asarray(found, dtype=np.float64) - golden).max() / np.abs(golden).max())


def _values(seed: str, shape: tuple[int, ...], is_batch_norm: bool) -> np.ndarray:
    z = np.random.RandomState(zlib.crc32(seed.encode())).standard_normal(math.prod(shape)).reshape(shape)
    if seed.endswith("running_mean") or seed.endswith("bias"):
        return 0.1 * z
    if seed.endswith("running_var"):
        return 1e-4 * (0.5 + np.abs(z))
    if len(shape) >= 2:
        return z / math.sqrt(math.prod(shape[1:]))
    if seed.endswith("weight"):
        return (1 + 0.1 * z) * (0.01 if is_batch_norm else 1)
    return 0.5 * z
