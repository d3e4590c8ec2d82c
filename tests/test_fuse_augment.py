"""What training does to clips: their order and views, mixing and hiding, class weights, averaged weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted import QUICK, clips_of, planted_cache, planted_tokens
from torch import Tensor

from mgcli.cache import FeatureCache
from mgcli.fuse import FusionHead, HeadConfig, TrainConfig, TrainError, create_head, train_head
from mgcli.fuse.augment import augment
from mgcli.fuse.data import Batch
from mgcli.fuse.head import HeadOutput
from mgcli.fuse.load import load_clips
from mgcli.fuse.loss import Loss
from mgcli.fuse.optimise import Optimizer
from mgcli.fuse.sampling import epoch_rows

NUM_CLASSES = 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_head(num_classes: int, without: str = "") -> FusionHead:
    return create_head("concat", {"video": 4, "pose": 4}, num_classes, HeadConfig(width=8, without=without))


def make_batch(lengths: list[list[int]]) -> Batch:
    """Clips whose tokens say who they are: token j of clip i, in every number of modality m, is 100 i + j."""
    tokens, mask, time = {}, {}, {}
    for name, column in zip(("video", "pose"), zip(*lengths, strict=True), strict=True):
        longest = max(column)
        place = torch.arange(longest)
        mask[name] = place < torch.tensor(column)[:, None]
        tokens[name] = (100.0 * torch.arange(len(column))[:, None] + place)[..., None].expand(-1, -1, 4).clone()
        time[name] = (place / longest).expand(len(column), -1)
    return Batch(tokens, mask, time, torch.arange(len(lengths)) % NUM_CLASSES)


# Mixing and hiding


def test_without_settings_a_batch_stays_what_it_is() -> None:
    batch = make_batch([[3, 2], [1, 4]])
    same, targets = augment(batch, NUM_CLASSES, TrainConfig(), seeded())
    assert same is batch
    assert targets.tolist() == [[1, 0, 0], [0, 1, 0]]


def test_mixing_takes_the_other_clips_token_at_the_same_share_of_the_way() -> None:
    batch = make_batch([[2, 1], [8, 1]])
    for seed in range(20):
        mixed, targets = augment(batch, NUM_CLASSES, TrainConfig(mixup=1.0), seeded(seed))
        own = float(targets[0, 0])
        if own < 1:
            break
    assert 0.5 <= own < 1
    assert float(targets[0].sum()) == pytest.approx(1)
    # Places 1/4 and 3/4 of eight tokens are the third and the seventh.
    expected = [own * 0 + (1 - own) * 102, own * 1 + (1 - own) * 106]
    assert mixed.tokens["video"][0, :2, 0].tolist() == pytest.approx(expected, rel=1e-5)
    assert all(torch.equal(mixed.mask[name], batch.mask[name]) for name in batch.mask)


def test_only_clips_with_the_same_modalities_are_mixed() -> None:
    batch = make_batch([[2, 2], [2, 0], [3, 3], [4, 0]])
    alike = [{0, 2}, {1, 3}, {0, 2}, {1, 3}]
    mixings = 0
    for seed in range(30):
        mixed, targets = augment(batch, 4, TrainConfig(mixup=1.0), seeded(seed))
        for i in range(4):
            targets_of = set(targets[i].nonzero()[:, 0].tolist())
            assert {int(batch.labels[j]) for j in alike[i]} >= targets_of
            mixings += len(targets_of) == 2
        assert torch.equal(mixed.mask["pose"], batch.mask["pose"])
    assert mixings > 10


def test_mixing_keeps_an_own_token_whole_where_the_other_clip_has_none() -> None:
    batch = make_batch([[4, 1], [4, 1]])
    batch.mask["video"][1, :2] = False  # not valid there
    batch.labels[:] = torch.tensor([0, 1])
    for seed in range(20):
        mixed, targets = augment(batch, NUM_CLASSES, TrainConfig(mixup=1.0), seeded(seed))
        if targets[0, 0] < 1:
            break
    assert mixed.tokens["video"][0, :2, 0].tolist() == [0, 1]
    assert (mixed.tokens["video"][0, 2:, 0] > 10).all()


def test_what_stands_under_a_false_mask_is_never_mixed_in() -> None:
    batch, spoilt = make_batch([[3, 2], [5, 1], [2, 2], [4, 4]]), make_batch([[3, 2], [5, 1], [2, 2], [4, 4]])
    for name, mask in spoilt.mask.items():
        spoilt.tokens[name][~mask] = 1e6
    for seed in range(10):
        found = [augment(each, NUM_CLASSES, TrainConfig(mixup=0.8), seeded(seed))[0] for each in (batch, spoilt)]
        for name, mask in batch.mask.items():
            assert torch.equal(found[0].tokens[name][mask], found[1].tokens[name][mask])


def test_a_label_is_not_mixed_where_no_token_was() -> None:
    batch = make_batch([[4, 1], [4, 1]])
    batch.labels[:] = torch.tensor([0, 1])
    batch.mask["video"][0, 2:] = batch.mask["video"][1, :2] = False  # where one is real, the other is not
    batch.mask["pose"][:] = False
    for seed in range(20):
        mixed, targets = augment(batch, NUM_CLASSES, TrainConfig(mixup=1.0), seeded(seed))
        for clip in range(2):
            same = torch.equal(mixed.tokens["video"][clip], batch.tokens["video"][clip])
            assert same == (float(targets[clip].max()) == 1)


def test_half_precision_stays_half_precision_when_mixed() -> None:
    batch = make_batch([[3, 2], [3, 2]])
    batch = replace(batch, tokens={name: each.half() for name, each in batch.tokens.items()})
    mixed, _ = augment(batch, NUM_CLASSES, TrainConfig(mixup=1.0), seeded())
    assert {each.dtype for each in mixed.tokens.values()} == {torch.float16}


def test_no_clip_loses_its_last_modality() -> None:
    batch = make_batch([[3, 2], [0, 2], [3, 0], [3, 2]])
    seen = set()
    for seed in range(20):
        hidden, _ = augment(batch, NUM_CLASSES, TrainConfig(modality_dropout=0.5), seeded(seed))
        present = torch.stack([mask.any(dim=1) for mask in hidden.mask.values()], dim=1)
        assert present.any(dim=1).all()
        seen |= {tuple(each) for each in present[[0, 3]].tolist()}
    assert seen == {(True, True), (True, False), (False, True)}


def test_a_modality_that_is_not_shown_anyway_is_none_that_a_clip_is_left_with() -> None:
    batch = make_batch([[3, 2], [0, 2], [3, 0], [3, 2]])
    config = TrainConfig(modality_dropout=0.5, head=HeadConfig(without="pose"))
    for seed in range(20):
        hidden, _ = augment(batch, NUM_CLASSES, config, seeded(seed))
        assert hidden.mask["video"].any(dim=1).tolist() == [True, False, True, True]


@pytest.mark.parametrize("setting", ["mixup", "token_dropout", "modality_dropout"])
def test_all_chance_comes_from_the_generator(setting: str) -> None:
    config = TrainConfig(**{setting: 0.5})  # type: ignore[arg-type]
    batch = make_batch([[3, 2], [5, 5], [4, 4], [3, 2]])
    state = torch.get_rng_state()
    first, again = (augment(batch, NUM_CLASSES, config, seeded(4)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first[1], again[1])
    for name in batch.tokens:
        assert torch.equal(first[0].tokens[name], again[0].tokens[name])
        assert torch.equal(first[0].mask[name], again[0].mask[name])


# Sampling and weights of classes


def test_balanced_sampling_draws_every_class_equally_often() -> None:
    labels = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    rows = torch.arange(1000) + 5
    drawn = epoch_rows(rows, labels, TrainConfig(sampling="balanced"), seeded())
    share = labels[drawn - 5].bincount() / 1000
    assert len(drawn) == 1000
    assert share.tolist() == pytest.approx([1 / 3] * 3, abs=0.06)
    shuffled = epoch_rows(rows, labels, TrainConfig(), seeded())
    assert sorted(shuffled.tolist()) == rows.tolist() != shuffled.tolist()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1, 1]),
        ({"class_balance": "loss"}, [0.5 / 0.9, 5]),
        # Effective numbers with b = 0.9 are (1 - 0.9 ** 90) / 0.1 = 9.9992 and (1 - 0.9 ** 10) / 0.1 = 6.5132.
        ({"class_balance": "effective", "effective_beta": 0.9}, [0.9492, 1.4573]),
        ({"class_balance": "effective", "effective_beta": 0.99999}, [0.5 / 0.9, 5]),
    ],
)
def test_class_weights(settings: dict[str, object], expected: list[float]) -> None:
    config = TrainConfig(label_smoothing=0.0, **settings)  # type: ignore[arg-type]
    loss = Loss.of(torch.tensor([0] * 90 + [1] * 10), small_head(2), config)
    targets = torch.eye(2)
    even = [float(loss(HeadOutput(torch.zeros(1, 2)), {}, targets[i : i + 1])) for i in range(2)]
    assert (np.array(even) / np.log(2)).tolist() == pytest.approx(expected, rel=2e-3)


def test_the_loss_is_that_of_labels_where_nothing_is_mixed() -> None:
    logits, labels = torch.randn(6, NUM_CLASSES, generator=seeded()), torch.tensor([0, 0, 0, 1, 1, 2])
    loss = Loss.of(labels, small_head(NUM_CLASSES), TrainConfig(class_balance="loss"))
    weight = torch.tensor([6 / 9, 6 / 6, 6 / 3])
    own = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.05, reduction="none")
    targets = torch.nn.functional.one_hot(labels, NUM_CLASSES).float()
    torch.testing.assert_close(loss(HeadOutput(logits), {}, targets), (weight[labels] * own).mean())


@pytest.mark.parametrize("class_balance", ["none", "loss", "effective", "logits"])
def test_no_balance_teaches_a_rare_class_for_clips_of_a_frequent_one(class_balance: str) -> None:
    labels = torch.tensor([0] * 1000 + [1] * 100 + [2] * 10)
    loss = Loss.of(labels, small_head(3), TrainConfig(class_balance=class_balance))  # type: ignore[arg-type]
    for label in range(3):
        logits, targets = torch.zeros(1, 3, requires_grad=True), torch.eye(3)[label : label + 1]
        optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

        def closure(logits: Tensor = logits, targets: Tensor = targets) -> Tensor:
            logits.grad = None
            found = loss(HeadOutput(logits), {}, targets)
            found.backward()  # type: ignore[no-untyped-call]
            return found

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        assert float(logits.softmax(dim=1)[0, label].detach()) > 0.9


def test_what_a_head_is_not_shown_it_is_not_asked_about() -> None:
    batch, labels = make_batch([[2, 2], [1, 1]]), torch.tensor([0, 1])
    targets, aux = torch.eye(2), {name: torch.tensor([[3.0, 0.0], [3.0, 0.0]]) for name in ("video", "pose")}
    both, video = (
        Loss.of(labels, small_head(2, without), TrainConfig(aux_weight=1.0, label_smoothing=0.0))
        for without in ("", "pose")
    )
    joint, one = (
        float(video(HeadOutput(torch.zeros(2, 2), own), batch.mask, targets)) for own in ({}, {"video": aux["video"]})
    )
    assert float(video(HeadOutput(torch.zeros(2, 2), aux), batch.mask, targets)) == one > joint
    assert float(both(HeadOutput(torch.zeros(2, 2), aux), batch.mask, targets)) == pytest.approx(2 * one - joint)


def test_score_average_learns_from_its_own_answers_whatever_their_weight() -> None:
    batch = make_batch([[3, 2], [3, 2], [2, 2]])
    head = create_head("score_average", {"video": 4, "pose": 4}, 3, HeadConfig(width=8, num_heads=2))
    output = head(batch.tokens, batch.mask, batch.time)
    losses = [
        Loss.of(batch.labels, head, TrainConfig(aux_weight=each))(output, batch.mask, torch.eye(3)) for each in (0, 1)
    ]
    assert losses[0] == losses[1]
    losses[0].backward()  # type: ignore[no-untyped-call]
    assert all(float(each.grad.abs().max()) > 0 for each in head.singles.parameters() if each.grad is not None)  # type: ignore[union-attr]


def test_balancing_twice_is_refused() -> None:
    with pytest.raises(TrainError, match="sampling=balanced and class_balance=effective both make up for rare classes"):
        TrainConfig(sampling="balanced", class_balance="effective")


# Averaged weights


def test_the_average_follows_the_weights_and_is_what_is_kept() -> None:
    weights, none = torch.zeros(2, 3), torch.zeros(3, dtype=torch.bool)
    configs = [TrainConfig(ema=0.5), TrainConfig(ema=0.0)]
    optimizer = Optimizer(weights, none, configs, [100, 100])
    step = 0

    def take_in(value: float) -> None:
        nonlocal step
        weights.fill_(value)
        optimizer.step(optimizer.numbers(step), torch.zeros_like(weights), ~none)  # moves nothing
        step += 1

    for value in (1.0, 3.0, 7.0):
        take_in(value)
    second = 1 + (3 - 1) * 10 / 11  # the shares of the second and third step, the first is taken whole
    third = second + (7 - second) * 10 / 12
    torch.testing.assert_close(optimizer.averages, torch.tensor([[third], [7.0]]).expand(2, 3))
    for _ in range(60):
        take_in(7.0)
    assert float(optimizer.averages.mean()) == pytest.approx(7)
    assert Optimizer(weights, none, configs[1:], [100]).averages is weights


def test_a_run_with_averaged_weights_keeps_other_weights(planted: FeatureCache, tmp_path: Path) -> None:
    states = [
        train_head(
            planted, "gesture", head="concat", seeds=1, config=replace(QUICK, ema=ema), runs=tmp_path / "runs"
        ).state_dict(0)
        for ema in (0.0, 0.9)
    ]
    assert states[0].keys() == states[1].keys()
    assert not torch.equal(states[0]["classify.1.weight"], states[1]["classify.1.weight"])


# Views


def add_views(cache: FeatureCache, modality: str, views: int, value: float, upto: int = 10**9) -> None:
    """Augmented views of a planted cache whose tokens all are `value` + view."""
    features = cache.feature_set(modality)
    with features.writer() as writer:
        for clip_id in features.clips()["clip_id"].tolist()[:upto]:
            for view in range(1, views + 1):
                writer.add(clip_id, np.full((3, features.spec.dim), value + view, np.float32), view=view)


def test_training_clips_come_in_all_their_views_and_others_in_the_plain_one(planted: FeatureCache) -> None:
    add_views(planted, "video", views=2, value=50, upto=4)
    table = planted.read_clips()
    sets = {name: planted.feature_set(name) for name in ("video", "pose")}
    clips = load_clips(sets, table, np.zeros(len(table), np.int64), max_tokens=16, views=2)
    assert clips.num_views == 3
    rows = torch.tensor([0, 0, 0, 10])
    views = torch.tensor([0, 1, 2, 2])
    batch = clips.batch(rows, views=views)
    plain = clips.batch(rows)
    assert batch.mask["video"].sum(dim=1).tolist() == [8, 3, 3, 8]  # clip 10 has no other view
    assert batch.tokens["video"][1, 0, 0] == 51
    assert batch.tokens["video"][2, 0, 0] == 52
    assert torch.equal(batch.tokens["video"][[0, 3]], plain.tokens["video"][[0, 3]])
    assert torch.equal(batch.tokens["pose"], plain.tokens["pose"])
    test_rows = torch.from_numpy(np.flatnonzero(table["split"] == "test"))
    shown = clips.batch(test_rows, views=torch.full((len(test_rows),), 1))
    assert torch.equal(shown.tokens["video"], clips.batch(test_rows).tokens["video"])


def test_views_teach_what_the_plain_view_does_not_show(tmp_path: Path) -> None:
    # Plain training clips are noise; their views carry the label as the plain test clips do.
    cache = planted_cache(tmp_path / "features", num_train=100, num_test=80, amplitude=0.0, dim=4)
    table = clips_of(cache)
    rng = np.random.default_rng(0)
    bits = rng.integers(2, size=len(table))
    tokens = planted_tokens(bits, 4, 12.0, rng)
    table["gesture"] = bits.astype(str)
    features = cache.feature_set("video")
    with features.writer() as writer:
        for clip_id, of_clip in zip(table["clip_id"], tokens, strict=True):
            for view in (1, 2, 3, 4):
                writer.add(clip_id, of_clip, view=view)
    config = TrainConfig(min_steps=100, views=4)
    run = train_head(cache, "gesture", head="single_video", seeds=1, clips=table, config=config, runs=tmp_path / "runs")
    history = pd.read_csv(run.path / "history.csv")
    assert history["train_top1"].max() > 0.75  # without views these are 5 draws of noise in 5
    assert run.metrics["test"]["top1"]["mean"] < 0.75  # scored on the plain view, which shows nothing


def test_views_that_the_cache_lacks_are_named(planted: FeatureCache, tmp_path: Path) -> None:
    config = replace(QUICK, views=2)
    with pytest.raises(TrainError, match=r"no augmented views of video, pose; make .*--views 2"):
        train_head(planted, "gesture", seeds=1, config=config, runs=tmp_path / "runs")
    add_views(planted, "video", views=1, value=0)
    run = train_head(planted, "gesture", seeds=1, config=config, runs=tmp_path / "runs")
    assert run.config["warnings"] == [
        "the cache has no augmented views of pose; their plain view is shown instead",
        "the cache lacks 160 of the augmented views of video that were asked for; to make them: "
        "mgcli extract --modality video --modality pose --views 2",
    ]


# What goes wrong


def test_a_loss_that_is_not_finite_keeps_what_was_good(
    planted: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    measure = Loss.__call__

    def spoilt(self: Loss, *arguments: object) -> Tensor:
        nonlocal calls
        calls += 1
        return measure(self, *arguments) * (float("nan") if calls > 36 else 1.0)  # type: ignore[arg-type]

    monkeypatch.setattr(Loss, "__call__", spoilt)
    config = replace(QUICK, epochs=3)  # of 8 batches: seed 0 ends after 24 steps, seed 1 has one good epoch
    with pytest.raises(TrainError, match=r"seed 1: the loss is not a finite number from step 13 on; .* are in \S+"):
        train_head(planted, "gesture", head="concat", seeds=3, config=config, runs=tmp_path / "runs", cores=1)
    (kept,) = (tmp_path / "runs").iterdir()
    assert kept.name.startswith("stopped-gesture-concat-")
    assert sorted(each.name for each in kept.iterdir()) == [
        "config.json",
        "head-seed0.safetensors",
        "head-seed1.safetensors",
        "history.csv",
    ]
    assert pd.read_csv(kept / "history.csv").groupby("seed").size().to_dict() == {0: 3, 1: 1}
