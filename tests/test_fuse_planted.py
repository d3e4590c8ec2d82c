"""What heads must find in planted data, what they must not, and what a modality that is gone costs them."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted import planted_cache

from mgcli.cache import FeatureCache, open_cache
from mgcli.fuse import HeadConfig, TrainConfig, evaluate_run, train_head

FOUR = ("video", "pose", "face", "context")


def hard_cache(path: Path, num_train: int, num_test: int, dim: int, amplitude: float) -> FeatureCache:
    """Two modalities whose bits make the label, two with bits that do not; a fifth of all is missing in training."""
    return planted_cache(
        path,
        num_train=num_train,
        num_test=num_test,
        num_subjects=(20, 10),
        dim=dim,
        amplitude=amplitude,
        modalities=FOUR[:2],
        distractors=FOUR[2:],
        num_tokens=16,
        missing=0.2,
    )


def without(cache: FeatureCache, modality: str, path: Path) -> FeatureCache:
    """The same cache, but no test clip has tokens of `modality`."""
    other = open_cache(path, create=True)
    table = cache.read_clips()
    training = table.loc[table["split"] == "train", "clip_id"].tolist()
    for features in cache.feature_sets():
        clip_ids = training if features.spec.modality == modality else features.clips()["clip_id"].tolist()
        with other.create_feature_set(features.spec).writer() as writer:
            for clip_id in clip_ids:
                writer.add(clip_id, features.load([clip_id])[0])
    other.write_clips(table, "planted")
    return other


def top1(cache: FeatureCache, runs: Path, head: str, config: TrainConfig, *modalities: str) -> float:
    run = train_head(cache, "gesture", head=head, modalities=modalities, seeds=1, config=config, runs=runs)
    return run.metrics["test"]["top1"]["mean"]


@pytest.mark.slow
@pytest.mark.parametrize("head", ["inter_fusion", "low_rank", "cross_modal_token_fusion"])  # the last learns late
def test_an_exclusive_or_among_four_modalities_is_found(tmp_path: Path, head: str) -> None:
    cache = hard_cache(tmp_path / "features", num_train=4000, num_test=1000, dim=64, amplitude=5.0)
    assert top1(cache, tmp_path, head, TrainConfig(), *FOUR) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("head", ["logistic", "score_average", "single_video", "single_pose"])
def test_an_exclusive_or_among_four_modalities_is_beyond_linear_heads(tmp_path: Path, head: str) -> None:
    cache = hard_cache(tmp_path / "features", num_train=4000, num_test=1000, dim=64, amplitude=5.0)
    modalities = (head.removeprefix("single_"),) if head.startswith("single") else FOUR
    assert top1(cache, tmp_path, head, TrainConfig(epochs=8), *modalities) <= 0.6


def test_an_exclusive_or_among_four_modalities_in_small(tmp_path: Path) -> None:
    cache = hard_cache(tmp_path / "features", num_train=640, num_test=200, dim=4, amplitude=8.0)
    config = TrainConfig(min_steps=300, batch_size=48, head=HeadConfig(width=32, num_layers=1))
    assert top1(cache, tmp_path, "cross_modal_token_fusion", config, *FOUR) >= 0.93
    assert top1(cache, tmp_path, "logistic", config, *FOUR) <= 0.6


@pytest.mark.slow
def test_where_nothing_is_planted_intervals_lie_above_chance_as_rarely_as_they_should(tmp_path: Path) -> None:
    config = TrainConfig(epochs=3, min_steps=30, head=HeadConfig(width=16, num_heads=2, rank=8))
    above = 0
    for seed in range(100):
        cache = planted_cache(
            tmp_path / f"features{seed}",
            rule="shuffled",
            num_train=80,
            num_test=200,
            num_subjects=(8, 40),
            dim=4,
            num_tokens=2,
            seed=seed,
        )
        run = train_head(
            cache, "gesture", head="inter_fusion", seeds=[seed], config=config, runs=tmp_path, progress=False
        )
        above += run.intervals["test"]["top1"][0] > 0.5
    assert above <= 5


@pytest.mark.parametrize("gone", ["video", "pose"])
def test_a_modality_that_is_gone_costs_no_more_than_training_without_it(tmp_path: Path, gone: str) -> None:
    # Four classes, one for each pair of bits: without a modality half of the clips can still be told. The bit that is
    # gone can only be guessed; of so many test clips whoever guesses tells about as many.
    cache = planted_cache(tmp_path / "features", rule="product", num_train=240, num_test=8000)
    left = "pose" if gone == "video" else "video"
    config = TrainConfig(min_steps=250, modality_dropout=0.3)
    run = train_head(cache, "gesture", head="inter_fusion", seeds=1, config=config, runs=tmp_path / "runs")
    whole = run.metrics["test"]["top1"]["mean"]
    dropped = evaluate_run(run, without(cache, gone, tmp_path / "without")).metrics["top1"]["mean"]
    retrained = top1(cache, tmp_path / "runs", f"single_{left}", TrainConfig(min_steps=250), left)
    assert whole > 0.9
    assert retrained < 0.6
    assert dropped >= retrained - 0.05
