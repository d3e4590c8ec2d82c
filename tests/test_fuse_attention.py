"""What heads attend to: taken from outside, without a change of their answers, and true to what was planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from planted import QUICK, planted_cache
from test_fuse_heads import EVERY, dims_of, make_batch, ready_head

from mgcli.cache import FeatureCache, open_cache
from mgcli.fuse import FusionHead, HeadConfig, HeadOutput, Run, RunError, TrainConfig, run_attention, train_head
from mgcli.fuse.attention import attend
from mgcli.fuse.data import Batch
from mgcli.fuse.layers import Attention
from mgcli.fuse.predict import select_for_run, trained_heads

ATTENDING = [name for name in EVERY if name not in ("concat", "logistic", "constant")]


@pytest.mark.parametrize("name", EVERY)
def test_watching_a_head_does_not_change_its_logits(name: str) -> None:
    head, batch = ready_head(name), make_batch(dims_of(name))
    with torch.inference_mode():
        unwatched = head(batch.tokens, batch.mask, batch.time).logits
        watched, _ = attend(head, batch)
        assert torch.equal(watched, unwatched)
        assert not any(module._forward_hooks for module in head.modules())


@pytest.mark.parametrize("name", ATTENDING)
def test_attention_is_shared_out_over_the_valid_tokens_of_each_modality(name: str) -> None:
    head = ready_head(name)
    batch = make_batch(dims_of(name))
    last = head.modalities[-1]
    batch.mask[last][0, 2:] = False
    batch.mask[last][1] = len(head.modalities) == 1  # a clip without the modality, where that leaves it another
    _, attention = attend(head, batch)
    assert set(attention) == set(head.modalities)
    for modality, shares in attention.items():
        mask = batch.mask[modality]
        assert shares.shape == mask.shape
        assert (shares >= 0).all()
        assert (shares[~mask] == 0).all()
        torch.testing.assert_close(shares.sum(dim=1), mask.any(dim=1).float())


@pytest.mark.parametrize("name", ATTENDING)
def test_attention_does_not_depend_on_the_rest_of_the_batch_or_on_padding(name: str) -> None:
    head, batch = ready_head(name), make_batch(dims_of(name))
    _, whole = attend(head, batch)
    one = Batch(
        *({m: each[3:4] for m, each in f.items()} for f in (batch.tokens, batch.mask, batch.time)), batch.labels[3:4]
    )
    for modality, shares in attend(head, one)[1].items():
        torch.testing.assert_close(shares, whole[modality][3:4], atol=1e-5, rtol=1e-4)
    for modality in head.modalities:
        one.tokens[modality] = torch.nn.functional.pad(one.tokens[modality], (0, 0, 0, 4), value=9.0)
        one.mask[modality] = torch.nn.functional.pad(one.mask[modality], (0, 4))
        one.time[modality] = torch.nn.functional.pad(one.time[modality], (0, 4))
    for modality, shares in attend(head, one)[1].items():
        torch.testing.assert_close(shares[:, :-4], whole[modality][3:4], atol=1e-5, rtol=1e-4)


def test_attention_weights_are_those_that_the_layer_mixes_its_values_by() -> None:
    torch.manual_seed(0)
    layer = Attention(16, 1, 0.0).eval()
    queries, tokens = torch.randn(3, 2, 16), torch.randn(3, 5, 16)
    mask = torch.rand(3, 5) > 0.3
    mask[2] = False
    value = layer.key_value(tokens)[..., 16:]
    expected = layer.output(layer.weights(queries, tokens, mask) @ value) * mask.any(dim=1)[:, None, None]
    torch.testing.assert_close(layer(queries, tokens, mask), expected)


class Silent(FusionHead):
    """A user's head that does not say where it attends."""

    def __init__(self, dims: dict[str, int], num_classes: int, config: HeadConfig) -> None:
        super().__init__(dims, num_classes, config)
        self.classify = torch.nn.Linear(sum(dims.values()), num_classes)

    def forward(self, tokens, mask, time):  # type: ignore[no-untyped-def]
        return HeadOutput(self.classify(torch.cat([tokens[name].mean(dim=1) for name in self.modalities], dim=1)))


@pytest.mark.parametrize("head", ["concat", f"{__name__}:Silent"])
def test_a_head_that_does_not_attend_is_said_to(planted: FeatureCache, tmp_path: Path, head: str) -> None:
    run = train_head(planted, "gesture", head=head, seeds=1, config=QUICK, runs=tmp_path / "runs")
    found = run_attention(run, planted, ["c00000"])
    assert not found.attends
    assert found.how == f"head {head!r} does not attend to tokens, so there is no attention to show"
    assert found.clips["c00000"].tokens == {}
    assert sum(found.clips["c00000"].probabilities.values()) == pytest.approx(1)


SMALL = TrainConfig(min_steps=200, head=HeadConfig(width=32, num_heads=2, rank=16))


def train_planted(folder: Path, head: str, config: TrainConfig = SMALL) -> tuple[FeatureCache, Run]:
    """A head trained on clips with a bit in one of 8 tokens of each modality."""
    cache = planted_cache(folder / "features", rule="product", num_train=200, num_test=60)
    return cache, train_head(cache, "gesture", head=head, seeds=1, config=config, runs=folder / "runs", progress=False)


@pytest.fixture(scope="module")
def inter_fusion(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureCache, Run]:
    return train_planted(tmp_path_factory.mktemp("planted"), "inter_fusion")


def times_uniform(cache: FeatureCache, run: Run) -> dict[str, np.ndarray]:
    """Modality -> (n,) attention to the planted token of each test clip, in shares that a token has on average."""
    table = cache.read_clips()
    clip_ids = table.loc[table["split"] == "test", "clip_id"].tolist()
    found = run_attention(run, cache, clip_ids)
    shares = {}
    for modality in run.modalities:
        tokens, offsets = cache.feature_set(modality).load(clip_ids)
        loudest = [np.linalg.norm(part, axis=1).argmax() for part in np.split(tokens, offsets[1:-1])]  # the planted one
        own = [found.clips[clip_id].tokens[modality] for clip_id in clip_ids]
        shares[modality] = np.array([len(each) * each[place] for each, place in zip(own, loudest, strict=True)])
    return shares


@pytest.mark.parametrize(
    "head",
    [
        "cross_modal_token_fusion",
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in ("bottleneck", "mult", "pose_guided", "gated", "low_rank")
        ),
    ],
)
def test_a_trained_head_gives_planted_tokens_twice_the_uniform_share(tmp_path: Path, head: str) -> None:
    check_planted(*train_planted(tmp_path, head))


def test_so_does_inter_fusion(inter_fusion: tuple[FeatureCache, Run]) -> None:
    check_planted(*inter_fusion)


def check_planted(cache: FeatureCache, run: Run) -> None:
    shares = {modality: each.mean() for modality, each in times_uniform(cache, run).items()}
    print(f"{run.label}: attention to planted tokens, times uniform: {shares}")
    assert run.metrics["test"]["top1"]["mean"] > 0.9
    assert min(shares.values()) >= 2


def test_an_untrained_head_does_not(tmp_path: Path) -> None:
    shares = times_uniform(*train_planted(tmp_path, "inter_fusion", QUICK))
    assert all(each.mean() < 2 for each in shares.values())


def test_the_answer_hangs_on_what_is_attended_to(inter_fusion: tuple[FeatureCache, Run]) -> None:
    cache, run = inter_fusion
    (head,) = (each.eval() for each in trained_heads(run))
    batch = select_for_run(run, cache, cache.read_clips(), "test", print, labelled=True).tensors.batch(torch.arange(60))
    logits, attention = attend(head, batch)
    answer = logits.argmax(dim=1, keepdim=True)

    def lost_without(places: dict[str, torch.Tensor]) -> float:
        """Probability of the answer that goes with one token of each modality."""
        mask = {name: each.scatter(1, places[name], False) for name, each in batch.mask.items()}
        other = attend(head, Batch(batch.tokens, mask, batch.time, batch.labels))[0]
        return float((logits.softmax(dim=1) - other.softmax(dim=1)).gather(1, answer).mean())

    most = lost_without({name: each.argmax(dim=1, keepdim=True) for name, each in attention.items()})
    least = lost_without({name: each.argmin(dim=1, keepdim=True) for name, each in attention.items()})
    print(f"lost without the most attended tokens {most:.2f}, without the least {least:.2f}")
    assert most > 0.4
    assert least < 0.1


def test_thinned_tokens_get_nothing_and_every_token_has_its_place(tmp_path: Path) -> None:
    cache = planted_cache(tmp_path / "features", num_train=40, num_test=20, num_tokens=8)
    config = TrainConfig(epochs=1, min_steps=1, max_tokens=3, head=HeadConfig(width=16, num_heads=2, rank=8))
    run = train_head(cache, "gesture", head="inter_fusion", seeds=[4], config=config, runs=tmp_path / "runs")
    clip = run_attention(run, cache, ["c00003"], seed=4).clips["c00003"]
    for shares in clip.tokens.values():
        assert shares.shape == (8,)
        assert np.flatnonzero(shares).tolist() == [1, 4, 6]
        assert shares.sum() == pytest.approx(1)


def test_what_cannot_be_shown_is_said(planted: FeatureCache, tmp_path: Path) -> None:
    run = train_head(planted, "gesture", head="inter_fusion", seeds=[1, 2], config=QUICK, runs=tmp_path / "runs")
    with pytest.raises(RunError, match="no seed 7; it has 1, 2"):
        run_attention(run, planted, ["c00000"], seed=7)
    with pytest.raises(RunError, match="the clip table has no clip 'nobody'"):
        run_attention(run, planted, ["nobody"])
    other = open_cache(tmp_path / "other", create=True)
    table = planted.read_clips()
    with pytest.raises(RunError, match=r"was trained on .* which the cache .* lacks"):
        run_attention(run, other, ["c00000"], clips=table)
    with pytest.raises(RunError, match="is no run folder"):
        run_attention(tmp_path / "nothing", planted, ["c00000"])
    table.loc[len(table)] = table.loc[0].to_dict() | {"clip_id": "bare"}
    with pytest.raises(RunError, match=r"reads video or pose, of which 'bare' has no tokens .* a clip of task gesture"):
        run_attention(run, planted, ["bare"], clips=table)
    assert set(run_attention(run, planted, ["c00000", "bare"], clips=table).clips) == {"c00000"}
