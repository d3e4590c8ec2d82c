"""Made-up inputs of a backbone, what a pass over one costs, and what a narrower precision makes of them."""

# Shapes: B batch, T frames, H height, W width, V joints, M people, N tokens, D token width.

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mgcli.extract.backbone import Backbone

CLIP_S = 3.0  # of the clip that inputs are made from
FRAME_PX = (240, 320)  # height, width of the made-up video
FACE_PX = 112
NUM_JOINTS = 22  # where a backbone does not say


def make_input(backbone: Backbone, seed: int = 0) -> tuple[Tensor, str]:
    """One input as the backbone prepares it from made-up media, without batch axis, and what it stands for."""
    times_s = backbone.windows(0.0, CLIP_S)[0]
    rng = np.random.default_rng(seed)
    num_frames = len(times_s)
    media: np.ndarray
    if backbone.reads == "skeleton":
        num_joints = backbone.joints.num_joints if backbone.joints else getattr(backbone, "num_joints", NUM_JOINTS)
        people = (backbone.num_people,) if backbone.num_people > 1 else ()
        shape = (num_frames, *people, num_joints, 3)  # (T, V, 3) or (T, M, V, 3)
        media = rng.uniform(0.1, 0.9, shape).astype(np.float32)
        said = f"a skeleton clip of {num_frames} frames, {num_joints} joints, people: {backbone.num_people}"
    elif backbone.reads == "face":
        media = rng.integers(1, 256, (num_frames, FACE_PX, FACE_PX, 3), dtype=np.uint8)
        said = "a face"
    else:
        media = rng.integers(0, 256, (num_frames, *FRAME_PX, 3), dtype=np.uint8)  # (T, H, W, 3)
        said = f"a window of {num_frames} frames"
    return backbone.prepare(media, times_s).inputs, said


def count_flops(backbone: Backbone, inputs: Tensor) -> int:
    """Floating point operations of the matrix products and convolutions of a forward pass; a multiply-add is two.

    Counted by torch's FlopCounterMode as the pass computes them, fused attention taken apart into its two products,
    columns that only pad included. Norms, activations, pooling and other work by element count as nothing.
    """
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it runs whole layers as one operation, which the counter skips
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            backbone(inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    return counter.get_total_flops()


def token_cosine(backbone: Backbone, exact: Backbone, num_inputs: int) -> float:
    """Mean cosine similarity of the tokens of two backbones, over all tokens of so many made-up inputs."""
    similar = []
    for seed in range(num_inputs):  # one by one, to need no more memory than the smallest batch that is timed
        inputs = make_input(backbone, seed)[0][None]  # (1, ...)
        tokens, expected = backbone.embed(inputs), exact.embed(inputs)  # (1, N, D)
        similar.append(torch.cosine_similarity(tokens, expected, dim=-1))
    return float(torch.cat(similar).mean())
