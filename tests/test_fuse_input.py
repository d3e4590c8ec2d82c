"""What a head takes for noise in its tokens, and what it can tell of their places."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mgcli.fuse.data import ClipTensors, ModalityTokens, shown_places
from mgcli.fuse.layers import TokenInput
from mgcli.fuse.seeds import _statistics
from mgcli.fuse.token_statistics import TokenStatistics, token_statistics


def statistics_of(tokens: Tensor) -> TokenStatistics:
    """Of (n, D) tokens, one a clip."""
    clips = torch.arange(len(tokens))
    modalities = {"video": one_token_a_clip(tokens)}
    return token_statistics(ClipTensors(modalities, torch.zeros_like(clips), 512), clips)["video"]


def one_token_a_clip(tokens: Tensor) -> ModalityTokens:
    return ModalityTokens(
        tokens=tokens,
        valid=torch.ones(len(tokens), dtype=torch.bool),
        time=torch.full((len(tokens),), 0.5),
        start=torch.arange(len(tokens))[:, None],
        count=torch.ones(len(tokens), 1, dtype=torch.int64),
    )


@pytest.mark.parametrize(("dim", "num_tokens"), [(300, 240), (300, 300), (300, 301), (300, 320), (300, 1200)])
def test_hardly_an_axis_of_pure_noise_stands_out(dim: int, num_tokens: int) -> None:
    """Also where there are about as many tokens as numbers in one, and the law's density has no bound at 0."""
    found = statistics_of(torch.randn(num_tokens, dim, generator=torch.Generator().manual_seed(0)))
    assert int((found.axis_std > found.noise_std).sum()) <= 2
    assert found.noise_std < 1.05 * float(found.axis_std.max())


def test_statistics_of_more_tokens_than_float32_can_count_keep_within_them() -> None:
    num_tokens = (1 << 24) + 4
    found = statistics_of(torch.tensor([0.0, 1.0]).repeat(num_tokens // 2)[:, None])
    assert float(found.std[0]) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("dim", "num_tokens"), [(4, 8000), (64, 16_000), (256, 2000), (768, 500)])
def test_of_noise_with_one_direction_in_it_only_that_direction_stands_out(dim: int, num_tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(num_tokens, dim, generator=generator)
    tokens += 3 * torch.randn(num_tokens, 1, generator=generator) * torch.ones(dim) / dim**0.5
    found = statistics_of(tokens)
    standing_out = 1 - (found.noise_std / found.axis_std) ** 2
    assert standing_out[0] > 0.4
    assert standing_out[1:].max() < 0.05


@pytest.mark.parametrize(("dim", "num_tokens"), [(3, 4000), (6, 100), (30, 760)])
def test_numbers_that_all_say_something_of_their_own_are_not_taken_for_noise(dim: int, num_tokens: int) -> None:
    spread = torch.from_numpy(np.geomspace(1.0, 0.05, dim)).float()
    generator = torch.Generator().manual_seed(0)
    mixing = torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0]
    found = statistics_of((torch.randn(num_tokens, dim, generator=generator) * spread) @ mixing)
    assert (found.axis_std > found.noise_std).float().mean() > 0.6


@pytest.mark.parametrize("spread", [[1.0, 1.0, 1.0, 1e5], [1.0, 1e2, 1e3, 1e4], [1e-3, 1.0, 1.0, 1.0]])
def test_a_number_in_another_unit_does_not_drown_the_others(spread: list[float]) -> None:
    tokens = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor(spread)
    found = statistics_of(tokens)
    assert found.axis_std.max() / found.axis_std.min() < 4.5  # twice as much and half as much, and what chance adds
    unlike = statistics_of(tokens / torch.tensor(spread) * torch.tensor([1.0, 1.5, 2.0, 3.0]))
    assert 1.6 < unlike.axis_std.max() / unlike.axis_std.min() < 1.9  # the root of 3: half of it is given back


@pytest.mark.parametrize("unit", [1e-34, 1e-25, 1e25, 1e34])
def test_tokens_in_any_unit_look_alike(unit: float) -> None:
    """Squares of such numbers do not fit into float32."""
    tokens = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7)
    usual, found = statistics_of(tokens), statistics_of(tokens * unit)
    torch.testing.assert_close(found.std / unit, usual.std)
    torch.testing.assert_close(found.axis_std, usual.axis_std)
    shown = []
    for statistics, own in ((usual, tokens), (found, tokens * unit)):
        torch.manual_seed(0)
        head_input = TokenInput(6, 8)
        head_input.set_statistics(statistics)
        shown.append(head_input(own[:, None], torch.full((500, 1), 0.5)))
    torch.testing.assert_close(shown[1], shown[0], rtol=1e-3, atol=1e-3)


def test_numbers_that_are_taken_for_rounding_are_said() -> None:
    tokens = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    tokens *= torch.tensor([1.0, 1e7, 0.0, 1.0, 1e7])
    tokens[:, 3] = 5 + tokens[:, 3] * 1e-7  # a constant, but for its own rounding
    found = statistics_of(tokens)
    assert (found.std > 0).tolist() == [False, True, False, False, True]
    assert found.num_dropped == 1
    said: list[str] = []
    clips = ClipTensors({"pose": one_token_a_clip(tokens)}, torch.zeros(200, dtype=torch.int64), 512)
    _statistics(clips, np.arange(200), said.append)
    assert len(said) == 1
    assert said[0].startswith("1 of 5 numbers of the pose tokens spread less than a millionth of the widest one")


def test_a_sum_of_tokens_tells_their_order() -> None:
    """Attention adds tokens up: without a stretch by place the same tokens in another order would add up alike."""
    torch.manual_seed(0)
    head_input = TokenInput(4, 16)
    tokens, time = torch.randn(1, 8, 4), torch.linspace(0, 1, 8)[None]
    added = [head_input(each, time).sum(dim=1) for each in (tokens, tokens.flip(1))]
    assert (added[0] - added[1]).abs().mean() > 0.1


@pytest.mark.parametrize("count", [513, 1200, 100_000])
def test_a_thinned_clip_shows_its_own_tokens_only(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where chance comes next to 1, which float32 rounds up."""
    counts = torch.tensor([count, 3])
    place, shown = shown_places(counts, count, 512, torch.Generator().manual_seed(0))
    assert bool((place < counts[:, None])[shown].all())
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, 1 - 2**-24))
    place, shown = shown_places(counts, count, 512, torch.Generator())
    assert bool((place < counts[:, None])[shown].all())
    assert place[0].max() == count - 1
