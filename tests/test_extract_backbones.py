"""One contract, run on every backbone; the golden outputs; how one is made, and what is said when it cannot be."""

from __future__ import annotations

import copy
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mgcli.extract import (
    BACKBONES,
    MODALITIES,
    Backbone,
    BackboneError,
    ClipView,
    ViewConfig,
    WeightsError,
    align_face,
    backbone_class,
    create_backbone,
)
from mgcli.extract.backbone import PRECISIONS
from mgcli.extract.backbone_mvit import MViTv2S, arrange_tokens
from mgcli.extract.face import REFERENCE_POINTS, Face
from mgcli.extract.shrink import FramedShrink

GOLDEN = Path(__file__).parent / "data" / "golden_mvit_v2_s.npz"
TOLERANCE = 5e-5  # scaled error: largest difference over largest golden value
OPTIONS = {"joints": {"num_joints": 5}, "torchvision:r3d_18": {"num_frames": 4}}  # small, and fit the media below
FAMILY_MEMBERS = ("timm:test_vit", "torchvision:r3d_18")
TINY = ("tiny_backbones:TinyVideo", "tiny_backbones:TinyWindows")


def scaled_error(found: np.ndarray, golden: np.ndarray) -> float:
    return float(np.abs(found.astype(np.float64) - golden).max() / np.abs(golden).max())


def random_media(backbone: Backbone, num_frames: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    if backbone.reads == "video":
        return rng.integers(0, 256, (num_frames, 40, 56, 3), dtype=np.uint8)
    if backbone.reads == "face":
        return rng.integers(0, 256, (num_frames, 112, 112, 3), dtype=np.uint8)
    num_joints = 5 if backbone.joints is None else backbone.joints.num_joints
    joints = rng.uniform(1, 50, (num_frames, num_joints, 3)).astype(np.float32)
    joints[0, 2] = 0
    return joints


@pytest.fixture(scope="module", params=[*BACKBONES, *FAMILY_MEMBERS, *TINY])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    weights = "random:0" if backbone_class(request.param).has_weights else None
    return create_backbone(request.param, weights=weights, **OPTIONS.get(request.param, {}))


def test_contract_windows_lie_inside_the_clip(backbone: Backbone) -> None:
    for start_s, end_s in ((0.0, 10.0), (3.0, 3.2), (1.5, 4.0), (7.0, 7.01)):
        windows = backbone.windows(start_s, end_s)
        assert windows
        for times_s in windows:
            assert len(times_s) == len(windows[0])
            assert (np.diff(times_s) > 0).all()
            assert times_s[0] >= start_s
            assert times_s[-1] < end_s


def test_contract_tokens_times_and_shapes_agree(backbone: Backbone) -> None:
    times_s = backbone.windows(2.0, 5.0)[0]
    prepared = backbone.prepare(random_media(backbone, len(times_s)), times_s)
    tokens = backbone.embed(prepared.inputs[None])
    assert tokens.dtype == torch.float32
    assert tokens.shape == (1, len(prepared.time_s), backbone.embed_dim)
    assert tokens.isfinite().all()
    assert prepared.valid.shape == prepared.time_s.shape
    assert prepared.valid.dtype == bool
    assert prepared.time_s.dtype == np.float32
    assert (prepared.time_s >= 2.0).all()
    assert (prepared.time_s < 5.0).all()


@pytest.mark.parametrize("mirrored", [False, True])
def test_contract_takes_augmented_views(backbone: Backbone, mirrored: bool) -> None:
    mirrored = mirrored and (backbone.reads != "skeleton" or backbone.joints is not None)
    number = next(i for i in range(1, 99) if ClipView.draw("c", i, ViewConfig()).mirrored == mirrored)
    view = ClipView.draw("c", number, ViewConfig())
    plain_times_s = backbone.windows(2.0, 5.0)
    times_s = view.times(plain_times_s, 2.0, 5.0)
    assert [len(each) for each in times_s] == [len(each) for each in plain_times_s]
    media = random_media(backbone, len(times_s[0]))
    plain = backbone.prepare(media, plain_times_s[0])
    changed = backbone.prepare(as_viewed(backbone, view, media), times_s[0])
    assert changed.inputs.shape == plain.inputs.shape
    assert changed.valid.tolist() == plain.valid.tolist()
    assert ((changed.time_s >= 2.0) & (changed.time_s < 5.0)).all()
    assert not np.array_equal(changed.time_s, plain.time_s)
    tokens = backbone.embed(torch.stack([plain.inputs, changed.inputs]))
    assert tokens.isfinite().all()
    assert not torch.allclose(tokens[0], tokens[1], rtol=1e-3)


def as_viewed(backbone: Backbone, view: ClipView, media: np.ndarray) -> np.ndarray:
    """Media as an augmented view gives them to `prepare`."""
    if backbone.reads == "skeleton":
        return view.change_joints(media, backbone.joints)
    if backbone.reads == "face":
        face = Face(np.array([0, 0, 112, 112]), REFERENCE_POINTS)
        return np.stack([align_face(frame, face, view.face) for frame in media])
    if backbone.shrink is None:
        return np.stack([view.framing(frame) for frame in media])
    return np.stack([FramedShrink(view.framing, backbone.shrink)(frame) for frame in media])


def test_contract_is_frozen_and_says_what_decides_its_tokens(backbone: Backbone) -> None:
    assert not backbone.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert backbone.reads in ("video", "skeleton", "face")
    assert backbone.tokens in type(backbone).layouts
    for said in (backbone.sampling, backbone.transform):
        assert said
        assert json.loads(json.dumps(said)) == said


@pytest.mark.parametrize("precision", PRECISIONS)
def test_contract_computes_where_it_is(backbone: Backbone, precision: str) -> None:
    """torch's meta device stands in for a GPU: it knows shapes, and refuses what lies elsewhere."""
    times_s = backbone.windows(2.0, 5.0)[0]
    prepared = backbone.prepare(random_media(backbone, len(times_s)), times_s)
    there = copy.deepcopy(backbone).to("meta", PRECISIONS[precision])
    there.precision = precision
    tokens, kept = there.embed_on_device(prepared.inputs[None].to(there.device), there)
    assert there.device.type == ("meta" if any(True for _ in backbone.parameters()) else "cpu")
    assert tokens.shape == (1, len(prepared.time_s), backbone.embed_dim)
    assert {each.device for each in (tokens, *kept.values())} == {there.device}


def test_every_modality_has_a_backbone_that_offers_its_layout() -> None:
    for modality in MODALITIES.values():
        kind = backbone_class(modality.backbone)
        assert modality.tokens is None or modality.tokens in kind.layouts


def golden_state(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights that the golden outputs were made with: a formula of each parameter's name and shape."""
    state = {}
    for key, value in network.state_dict().items():
        seed = zlib.crc32(f"golden-v1/{key}".encode())
        z = np.random.RandomState(seed).standard_normal(value.numel()).reshape(value.shape)
        if key.endswith("weight") and value.ndim == 1:  # layer norm
            filled = 1 + 0.1 * z
        elif key.endswith("bias"):
            filled = 0.1 * z
        elif value.ndim >= 2:
            filled = z / math.sqrt(math.prod(value.shape[1:]))
        else:
            filled = 0.5 * z
        if "conv_proj." in key or "class_token" in key:  # small, so that the norms' eps shows
            filled = 0.02 * filled
        state[key] = torch.from_numpy(filled.astype(np.float32))
    return state


def test_mvit_v2_s_reproduces_the_golden_outputs(tmp_path: Path) -> None:
    backbone = create_backbone("mvit_v2_s", weights="random:0", tokens="full")
    torch.save(golden_state(backbone.network), tmp_path / "g.pth")  # bare keys, as torchvision's own file has them
    backbone = create_backbone("mvit_v2_s", weights=str(tmp_path / "g.pth"), tokens="full")
    with np.load(GOLDEN) as golden:
        inputs = torch.from_numpy(golden["input_blocks"].repeat(16, axis=3).repeat(16, axis=4))  # (1, 3, 16, 224, 224)
        tokens = backbone.embed(inputs)  # (1, 393, 768)
        with torch.inference_mode():
            logits = backbone.network.head(tokens[:, 0])
        assert tokens.shape == (1, 393, 768)
        assert scaled_error(tokens[:, ::3].numpy(), golden["every_third_token"]) < TOLERANCE
        assert scaled_error(logits.numpy(), golden["logits"]) < TOLERANCE


def mvit_without_weights(**options: Any) -> MViTv2S:
    """For what needs no forward pass; made in no time."""
    with torch.device("meta"):
        return MViTv2S(**options)


def test_mvit_v2_s_layouts_come_from_the_full_tokens() -> None:
    full = torch.rand(2, 393, 768)
    times = arrange_tokens(full, "time")
    torch.testing.assert_close(times[:, 0], full[:, 0])
    torch.testing.assert_close(times[:, 3], full[:, 1 + 2 * 49 : 1 + 3 * 49].mean(dim=1))
    torch.testing.assert_close(arrange_tokens(full, "pooled"), full[:, :1])
    media = np.zeros((16, 8, 8, 3), np.uint8)
    for layout, num_tokens in {"full": 393, "time": 9, "pooled": 1}.items():
        time_s = mvit_without_weights(tokens=layout).prepare(media, np.arange(16) / 7.5).time_s
        assert len(time_s) == arrange_tokens(full, layout).shape[1] == num_tokens
        assert time_s[0] == pytest.approx(1.0)  # the class token has seen all of the window
    assert mvit_without_weights().prepare(media, np.arange(16.0)).time_s[1:].tolist() == list(range(0, 16, 2))


def test_mvit_v2_s_transform_is_the_official_one() -> None:
    with np.load(GOLDEN) as golden:
        media = golden["video_uint8"].transpose(0, 2, 3, 1)  # (T, C, H, W) -> (T, H, W, C)
        backbone = mvit_without_weights()
        prepared = backbone.prepare(media, np.linspace(0, 2, 16)).inputs  # (T, 224, 224, C) uint8
        inputs = backbone.finish(prepared[None])[0]  # (C, T, 224, 224)
        assert scaled_error(inputs[..., ::14, ::14].numpy(), golden["transformed_every_14th"]) < TOLERANCE


def test_mvit_v2_s_samples_as_its_weights_were_trained() -> None:
    official = mvit_without_weights()
    (times_s,) = official.windows(10.0, 20.0)
    np.testing.assert_allclose(np.diff(times_s), 1 / 7.5)
    assert times_s.mean() == pytest.approx(15.0)
    (short_s,) = official.windows(1.0, 1.32)
    np.testing.assert_allclose(short_s, 1.0 + 0.02 * (np.arange(16) + 0.5))
    uniform = mvit_without_weights(sampling="uniform")
    np.testing.assert_allclose(uniform.windows(10.0, 26.0)[0], 10.5 + np.arange(16))


@pytest.mark.parametrize(("duration_s", "stride_s"), [(0.5, None), (2.2, None), (10.0, None), (60.0, 1.0), (60.0, 5.0)])
def test_windows_cover_a_whole_video(duration_s: float, stride_s: float | None) -> None:
    context = mvit_without_weights(tokens="pooled", sampling="windows", window_stride_s=stride_s)
    windows = context.windows(0.0, duration_s)
    centres_s = np.array([times_s.mean() for times_s in windows])
    stride_s = stride_s or 16 / 7.5
    assert (np.diff(centres_s) > 0).all()
    assert (np.diff(centres_s) <= stride_s + 1e-6).all()
    assert windows[-1][-1] < duration_s
    assert duration_s - windows[-1][-1] < max(stride_s, 16 / 7.5) / 2 + 0.2


def test_same_seed_same_weights_and_the_callers_random_state_stays() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = create_backbone("tiny_backbones:TinyVideo", weights="random:3").state_dict()
    torch.testing.assert_close(torch.rand(3), expected)
    again = create_backbone("tiny_backbones:TinyVideo", weights="random:3").state_dict()
    other = create_backbone("tiny_backbones:TinyVideo", weights="random:4").state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["stem.weight"], other["stem.weight"])


def test_own_weights_of_a_users_class_are_hashed() -> None:
    own = create_backbone("tiny_backbones:TinyVideo").weights
    assert own.name == "own"
    assert len(own.sha256) == 64


def test_bfloat16_changes_tokens_little() -> None:
    exact, narrow = (
        create_backbone("tiny_backbones:TinyVideo", weights="random:0", precision=precision)
        for precision in ("float32", "bfloat16")
    )
    inputs = torch.rand(2, 4, 3 * 8 * 8)
    cosine = torch.cosine_similarity(exact.embed(inputs), narrow.embed(inputs), dim=-1)
    assert not torch.equal(exact.embed(inputs), narrow.embed(inputs))
    assert cosine.min() > 0.995


def test_joints_do_not_depend_on_place_and_size() -> None:
    joints = create_backbone("joints", num_joints=5, num_frames=8)
    media = random_media(joints, 8)
    moved = media * np.array([3.0, 3.0, 1.0], np.float32) + np.array([200.0, -40.0, 0.0], np.float32)
    moved[media[..., 2] == 0] = 0
    times_s = np.arange(8) / 8
    plain, other = joints.prepare(media, times_s), joints.prepare(moved, times_s)
    torch.testing.assert_close(plain.inputs, other.inputs, rtol=1e-4, atol=1e-4)
    tokens = plain.inputs.reshape(8, 5, 3)
    assert tokens[0, 2].tolist() == [0, 0, 0]
    assert tokens[0, 1, 2] == 1
    spread = tokens[..., :2][tokens[..., 2] > 0].square().sum(dim=1).mean().sqrt()
    assert spread == pytest.approx(1.0, abs=1e-4)


def test_joints_mark_a_frame_without_any_joint_as_not_valid() -> None:
    joints = create_backbone("joints", num_joints=5, num_frames=8)
    media = random_media(joints, 8)
    media[3] = 0
    prepared = joints.prepare(media, np.arange(8) / 8)
    assert prepared.valid.tolist() == [True] * 3 + [False] + [True] * 4
    assert not joints.prepare(np.zeros_like(media), np.arange(8) / 8).valid.any()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mvit", {}, "unknown backbone 'mvit'; did you mean 'mvit_v2_s'\\? All: mgcli backbones"),
        ("mvit_v2_s", {"tokens": "grid"}, "no token layout 'grid'; it offers: time, full, pooled"),
        ("mvit_v2_s", {"window_stride": 1.0}, "no option 'window_stride'; did you mean 'window_stride_s'"),
        ("mvit_v2_s", {"window_stride_s": 1.0}, "needs sampling 'windows'"),
        ("mvit_v2_s", {"sampling": "windows", "window_stride_s": 0.0}, "must be above 0"),
        ("mvit_v2_s", {"sampling": "middle"}, "no sampling 'middle'"),
        ("mvit_v2_s", {"precision": "float8"}, "cannot compute in 'float8'"),
        ("joints", {"num_frames": 0}, "must be 1 or more"),
        ("joints", {"num_frames": "many"}, "num_frames is 'many'; it must be int"),
        ("joints", {"weights": "random:0"}, "without weights"),
        ("nowhere.at.all:Class", {}, "write it as package.module:Class"),
        ("tiny_backbones:Missing", {}, "write it as package.module:Class"),
        ("tiny_backbones:NotABackbone", {}, "not a subclass"),
        ("tiny_backbones:Impostor", {}, "which is taken"),
    ],
)
def test_a_backbone_that_cannot_be_made_says_why(name: str, options: dict[str, object], message: str) -> None:
    weights = {} if name == "joints" or "weights" in options else {"weights": "random:0"}
    with pytest.raises(BackboneError, match=message):
        create_backbone(name, **{**weights, **options})


def test_a_skeleton_of_other_joints_is_refused() -> None:
    joints = create_backbone("joints", num_joints=22)
    with pytest.raises(BackboneError, match="5 joints"):
        joints.prepare(random_media(joints, 32), np.arange(32) / 32)


def test_random_weights_need_a_whole_seed() -> None:
    with pytest.raises(WeightsError, match="random:0"):
        create_backbone("tiny_backbones:TinyVideo", weights="random:often")
