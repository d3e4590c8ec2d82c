"""MViTv2-S's fused forward pass gives what torchvision's own blocks give."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from golden_weights import golden_state, scaled_error
from torch import Tensor
from torchvision.models.video import mvit_v2_s

from mgcli.extract import create_backbone
from mgcli.extract.backbone_mvit_forward import FusedForward

TOLERANCE = 1e-5  # scaled error, float32


@pytest.fixture(scope="module")
def network() -> Any:
    """torchvision's, with weights whose relative positions matter."""
    network = mvit_v2_s().eval().requires_grad_(False)
    network.load_state_dict(golden_state(network, "mvit_v2_s"))
    return network


def by_torchvision(network: Any, inputs: Tensor) -> Tensor:
    x = network.pos_encoding(network.conv_proj(inputs).flatten(2).transpose(1, 2))
    grid = (8, 56, 56)
    for block in network.blocks:
        x, grid = block(x, grid)
    return network.norm(x)


def test_all_tokens_are_those_of_torchvision(network: Any) -> None:
    inputs = torch.randn(1, 3, 16, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = FusedForward(network)(network, inputs)
        assert found.shape == (1, 393, 768)
        assert scaled_error(found, by_torchvision(network, inputs).numpy()) < TOLERANCE


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("number", [2, 3, 14, 15])  # keys coarser; both coarser than before; keys finer; all alike
def test_attention_of_a_batch_is_that_of_torchvision(network: Any, number: int, batch_size: int) -> None:
    attn, attention = network.blocks[number].attn, FusedForward(network).attentions[number]
    num_tokens = 1 + torch.Size(attention.grid).numel()
    tokens = torch.randn(
        batch_size, num_tokens, attn.qkv.in_features, generator=torch.Generator().manual_seed(number)
    )  # (B, N, C)
    with torch.inference_mode():
        expected, query_grid = attn(tokens, attention.grid)
        found = attention(attn, tokens)
        assert attention.query_grid == query_grid
        assert scaled_error(found, expected.numpy()) < TOLERANCE
        alone = attention(attn, tokens[-1:])
    assert scaled_error(alone, found[-1:].numpy()) < TOLERANCE


def test_a_copy_in_another_precision_computes_in_it(network: Any) -> None:
    attn, attention = network.blocks[15].attn, FusedForward(network).attentions[15]
    narrow, narrow_attn = (copy.deepcopy(each).bfloat16() for each in (attention, attn))
    tokens = torch.randn(1, 393, 768, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact = attention(attn, tokens)
        found = narrow(narrow_attn, tokens.bfloat16())
        by_torchvision, _ = narrow_attn(tokens.bfloat16(), attention.grid)
    assert found.dtype == torch.bfloat16
    assert exact.dtype == torch.float32
    error, allowed = (torch.dist(each.float(), exact) for each in (found, by_torchvision))
    assert error < 1.05 * allowed


def test_the_state_dict_is_that_of_torchvision_alone(network: Any) -> None:
    with torch.device("meta"):
        expected = set(mvit_v2_s().state_dict())
    assert FusedForward(network).state_dict() == {}
    backbone = create_backbone("mvit_v2_s", weights="random:0")
    assert set(backbone.state_dict()) == {f"network.{key}" for key in expected}


@pytest.mark.parametrize("number", [0, 2, 14, 15])
def test_what_attention_multiplies_fits_into_tiles(network: Any, number: int) -> None:
    attention = FusedForward(network).attentions[number]
    keys, width = attention.blank_keys.shape
    num_keys, head_dim = 1 + torch.Size(attention.key_grid).numel(), network.blocks[number].attn.head_dim
    assert keys % 32 == 0
    assert 0 <= keys - num_keys < 32
    assert width % 16 == 0
    assert 0 < width - head_dim - sum(attention.key_grid) <= 16
    scores = attention.blank_keys[:, head_dim + sum(attention.key_grid)]
    assert (scores[:num_keys] == 0).all()
    assert (torch.exp(scores[num_keys:] + 1000) == 0).all()  # beside any score that a float32 softmax has met
