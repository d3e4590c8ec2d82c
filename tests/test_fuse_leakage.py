"""What stage two refuses to train or score on, how a forced leak is marked, and that test clips decide nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from planted import QUICK, clips_of, planted_cache
from samples import make_spec

from mgcli.cache import FeatureCache, LeakageError
from mgcli.fuse import compare_heads, evaluate_run, predict_run, results_table, settings_of, train_head
from mgcli.fuse.grid import check_cells, make_grid, plan_cells
from mgcli.fuse.tune import Range, tune, write_settings

FORCED = replace(QUICK, allow_leakage=True)
SHARED = [f"s{i % 8}" for i in range(240)]  # all subjects in both splits


def train(cache: FeatureCache, folder: Path, **settings: Any) -> Any:
    return train_head(
        cache, "gesture", **{"seeds": 1, "config": QUICK, "runs": folder / "runs", "progress": False} | settings
    )


def pose_of_a_trained_backbone(cache: FeatureCache, trained_on: dict[str, Any]) -> str:
    """A feature set of pose whose provenance says what the backbone was trained on; gives its backbone's name."""
    spec = make_spec(modality="pose", dim=3, reads="imported", backbone="agcn", weights="agcn.safetensors")
    with cache.create_feature_set(spec, {"trained_on": trained_on}).writer() as writer:
        for clip_id in cache.read_clips()["clip_id"]:
            writer.add(clip_id, np.ones((1, 3), np.float32))
    return spec.backbone


# Splits that share subjects


def test_subjects_in_two_splits_are_refused_and_forced_ones_stand_in_every_table(
    planted: FeatureCache, tmp_path: Path
) -> None:
    table = clips_of(planted, subject_id=SHARED)
    with pytest.raises(LeakageError, match=r"6 of 8 test subjects are in train too .* in val too .*--allow-leakage"):
        train(planted, tmp_path, clips=table)
    assert list((tmp_path / "runs").iterdir()) == []
    run = train(planted, tmp_path, clips=table, config=FORCED)
    marked = "warning: leakage, forced with --allow-leakage: 6 of 8 test subjects are in train too"
    for text in (run.summary(), results_table([run]), evaluate_run(run, planted, clips=table).summary()):
        assert marked in text


def test_a_published_overlap_is_a_warning(planted: FeatureCache, tmp_path: Path) -> None:
    table = clips_of(planted, subject_id=SHARED)
    table.attrs["protocol"] = "imigue-emotion-2021"
    run = train(planted, tmp_path, clips=table)
    assert ", as imigue-emotion-2021 was published: test scores may be higher" in run.summary()


def test_the_guard_holds_in_every_process_of_a_comparison(planted: FeatureCache, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"seeds": 1, "runs": tmp_path / "runs", "modalities": ["video"], "processes": 2}
    table = clips_of(planted, subject_id=SHARED)
    with pytest.raises(LeakageError, match="6 of 8 test subjects"):
        compare_heads(planted, "gesture", clips=table, config=QUICK, **settings)
    table.attrs["protocol"] = "imigue-emotion-2021"
    runs = compare_heads(planted, "gesture", clips=table, config=QUICK, **settings)
    assert {run.protocol for run in runs} == {"imigue-emotion-2021"}
    assert results_table(runs).startswith("gesture, imigue-emotion-2021: mean")


@pytest.mark.parametrize("folds", [0, 2])
def test_a_grid_with_a_leak_is_refused_before_its_first_training(planted: FeatureCache, folds: int) -> None:
    def check(table: pd.DataFrame, **options: Any) -> None:
        grid = make_grid({"head": ["constant", "logistic"], "folds": folds, "options": options})
        check_cells(planted, "gesture", plan_cells(planted, "gesture", grid, table), table)

    table = clips_of(planted, subject_id=SHARED)
    with pytest.raises(LeakageError, match=r"test subjects are in train too .*--allow-leakage"):
        check(table)
    check(table, allow_leakage=True)
    unlabelled = table.assign(gesture=table["gesture"].where(table["split"] != "test", ""))
    with pytest.raises(LeakageError, match="test subjects are in train too"):
        check(unlabelled)
    table.attrs["protocol"] = "imigue-emotion-2021"
    check(table)
    check(clips_of(planted))


def test_a_search_is_refused_where_its_test_clips_leak_though_it_does_not_load_them(
    planted: FeatureCache, tmp_path: Path
) -> None:
    table = clips_of(planted, subject_id=SHARED)
    grid = make_grid({"head": "constant", "seeds": 1})
    settings: dict[str, Any] = {"grid": grid, "space": {"dropout": Range(choices=(0.1,))}, "trials": 1, "processes": 1}
    with pytest.raises(LeakageError, match="8 of 8 test subjects are in train too"):
        tune(planted, "gesture", table, tmp_path / "runs", **settings)
    assert not (tmp_path / "runs").exists()
    tuned = tune(planted, "gesture", table, tmp_path / "runs", **settings, base={"allow_leakage": True})
    write_settings(tmp_path / "best.toml", tuned.best, "about")
    assert settings_of(tmp_path / "best.toml")["options"] == {"dropout": 0.1}  # the last training is not forced by it


def test_people_in_unlabelled_test_clips_are_not_trained_on_either(planted: FeatureCache, tmp_path: Path) -> None:
    table = clips_of(planted, subject_id=SHARED)
    table.loc[table["split"] == "test", "gesture"] = ""
    with pytest.raises(LeakageError, match="6 of 8 test subjects are in train too"):
        train(planted, tmp_path, clips=table)
    table = clips_of(planted, emotion=["lose", "win"] * 120)  # a test clip of the other task is none of this one's
    table.loc[table["split"] == "test", ["gesture", "subject_id"]] = ["", "s000"]
    assert train(planted, tmp_path, clips=table, head="constant").metrics["test"] == {}


# Protocols


def test_the_protocol_is_kept_and_shown(planted: FeatureCache, tmp_path: Path) -> None:
    run = train(planted, tmp_path)
    assert run.config["protocol"] == "planted"
    assert run.to_json()["protocol"] == "planted"
    assert run.summary().startswith("gesture, planted: mean")
    planted.write_clips(clips_of(planted), "another")
    other = train(planted, tmp_path, clips=planted.read_clips("another"))
    table = results_table([run, other]).splitlines()
    assert table[0].startswith("gesture: mean")
    assert [line.split()[2] for line in table[1:6]] == ["protocol", "planted", "planted", "another", "another"]
    planted.read_clips().to_csv(tmp_path / "own.csv", index=False)
    assert train(planted, tmp_path, clips=tmp_path / "own.csv").protocol is None


# Backbones


def test_a_backbone_trained_on_test_subjects_is_refused_and_marked_when_forced(
    planted: FeatureCache, tmp_path: Path
) -> None:
    trained_on = {"protocol": "planted", "clips": ["c00200"], "subjects": ["s100", "s000"]}
    features = {"pose": pose_of_a_trained_backbone(planted, trained_on)}
    message = r"the pose backbone, trained on planted, has seen 1 of 80 test clips \(c00200\); .* 1 of 6 test subjects"
    with pytest.raises(LeakageError, match=message):
        train(planted, tmp_path, features=features)
    run = train(planted, tmp_path, features=features, config=FORCED)
    marked = "warning: leakage, forced with --allow-leakage: the pose backbone, trained on planted, has seen 1 of 80"
    assert marked in run.summary()
    assert marked in evaluate_run(run, planted).summary()
    assert train(planted, tmp_path, modalities=["video"]).config["warnings"] == []  # that reads no such tokens


def test_a_backbone_trained_on_training_subjects_is_fine_and_on_validation_subjects_is_told(
    planted: FeatureCache, tmp_path: Path
) -> None:
    drawn = train(planted, tmp_path, head="constant", modalities=["video"]).config["clips"]["drawn_val_subjects"]
    subjects = [f"s{i:03d}" for i in range(8)]
    trained_on = {"protocol": "planted", "subjects": [each for each in subjects if each not in drawn]}
    features = {"pose": pose_of_a_trained_backbone(planted, trained_on | {"epoch_chosen_by_subjects": drawn})}
    assert train(planted, tmp_path, features=features).config["warnings"] == []
    trained_on["subjects"] = subjects
    other = planted_cache(tmp_path / "other")
    run = train(other, tmp_path, features={"pose": pose_of_a_trained_backbone(other, trained_on)})
    assert run.config["warnings"] == [
        f"the pose backbone, trained on planted, has seen 2 of 2 val subjects ({', '.join(drawn)})"
    ]


# Test clips decide nothing


def test_permuted_test_labels_and_other_test_tokens_leave_training_bit_equal(tmp_path: Path) -> None:
    cache = planted_cache(tmp_path / "features")
    rng = np.random.default_rng(5)
    labels = cache.read_clips()["gesture"].to_numpy(copy=True)
    labels[160:] = rng.permutation(labels[160:])
    other = planted_cache(tmp_path / "other")
    for modality in ("video", "pose"):
        tokens, _ = cache.feature_set(modality).load(list(cache.read_clips()["clip_id"][:160]))
        spec = make_spec(modality=modality, dim=8, reads="imported", weights="changed")
        with other.create_feature_set(spec).writer() as writer:
            for i, clip_id in enumerate(cache.read_clips()["clip_id"]):
                writer.add(clip_id, tokens[8 * i : 8 * i + 8] if i < 160 else rng.normal(0, 99, (5, 8)))
    changed = {
        each.spec.modality: each.spec.fingerprint for each in other.feature_sets() if each.spec.weights == "changed"
    }
    for head in ("cross_modal_token_fusion", "logistic"):
        first = train(cache, tmp_path, head=head, seeds=2)
        second = train(other, tmp_path, head=head, seeds=2, clips=clips_of(other, gesture=labels), features=changed)
        assert first.metrics["test"] != second.metrics["test"]
        assert first.metrics["val"] == second.metrics["val"]
        assert (first.path / "history.csv").read_bytes() == (second.path / "history.csv").read_bytes()
        for seed in (0, 1):
            for name, value in first.state_dict(seed).items():
                assert torch.equal(value, second.state_dict(seed)[name]), name


# Scoring again


def test_a_run_is_not_scored_on_other_clips_of_its_training_subjects(planted: FeatureCache, tmp_path: Path) -> None:
    run = train(planted, tmp_path)
    table = clips_of(planted, split=["test"] * 40 + ["train"] * 200)
    with pytest.raises(LeakageError, match="the head, trained on planted, has seen 6 of 8 test subjects"):
        evaluate_run(run, planted, clips=table)
    assert "forced with --allow-leakage" in evaluate_run(run, planted, clips=table, allow_leakage=True).summary()
    fewer = clips_of(planted)[170:]
    assert evaluate_run(run, planted, clips=fewer).warnings == []


def test_unlabelled_clips_of_a_split_are_predicted_and_not_scored(planted: FeatureCache, tmp_path: Path) -> None:
    run = train(planted, tmp_path)
    table = clips_of(planted)
    table.loc[table.index[160:170], "gesture"] = ""
    assert len(predict_run(run, planted, clips=table, split="test")) == 80
    assert evaluate_run(run, planted, clips=table).num_clips == 70


# The long tail


def test_gestures_are_scored_by_head_middle_and_tail_classes(tmp_path: Path) -> None:
    cache = planted_cache(tmp_path / "features", num_train=300, num_test=60)
    labels = np.array(["0"] * 360)
    labels[np.r_[0:50, 300:310]] = "1"
    labels[np.r_[50:60, 310:330]] = "2"
    run = train(cache, tmp_path, head="constant", clips=clips_of(cache, gesture=labels))
    assert run.config["class_groups"] == {"head": ["0"], "middle": ["1"], "tail": ["2"]}
    assert run.to_json()["class_groups"] == run.config["class_groups"]
    test = {name: each["mean"] for name, each in run.metrics["test"].items() if name.endswith("_accuracy")}
    assert test == {
        "mean_class_accuracy": pytest.approx(1 / 3),
        "head_accuracy": 1,
        "middle_accuracy": 0,
        "tail_accuracy": 0,
    }
    assert "tail_accuracy" in run.summary()
    again = evaluate_run(run, cache, clips=clips_of(cache, gesture=labels))
    assert again.metrics == run.metrics["test"]
    emotions = clips_of(cache, emotion=pd.Series(labels).map({"0": "win", "1": "lose", "2": "lose"}))
    run = train_head(cache, "emotion", head="constant", clips=emotions, config=QUICK, runs=tmp_path / "runs")
    assert run.config["class_groups"] == {}
    assert "head_accuracy" not in run.metrics["test"]
