"""One contract, run on every head."""

from __future__ import annotations

import copy
import re
from dataclasses import asdict, fields, replace

import pytest
import torch
from test_fuse_replicas import make_clips
from torch import Tensor, nn

from mgcli.fuse.data import Batch
from mgcli.fuse.dropout import Dropout, draw_keys, drop_by_key
from mgcli.fuse.head import (
    HEADS,
    FittedHead,
    FusionHead,
    HeadConfig,
    HeadError,
    check_options,
    create_head,
    head_class,
)
from mgcli.fuse.layers import blank_clip
from mgcli.fuse.loop import fit_head
from mgcli.fuse.settings import TrainConfig
from mgcli.fuse.token_statistics import TokenStatistics

DIMS = {"video": 6, "pose": 5}
NUM_CLASSES = 3
FIELDS = ("tokens", "mask", "time")
BASELINES = ("single", "concat", "score_average", "logistic", "constant")
FUSION = [name for name in HEADS if name not in BASELINES]
SMALL = HeadConfig(width=16, num_heads=2, rank=8)
CROSSINGS = {  # heads that an option makes another one, under names of their own
    f"cross_modal_token_fusion, {crossing}": replace(SMALL, cross_tokens=crossing)
    for crossing in ("class", "bottleneck")
}
EVERY = [*sorted(HEADS), *CROSSINGS]


def dims_of(name: str) -> dict[str, int]:
    return {"video": DIMS["video"]} if name == "single" else DIMS


def make_batch(dims: dict[str, int], num_clips: int = 6, num_tokens: int = 5, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        tokens={m: torch.randn(num_clips, num_tokens, dim, generator=generator) for m, dim in dims.items()},
        mask={m: torch.ones(num_clips, num_tokens, dtype=torch.bool) for m in dims},
        time={m: torch.linspace(0, 1, num_tokens).expand(num_clips, -1) for m in dims},
        labels=torch.arange(num_clips) % NUM_CLASSES,
    )


def statistics_of(batch: Batch) -> dict[str, TokenStatistics]:
    found = {}
    for name, tokens in batch.tokens.items():
        dim = tokens.shape[-1]
        found[name] = TokenStatistics(torch.zeros(dim), torch.ones(dim), torch.eye(dim), torch.ones(dim), 0.5)
    return found


def ready_head(name: str, dims: dict[str, int] | None = None) -> FusionHead:
    """A head that gives different clips different logits, in evaluation mode."""
    dims = dims or dims_of(name)
    torch.manual_seed(0)
    head = create_head(name.split(",")[0], dims, NUM_CLASSES, CROSSINGS.get(name, SMALL))
    batch = make_batch(dims, num_clips=12)
    head.set_statistics(statistics_of(batch))
    if isinstance(head, FittedHead):
        head.fit([batch], [])
    return head.eval()


def logits_of(head: FusionHead, batch: Batch) -> Tensor:
    with torch.no_grad():
        return head(batch.tokens, batch.mask, batch.time).logits


@pytest.fixture(params=EVERY)
def head(request: pytest.FixtureRequest) -> FusionHead:
    return ready_head(request.param)


def test_logits_have_one_score_a_class(head: FusionHead) -> None:
    batch = make_batch(dict.fromkeys(head.modalities, 0) | {m: DIMS[m] for m in head.modalities})
    output = head(batch.tokens, batch.mask, batch.time)
    assert output.logits.shape == (6, NUM_CLASSES)
    assert output.logits.isfinite().all()
    assert all(each.shape == (6, NUM_CLASSES) for each in output.aux.values())
    assert set(output.aux) <= set(head.modalities)


def test_any_number_of_tokens_is_taken(head: FusionHead) -> None:
    for num_tokens in (1, 9, 393):
        batch = make_batch({m: DIMS[m] for m in head.modalities}, num_clips=2, num_tokens=num_tokens)
        assert logits_of(head, batch).isfinite().all()


def test_padding_never_changes_the_logits(head: FusionHead) -> None:
    batch = make_batch({m: DIMS[m] for m in head.modalities})
    padded = copy.deepcopy(batch)
    for i, name in enumerate(head.modalities):
        extra = 3 + i
        junk = 100 * torch.randn(6, extra, DIMS[name])
        padded.tokens[name] = torch.cat([batch.tokens[name], junk], dim=1)
        padded.mask[name] = torch.cat([batch.mask[name], torch.zeros(6, extra, dtype=torch.bool)], dim=1)
        padded.time[name] = torch.cat([batch.time[name], torch.rand(6, extra)], dim=1)
    torch.testing.assert_close(logits_of(head, padded), logits_of(head, batch), atol=1e-5, rtol=1e-5)


def test_clips_do_not_see_each_other(head: FusionHead) -> None:
    batch = make_batch({m: DIMS[m] for m in head.modalities})
    order = torch.tensor([3, 0, 5, 1])
    fields = ({m: each[order] for m, each in field.items()} for field in (batch.tokens, batch.mask, batch.time))
    part = Batch(*fields, labels=batch.labels[order])
    torch.testing.assert_close(logits_of(head, part), logits_of(head, batch)[order], atol=1e-5, rtol=1e-5)


def test_a_missing_modality_is_not_looked_at(head: FusionHead) -> None:
    batch = make_batch({m: DIMS[m] for m in head.modalities})
    last = head.modalities[-1]
    batch.mask[last][2] = False
    other = copy.deepcopy(batch)
    other.tokens[last][2] = 50.0
    logits = logits_of(head, batch)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits_of(head, other), logits, atol=1e-5, rtol=1e-5)


def test_a_clip_without_any_token_gets_finite_logits(head: FusionHead) -> None:
    batch = make_batch({m: DIMS[m] for m in head.modalities})
    for mask in batch.mask.values():
        mask[0] = False
    assert logits_of(head, batch).isfinite().all()


def test_half_precision_tokens_are_taken(head: FusionHead) -> None:
    batch = make_batch({m: DIMS[m] for m in head.modalities})
    half = Batch({m: each.half() for m, each in batch.tokens.items()}, batch.mask, batch.time, batch.labels)
    torch.testing.assert_close(logits_of(head, half), logits_of(head, batch), atol=5e-2, rtol=5e-2)


@pytest.mark.parametrize("name", [n for n in EVERY if n not in ("logistic", "constant")])
def test_every_parameter_gets_a_finite_gradient(name: str) -> None:
    head = ready_head(name).train()
    batch = make_batch(dims_of(name))
    batch.mask[head.modalities[-1]][0] = False
    output = head(batch.tokens, batch.mask, batch.time)
    loss = sum((torch.nn.functional.cross_entropy(each, batch.labels) for each in output.aux.values()), torch.zeros(()))
    loss = loss + torch.nn.functional.cross_entropy(output.logits, batch.labels)
    loss.backward()
    for parameter_name, parameter in head.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


@pytest.mark.parametrize("name", [*FUSION, *CROSSINGS])
@pytest.mark.parametrize("dims", [{"video": 6}, {"video": 6, "face": 5}, {"video": 6, "pose": 5, "face": 4}])
def test_fusion_heads_take_any_modalities(name: str, dims: dict[str, int]) -> None:
    head = ready_head(name, dims)
    batch = make_batch(dims)
    logits = logits_of(head, batch)
    assert logits.shape == (6, NUM_CLASSES)
    for modality in dims:  # each of them counts
        other = copy.deepcopy(batch)
        other.tokens[modality] += 1
        assert (logits_of(head, other) - logits).abs().max() > 1e-4, modality


@pytest.mark.parametrize("name", [*FUSION, *CROSSINGS])
def test_modalities_of_different_lengths_are_taken(name: str) -> None:
    head = ready_head(name)
    short, long = make_batch(DIMS, num_tokens=2), make_batch(DIMS, num_tokens=7)
    mixed = Batch(
        *({"video": getattr(short, field)["video"], "pose": getattr(long, field)["pose"]} for field in FIELDS),
        labels=short.labels,
    )
    assert logits_of(head, mixed).isfinite().all()


@pytest.mark.parametrize("name", sorted(HEADS))
def test_a_head_reads_the_options_that_it_names_and_no_others(name: str) -> None:
    known = {each.name for each in fields(HeadConfig)}
    read = set()

    class Watched(HeadConfig):
        def __getattribute__(self, attribute: str) -> object:
            read.update(known & {attribute})
            return super().__getattribute__(attribute)

    configs = [Watched(**asdict(each)) for each in (SMALL, *CROSSINGS.values())]
    read.clear()
    for config in configs:
        head_class(name)(dims_of(name), NUM_CLASSES, config)
    assert read == {"without", *(head_class(name).options or ())}


@pytest.mark.parametrize("name", [name for name in EVERY if name != "single"])
def test_a_head_without_a_modality_never_sees_it(name: str) -> None:
    """As if no clip had it, in training and after, whatever the clips have."""
    config = replace(CROSSINGS.get(name, SMALL), without="pose")
    usual, blind = (
        create_head(name.split(",")[0], DIMS, NUM_CLASSES, each) for each in (replace(config, without=""), config)
    )
    batch = make_batch(DIMS)
    lacking = replace(batch, mask=batch.mask | {"pose": torch.zeros_like(batch.mask["pose"])})
    blind.set_statistics(statistics_of(batch))
    if isinstance(blind, FittedHead):
        blind.fit([lacking], [])
    state = blind.state_dict()
    assert state.keys() == usual.state_dict().keys()  # a checkpoint needs no more than its settings
    usual.load_state_dict(state)
    assert torch.equal(logits_of(blind.eval(), batch), logits_of(usual.eval(), lacking))
    if not isinstance(blind, FittedHead):
        assert not torch.equal(logits_of(blind, batch), logits_of(usual, batch))


@pytest.mark.parametrize("name", ["logistic", "constant"])
def test_a_fitted_head_is_fitted_without_it_too(name: str) -> None:
    clips = make_clips({"video": 12, "pose": 10}, 60)
    rows = torch.arange(30), torch.arange(30, 60)
    config = TrainConfig(head=HeadConfig(without="pose"))
    blind, seeing = (create_head(name, clips.dims, 4, each) for each in (config.head, None))
    fit_head(blind, clips, *rows, config, torch.Generator())
    fit_head(seeing, clips.without("pose"), *rows, config, torch.Generator())
    for key, each in seeing.state_dict().items():
        assert torch.equal(blind.state_dict()[key], each)


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("pos", "there is no modality 'pos'; did you mean 'pose'?"),
        ("face", "there is no modality 'face'; video, pose"),
        ("pose+video", "leaves no modality to look at"),
    ],
)
def test_what_a_head_cannot_be_without(without: str, message: str) -> None:
    with pytest.raises(HeadError, match=re.escape(message)):
        create_head("concat", DIMS, NUM_CLASSES, HeadConfig(without=without))


def test_options_that_a_head_does_not_read_are_found() -> None:
    said: list[str] = []
    check_options("gated", HeadConfig(width=32, guide="pose", num_queries=2), said.append)
    check_options("pose_guided", HeadConfig(guide="pose"), said.append)
    check_options("constant", HeadConfig(), said.append)
    assert said == ["head 'gated' does not read num_queries, guide; its options: width, num_heads, dropout"]


def test_the_guide_is_pose_unless_another_is_named() -> None:
    dims = {"video": 6, "pose": 5, "face": 4}
    heads = {guide: create_head("pose_guided", dims, 2, replace(SMALL, guide=guide)) for guide in ("", "face")}
    assert [head.guide for head in heads.values()] == ["pose", "face"]  # type: ignore[attr-defined]
    assert create_head("pose_guided", {"video": 6, "face": 4}, 2).guide == "face"  # type: ignore[attr-defined]
    with pytest.raises(HeadError, match="guide is 'pose'; it must be one of the run's modalities: video, face"):
        create_head("pose_guided", {"video": 6, "face": 4}, 2, HeadConfig(guide="pose"))


def test_bottlenecks_need_two_layers() -> None:
    with pytest.raises(HeadError, match="'bottleneck' needs num_layers of 2 or more"):
        create_head("bottleneck", DIMS, 2, HeadConfig(num_layers=1))


def test_low_rank_is_the_sum_of_products_of_the_modalities() -> None:
    torch.manual_seed(0)
    head = create_head("low_rank", DIMS, NUM_CLASSES, SMALL).eval()
    batch = make_batch(DIMS)
    vectors = {}
    for name, pool in head.pool.items():  # type: ignore[union-attr, operator]
        pooled = pool(batch.tokens[name], batch.mask[name], batch.time[name])
        vectors[name] = torch.nn.functional.pad(head.norm[name](pooled), (0, 1), value=1.0)  # type: ignore[index]
    weights = {
        name: torch.cat([factor.weight, factor.bias[:, None]], dim=1).view(SMALL.rank, NUM_CLASSES, -1)
        for name, factor in head.factor.items()  # type: ignore[union-attr, operator]
    }
    tensor = torch.einsum("r,rki,rkj->kij", head.weight, weights["video"], weights["pose"])  # never formed in the head
    expected = torch.einsum("kij,bi,bj->bk", tensor, vectors["video"], vectors["pose"]) + head.bias
    torch.testing.assert_close(logits_of(head, batch), expected.detach(), atol=1e-5, rtol=1e-4)


def test_a_key_fixes_what_dropout_hides() -> None:
    head = ready_head("inter_fusion").train()
    batch = make_batch(DIMS)
    found = [logits_of(head, batch), logits_of(head, batch)]  # without a key: torch's global generator
    key = drop_by_key(head)
    for value in (1, 1, 2):
        key.fill_(value)
        torch.rand(3)  # what happens to the global generator does not matter
        found.append(logits_of(head, batch))
    assert torch.equal(found[2], found[3])
    assert not any(torch.equal(found[i], found[j]) for i, j in ((0, 1), (1, 2), (3, 4)))


def test_dropout_hides_the_share_that_it_should_and_no_pattern() -> None:
    layers = nn.ModuleList(Dropout(0.1) for _ in range(2)).append(nn.Linear(1, 1))
    key = drop_by_key(layers)
    ones = torch.ones(16, 20, 48)
    hidden = []
    for drawn in draw_keys(30, torch.Generator().manual_seed(1)):
        key.copy_(drawn)
        shown = [layer(ones) for layer in layers[:2]]
        assert all(set(each.unique().tolist()) == {0.0, ones.new_tensor(1 / 0.9).item()} for each in shown)
        hidden.append(torch.stack([each == 0 for each in shown]).double())
    every = torch.stack(hidden)  # (steps, layers, clips, tokens, columns)
    for axis, size in enumerate(every.shape):  # each step, layer, clip, token and column loses a tenth ...
        shares = every.movedim(axis, 0).flatten(1).mean(dim=1)
        assert (shares - 0.1).abs().max() < 4 * (0.09 / (every.numel() / size)) ** 0.5
        rows = every.movedim(axis, 0).flatten(1)
        related = torch.corrcoef(rows).fill_diagonal_(0).abs().max()  # ... whatever another one loses
        assert related < 4.5 / (every.numel() / size) ** 0.5


def test_dropout_hides_the_same_however_far_a_batch_is_padded() -> None:
    layer = Dropout(0.3)
    drop_by_key(nn.ModuleList([layer, nn.Linear(1, 1)])).fill_(7)
    wide = layer(torch.ones(4, 9, 16))
    assert torch.equal(wide[:, :5], layer(torch.ones(4, 5, 16)))


@pytest.mark.parametrize("name", FUSION)
def test_fusion_heads_are_of_moderate_size(name: str) -> None:
    head = create_head(name, {"video": 768, "pose": 256}, 32)
    assert 1e5 < sum(each.numel() for each in head.parameters()) < 3e6


@pytest.mark.parametrize("name", ["cross_modal_token_fusion", "inter_fusion", *CROSSINGS])
def test_products_of_modalities_begin_at_zero_for_a_clip_that_shows_nothing(name: str) -> None:
    head = ready_head(name)
    factors: list[Tensor] = []
    for factor in head.classify.factor.values():  # type: ignore[union-attr, operator]
        factor.register_forward_hook(lambda module, inputs, output: factors.append(output.detach()))
    tokens, mask, time = blank_clip(statistics_of(make_batch(DIMS)))
    head(tokens, mask, time)
    assert len(factors) == 2
    assert all(each.abs().max() < 1e-5 for each in factors)
    logits_of(head, make_batch(DIMS))
    assert all(each.abs().max() > 0.05 for each in factors[2:])


def test_score_average_is_the_mean_of_the_probabilities() -> None:
    head = ready_head("score_average")
    batch = make_batch(DIMS)
    batch.mask["pose"][1] = False
    with torch.no_grad():
        output = head(batch.tokens, batch.mask, batch.time)
    own = {name: each.softmax(dim=1) for name, each in output.aux.items()}
    expected = (own["video"] + own["pose"]) / 2
    expected[1] = own["video"][1]
    torch.testing.assert_close(output.logits.softmax(dim=1), expected)


def test_constant_answers_the_most_frequent_class() -> None:
    head = create_head("constant", DIMS, NUM_CLASSES)
    batch = make_batch(DIMS)
    batch.labels[:] = torch.tensor([2, 2, 2, 1, 1, 0])
    assert isinstance(head, FittedHead)
    head.fit([batch], [])
    assert logits_of(head, batch).argmax(dim=1).tolist() == [2] * 6


def test_logistic_separates_what_a_line_separates() -> None:
    batch = make_batch(DIMS, num_clips=300)
    batch.labels[:] = (batch.tokens["video"].mean(dim=1)[:, 0] > 0).long()
    head = create_head("logistic", DIMS, 2)
    assert isinstance(head, FittedHead)
    history = head.fit([batch], [])
    assert (logits_of(head, batch).argmax(dim=1) == batch.labels).float().mean() > 0.95
    assert [row["c"] for row in history] == sorted(row["c"] for row in history)


def test_a_misspelt_head_suggests_the_nearest() -> None:
    with pytest.raises(HeadError, match="unknown head 'interfusion'; did you mean 'inter_fusion'"):
        create_head("interfusion", DIMS, 2)


def test_single_refuses_two_modalities() -> None:
    with pytest.raises(HeadError, match="takes one modality, not video, pose; try --head single_video"):
        create_head("single", DIMS, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 10}, "width 10 does not divide into 4 attention heads"),
        ({"num_bottlenecks": 0}, "num_bottlenecks is 0; it must be 1 or more"),
        ({"width": 10**12}, "width is 1000000000000; it must be 1 or more, and 16384 at most"),
        ({"num_layers": 10**9}, "num_layers is 1000000000; it must be 1 or more, and 1000 at most"),
        ({"cross_tokens": "some"}, "cross_tokens is 'some'; it must be all, class, bottleneck"),
    ],
)
def test_sizes_and_choices_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(HeadError, match=message):
        HeadConfig(**settings)  # type: ignore[arg-type]
