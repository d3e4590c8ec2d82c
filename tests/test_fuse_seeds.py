"""A seed decides its training: not what was done before, not the seeds beside it, not how many threads there are."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from planted import QUICK

from mgcli.cache import FeatureCache
from mgcli.fuse import TrainError, seeds, train_head


@pytest.mark.parametrize("head", ["cross_modal_token_fusion", "inter_fusion"])
def test_same_seed_gives_the_same_bits(planted: FeatureCache, tmp_path: Path, head: str) -> None:
    config = replace(QUICK, modality_dropout=0.2, token_dropout=0.1, mixup=0.5, ema=0.9)
    first = train_head(planted, "gesture", head=head, seeds=[3], config=config, runs=tmp_path / "a")
    torch.rand(5)  # what happened before does not matter
    second = train_head(planted, "gesture", head=head, seeds=[1, 3], config=config, runs=tmp_path / "b")
    for name, value in first.state_dict(3).items():
        assert torch.equal(value, second.state_dict(3)[name]), name
    assert any(not torch.equal(value, second.state_dict(1)[name]) for name, value in first.state_dict(3).items())


@pytest.mark.parametrize("head", ["inter_fusion", "logistic", "test_fuse_replicas:ColdHead"])
def test_seeds_side_by_side_give_the_same_bits_as_one_after_another(
    planted: FeatureCache, tmp_path: Path, head: str
) -> None:
    runs = [
        train_head(planted, "gesture", head=head, seeds=3, config=QUICK, runs=tmp_path, cores=cores)
        for cores in (1, 2, 3)
    ]
    for run in runs[1:]:
        pd.testing.assert_frame_equal(run.predictions(), runs[0].predictions())
        for seed in range(3):
            state = run.state_dict(seed)
            assert all(torch.equal(state[name], value) for name, value in runs[0].state_dict(seed).items())


def test_a_seed_that_fails_ends_those_beside_it(planted: FeatureCache, tmp_path: Path) -> None:
    config = replace(QUICK, epochs=30, learning_rate=1e30, grad_clip=1e30)
    before = threading.active_count()
    with pytest.raises(TrainError, match="seed 0: the loss is not a finite number"):
        train_head(planted, "gesture", seeds=4, config=config, runs=tmp_path, cores=2)
    assert threading.active_count() == before


def test_training_leaves_the_callers_generator_alone(planted: FeatureCache, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    train_head(planted, "gesture", seeds=1, config=QUICK, runs=tmp_path / "runs")
    assert torch.equal(torch.rand(1), expected)


def test_the_tokens_statistics_are_made_with_one_thread(
    planted: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several give axes that round otherwise, and wait for each other on a busy machine."""
    used = []
    found = seeds.token_statistics

    def watched(*arguments: object) -> object:
        used.append(torch.get_num_threads())
        return found(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(seeds, "token_statistics", watched)
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        train_head(planted, "gesture", head="concat", seeds=1, config=QUICK, runs=tmp_path, replicas="off")
        train_head(planted, "gesture", head="concat", seeds=2, config=QUICK, runs=tmp_path, replicas="on")
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(threads)
    assert used == [1, 1]


def test_seeds_stand_in_their_order_however_soon_each_is_finished(planted: FeatureCache, tmp_path: Path) -> None:
    config = replace(QUICK, epochs=30, patience=0.1, learning_rate=3e-3)
    one_by_one, together = (
        train_head(planted, "gesture", seeds=[5, 3, 8, 1], config=config, runs=tmp_path, replicas=replicas)
        for replicas in ("off", "on")
    )
    assert together.config["replicas"] == 4
    history = pd.read_csv(together.path / "history.csv")
    epochs = history.groupby("seed", sort=False)["epoch"].max()
    assert epochs.index.tolist() == [5, 3, 8, 1]
    assert not epochs.is_monotonic_increasing  # a later one was finished sooner
    columns = ["seed", "split", "clip_id"]
    pd.testing.assert_frame_equal(together.predictions()[columns], one_by_one.predictions()[columns])
    for split in ("val", "test"):
        for name, found in one_by_one.metrics[split].items():
            assert together.metrics[split][name]["values"] == pytest.approx(found["values"], abs=1e-3), name
