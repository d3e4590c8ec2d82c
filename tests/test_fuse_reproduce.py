"""Runs trained again: the same bits, and what is said where that cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import QUICK, clips_of, planted_cache
from safetensors.torch import load_file, save_file

from mgcli.cache import FeatureCache, check_clip_table, remove_feature_set
from mgcli.fuse import Run, RunError, train_head
from mgcli.fuse.reproduce import reproduce_run
from mgcli.fuse.tracking import TrackingError


@pytest.mark.parametrize("folds", [0, 3])
def test_a_run_comes_out_the_same_bit_for_bit(planted: FeatureCache, tmp_path: Path, folds: int) -> None:
    config = replace(QUICK, folds=folds, fold=max(0, folds - 1), token_dropout=0.1)
    run = train_head(planted, "gesture", seeds=[0, 4], config=config, runs=tmp_path / "runs", progress=False)
    planted.write_clips(check_clip_table(clips_of(planted, gesture="1")), "other")  # a newer table does not mislead
    report = reproduce_run(run.path, planted, progress=False)
    assert report.same_bits
    assert report.same_scores
    assert report.states == {0: 0.0, 4: 0.0}
    assert "the same, bit for bit, in 2 seed(s)" in report.text()
    assert [each.name for each in (tmp_path / "runs").iterdir()] == [run.name]


def test_a_damaged_clip_table_is_passed_over(
    planted: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_head(planted, "gesture", head="concat", seeds=1, config=QUICK, runs=tmp_path / "runs", progress=False)
    planted.write_clips(check_clip_table(clips_of(planted).assign(gesture="1")), run.protocol or "")  # now the newest
    damaged = planted.write_clips(check_clip_table(clips_of(planted)[:-1]), "another")
    damaged.write_text("clip_id,split\na,nowhere\n")
    assert reproduce_run(run.path, planted, progress=False).same_bits
    assert f"passed over: {damaged}" in capsys.readouterr().err


def test_other_weights_packages_and_machines_are_named(planted: FeatureCache, tmp_path: Path) -> None:
    run = train_head(planted, "gesture", head="concat", seeds=1, config=QUICK, runs=tmp_path / "runs", progress=False)
    file = run.path / "head-seed0.safetensors"
    state = load_file(file)
    state["classify.1.weight"][0, 0] += 0.5
    save_file(state, file)
    content = json.loads((run.path / "config.json").read_text())
    content["packages"]["numpy"] = "1.0"
    content["machine"]["cpu_capability"] = "VAX"
    (run.path / "config.json").write_text(json.dumps(content))
    report = reproduce_run(run.path, planted, progress=False)
    assert not report.same_bits
    assert report.same_scores
    assert report.states[0] == pytest.approx(0.5)
    assert "the scores are the same; the weights of seed 0 differ by up to 0.5" in report.text()
    assert any(text.startswith("numpy 1.0 then") for text in report.surroundings)
    assert any(text.startswith("cpu_capability: VAX then") for text in report.surroundings)


def test_a_run_of_another_cache_or_other_clips_is_refused(planted: FeatureCache, tmp_path: Path) -> None:
    run = train_head(planted, "gesture", seeds=1, config=QUICK, runs=tmp_path / "runs", progress=False)
    other = planted_cache(tmp_path / "other", dim=5)
    with pytest.raises(RunError, match=r"was trained on video--tiny--\w{8} .*which the cache .* lacks"):
        reproduce_run(run, other)
    fewer = clips_of(planted)[:-1]
    with pytest.raises(RunError, match=r"was trained on other clips, splits or labels .* than the given clip table"):
        reproduce_run(run, planted, clips=fewer)


def test_tokens_that_were_imported_anew_are_noticed(planted: FeatureCache, tmp_path: Path) -> None:
    run = train_head(planted, "gesture", seeds=1, config=QUICK, runs=tmp_path / "runs", progress=False)
    spec = planted.feature_set("pose").spec
    remove_feature_set(planted, spec.name)
    with planted.create_feature_set(spec).writer() as writer:  # made in the same way, as far as the spec knows
        for clip_id in planted.read_clips()["clip_id"]:
            writer.add(clip_id, np.ones((2, spec.dim), np.float32))
    with pytest.raises(RunError, match=r"the pose tokens of pose--tiny--\w{8} are not those that .* was trained on"):
        reproduce_run(run, planted)


def test_tensorboard_is_told_of_every_epoch(planted: FeatureCache, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = train_head(planted, "gesture", seeds=2, config=QUICK, runs=tmp_path, track="tensorboard", progress=False)
    for seed in (0, 1):
        events = accumulator.EventAccumulator(str(tmp_path / "tensorboard" / run.name / f"seed{seed}"))
        events.Reload()
        assert len(events.Scalars("val_top1")) == 2
    with pytest.raises(TrackingError, match="unknown tracker 'tensorbord'; did you mean 'tensorboard'"):
        train_head(planted, "gesture", seeds=1, config=QUICK, runs=tmp_path, track="tensorbord", progress=False)
    assert Run.load(run.path).calibration["temperature"]
