"""2s-AGCN and AAGCN: the golden outputs through every way a checkpoint is written, tokens, bad checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_weights import golden_skeletons, golden_state, scaled_error
from released_forms import as_old_torch, as_openmmlab, with_module
from torch import Tensor

from mgcli.extract import BackboneError, WeightsError, create_backbone
from mgcli.extract.backbone_agcn import NETWORKS, JointStream
from mgcli.extract.skeleton_graph import adjacency
from mgcli.extract.skeleton_layouts import LayoutError, joint_layout

GOLDEN = Path(__file__).parent / "data" / "golden_agcn.npz"
TOLERANCE = 5e-5
CASES = {  # case -> network, joints, normalization, classes, frames
    "agcn_kinetics": ("agcn", "kinetics18", "kinetics", 400, 64),
    "agcn_ntu": ("agcn", "ntu25", "ntu", 60, 64),
    "aagcn_kinetics": ("aagcn", "kinetics18", "kinetics", 400, 32),
    "aagcn_ntu": ("aagcn", "ntu25", "ntu", 60, 32),
}


def released_state(case: str, num_people: int = 2) -> dict[str, Tensor]:
    network, joints, _, num_classes, _ = CASES[case]
    graph = adjacency(joint_layout(joints))
    return golden_state(NETWORKS[network](graph, num_people=num_people, num_classes=num_classes), network)


def load(state: dict[str, Any], case: str, folder: Path, **options: Any) -> JointStream:
    torch.save(state, folder / "checkpoint.pt")
    _, joints, normalize, _, _ = CASES[case]
    options = {"joints": joints, "normalize": normalize, **options}
    backbone = create_backbone("agcn_joint", weights=str(folder / "checkpoint.pt"), **options)
    assert isinstance(backbone, JointStream)
    return backbone


@pytest.mark.parametrize("case", CASES)
def test_a_released_checkpoint_gives_the_golden_outputs(case: str, tmp_path: Path) -> None:
    _, joints, _, _, num_frames = CASES[case]
    backbone = load(released_state(case), case, tmp_path)
    network = backbone.network
    inputs = golden_skeletons(case, num_frames, joint_layout(joints).num_joints)
    with np.load(GOLDEN) as golden, torch.inference_mode():
        feature_map = network.feature_map(inputs)  # (2, 2, 256, T', V)
        found = {
            "logits": backbone.logits(inputs),
            "person_pooled": feature_map.mean(dim=(3, 4)),
            "feature_map": feature_map.permute(0, 2, 3, 4, 1)[:, ::16, ::2],  # (2, 256, T', V, 2), thinned
            "attention_l1": network.block(1).gcn1.attention(network.normalize(inputs)),
        }
        for name, value in found.items():
            if f"{case}_{name}" in golden:
                assert scaled_error(value, golden[f"{case}_{name}"]) < TOLERANCE, name
    pooled = feature_map.mean(dim=(1, 3, 4))
    backbone.tokens = "pooled"
    torch.testing.assert_close(backbone.embed(inputs)[:, 0], pooled, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("case", "rewrite"), [("agcn_ntu", lambda state: with_module(as_old_torch(state))), ("aagcn_ntu", as_openmmlab)]
)
def test_every_way_to_write_a_checkpoint_gives_the_same_network(
    case: str, rewrite: Callable[[dict[str, Tensor]], dict[str, Any]], tmp_path: Path
) -> None:
    state = released_state(case)
    plain = load(state, case, tmp_path)
    rewritten = load(rewrite(state), case, tmp_path)
    inputs = golden_skeletons(case, 12, 25)
    with torch.inference_mode():
        assert torch.equal(plain.logits(inputs), rewritten.logits(inputs))


def test_a_checkpoint_that_does_not_fit_is_refused_with_its_keys(tmp_path: Path) -> None:
    state = released_state("agcn_ntu")
    partial = {key: value for key, value in state.items() if not key.startswith("l3.gcn1.conv_d.1")}
    with pytest.raises(WeightsError, match=r"lacks l3\.gcn1\.conv_d\.1\.bias, l3\.gcn1\.conv_d\.1\.weight"):
        load(partial, "agcn_ntu", tmp_path)
    renamed = {key.replace("l1.gcn1.", "l1a."): value for key, value in state.items()}
    with pytest.raises(WeightsError, match=r"no AGCN checkpoint: it lacks 'l1\.gcn1\.PA'"):
        load(renamed, "agcn_ntu", tmp_path)
    with pytest.raises(WeightsError, match=r"25 joints, layout 'imigue22' has 22"):
        load(state, "agcn_ntu", tmp_path, joints="imigue22", normalize="body")
    with pytest.raises(WeightsError, match="lacks"):
        load({"conv_proj.weight": torch.zeros(3)}, "agcn_ntu", tmp_path)
    torch.save(state, tmp_path / "whole.pt")
    (tmp_path / "short.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:100_000])
    with pytest.raises(WeightsError, match="cut short"):
        create_backbone("agcn_joint", weights=str(tmp_path / "short.pt"))


def test_without_weights_it_says_how_to_get_some() -> None:
    with pytest.raises(WeightsError, match=r"agcn_joint has no published weights to fall back on: give --weights FILE"):
        create_backbone("agcn_joint")


def make_media(num_frames: int, seed: int = 0) -> np.ndarray:
    """(T, 22, 3) pixels and confidence of somebody who moves a little."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(100, 400, (1, 22, 2)) + rng.normal(0, 2, (num_frames, 22, 2)).cumsum(axis=0)
    return np.concatenate([xy, rng.uniform(0.3, 1, (num_frames, 22, 1))], axis=2).astype(np.float32)


def test_smaller_layouts_are_means_of_the_full_one() -> None:
    tokens = {}
    for layout in JointStream.layouts:
        backbone = create_backbone("agcn_joint", weights="random:0", tokens=layout, num_frames=14)
        prepared = backbone.prepare(make_media(14), backbone.windows(0.0, 1.0)[0])
        tokens[layout] = backbone.embed(prepared.inputs[None])
        assert len(prepared.time_s) == len(prepared.valid) == tokens[layout].shape[1]
    full = tokens["full"].unflatten(1, (4, 22))  # 14 frames -> 7 -> 4, and 22 joints
    torch.testing.assert_close(tokens["time"], full.mean(dim=2))
    torch.testing.assert_close(tokens["joint"], full.mean(dim=1))
    torch.testing.assert_close(tokens["pooled"], full.mean(dim=(1, 2))[:, None])


@pytest.mark.parametrize("network", NETWORKS)
def test_tokens_do_not_depend_on_the_batch(network: str) -> None:
    backbone = create_backbone("agcn_joint", weights="random:0", network=network, num_frames=16)
    inputs = torch.stack(
        [backbone.prepare(make_media(16, seed), backbone.windows(0.0, 1.0)[0]).inputs for seed in range(5)]
    )
    together = backbone.embed(inputs)
    alone = torch.cat([backbone.embed(each[None]) for each in inputs])
    assert scaled_error(alone, together.numpy()) < 1e-5
    assert torch.equal(together, backbone.embed(inputs))


def test_training_and_frozen_batch_norms_agree() -> None:
    torch.manual_seed(0)
    network = NETWORKS["aagcn"](adjacency(joint_layout("imigue22")), num_people=1, num_classes=5)
    inputs = torch.randn(8, 3, 16, 22, 1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.momentum = 1.0  # running statistics become those of this batch
    in_training = network(inputs)
    in_training.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    with torch.inference_mode():
        frozen = network.eval()(inputs)
    assert scaled_error(frozen, in_training.detach().numpy()) < 0.05  # biased against unbiased variance


def test_bfloat16_changes_golden_tokens_little(tmp_path: Path) -> None:
    exact = load(released_state("agcn_ntu"), "agcn_ntu", tmp_path, tokens="full")
    narrow = load(released_state("agcn_ntu"), "agcn_ntu", tmp_path, tokens="full", precision="bfloat16")
    inputs = golden_skeletons("agcn_ntu", 16, 25)
    assert torch.cosine_similarity(exact.embed(inputs), narrow.embed(inputs), dim=-1).mean() >= 0.999


def test_missing_joints_are_marked_and_leave_finite_tokens() -> None:
    backbone = create_backbone("agcn_joint", weights="random:0", tokens="full", num_frames=8)
    media = make_media(8)
    media[:4, 3] = 0  # a joint missing in the first four frames: one token
    media[:, 7] = np.nan  # and one that is never seen
    prepared = backbone.prepare(media, backbone.windows(0.0, 1.0)[0])
    valid = prepared.valid.reshape(2, 22)
    assert not valid[0, 3]
    assert valid[1, 3]
    assert not valid[:, 7].any()
    assert valid.sum() == 2 * 22 - 3
    assert backbone.embed(prepared.inputs[None]).isfinite().all()
    nobody = backbone.prepare(np.zeros_like(media), backbone.windows(0.0, 1.0)[0])
    assert not nobody.valid.any()
    assert backbone.embed(nobody.inputs[None]).isfinite().all()


def test_bones_are_valid_where_both_ends_are_seen() -> None:
    backbone = create_backbone("agcn_bone", weights="random:0", tokens="joint", num_frames=8)
    media = make_media(8)
    media[:, 6] = 0  # the left elbow: its own bone and the wrist's
    prepared = backbone.prepare(media, backbone.windows(0.0, 1.0)[0])
    assert np.flatnonzero(~prepared.valid).tolist() == [6, 7]
    assert prepared.inputs[:2, :, 1].abs().max() == 0  # the neck is the root


def test_body_normalization_does_not_depend_on_place_and_size() -> None:
    backbone = create_backbone("agcn_joint", weights="random:0", num_frames=8)
    media = make_media(8)
    moved = media * np.array([2, 2, 1], np.float32) + np.array([50, -20, 0], np.float32)
    times_s = backbone.windows(0.0, 1.0)[0]
    torch.testing.assert_close(
        backbone.prepare(media, times_s).inputs, backbone.prepare(moved, times_s).inputs, rtol=1e-4, atol=1e-4
    )


def test_people_beyond_the_network_are_left_out_and_missing_ones_absent() -> None:
    two = create_backbone("agcn_joint", weights="random:0", num_frames=8, num_people=2)
    times_s = two.windows(0.0, 1.0)[0]
    alone = two.prepare(make_media(8), times_s).inputs
    assert alone.shape == (3, 8, 22, 2)
    assert not alone[..., 1].any()
    crowd = np.stack([make_media(8), make_media(8, 1), make_media(8, 2)], axis=1)
    torch.testing.assert_close(two.prepare(crowd, times_s).inputs[..., 0], alone[..., 0])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"joints": "openpose135"}, LayoutError, "did you mean 'openpose137'"),
        ({"network": "gcn"}, BackboneError, "choose from: agcn, aagcn"),
        ({"normalize": "ntu"}, BackboneError, "is for joints 'ntu25'"),
        ({"num_frames": 0}, BackboneError, "must be 1 or more"),
        ({"window_stride_s": 1.0}, BackboneError, "needs 'windows'"),
    ],
)
def test_options_that_do_not_fit_say_why(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        create_backbone("agcn_joint", weights="random:0", **options)


def test_a_skeleton_of_other_joints_is_refused() -> None:
    backbone = create_backbone("agcn_joint", weights="random:0", num_frames=8)
    with pytest.raises(BackboneError, match="5 joints, layout 'imigue22' has 22"):
        backbone.prepare(np.ones((8, 5, 3), np.float32), np.arange(8) / 8)
