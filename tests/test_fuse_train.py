"""Training from a real cache to a run folder and back."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from planted import QUICK, clips_of, planted_cache
from samples import make_spec
from typer.testing import CliRunner

from mgcli.cache import FeatureCache, open_cache, read_clip_table
from mgcli.cli import app
from mgcli.fuse import (
    GridError,
    HeadConfig,
    Run,
    RunError,
    TaskError,
    TrainConfig,
    TrainError,
    evaluate_run,
    make_config,
    predict_run,
    results_table,
    train_head,
)

FUSION = ("cross_modal_token_fusion", "inter_fusion")


# What a run gives


def test_run_folder_holds_all_that_a_reader_needs(planted: FeatureCache, tmp_path: Path) -> None:
    run = train_head(planted, "gesture", head="inter_fusion", seeds=2, config=QUICK, runs=tmp_path / "runs")
    assert run.path.parent == tmp_path / "runs"
    assert run.name.startswith("gesture-inter_fusion-")
    assert sorted(each.name for each in run.path.iterdir()) == [
        "card.md",
        "config.json",
        "head-seed0.safetensors",
        "head-seed1.safetensors",
        "history.csv",
        "metrics.json",
        "predictions.csv",
    ]
    config = json.loads((run.path / "config.json").read_text())
    features = planted.feature_set("video")
    assert config["features"]["video"]["fingerprint"] == features.spec.fingerprint
    assert config["features"]["video"]["weights"] == "imported"
    assert config["classes"] == ["0", "1"]
    assert config["seeds"] == [0, 1]
    assert config["packages"]["torch"] == version("torch")
    assert config["clips"]["counts"]["test"] == {"clips": 80, "subjects": 6}
    assert config["config"]["head"]["width"] == 16
    history = pd.read_csv(run.path / "history.csv")
    assert history.groupby("seed")["epoch"].apply(list).to_dict() == {0: [1, 2], 1: [1, 2]}
    assert [each.name for each in (tmp_path / "runs").iterdir()] == [run.name]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux names the files of descriptors there")
def test_a_run_is_on_the_disk_before_it_has_its_name(
    planted: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[tuple[str, bool]] = []  # what, and whether any run had its name by then
    fsync, runs = os.fsync, tmp_path / "runs"

    def record(descriptor: int) -> None:
        named = any(not each.name.startswith(".tmp-") for each in runs.iterdir())
        flushed.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, named))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    run = train_head(planted, "gesture", seeds=1, config=QUICK, runs=runs)
    *first, last = flushed
    assert sorted(first) == sorted(
        (name, False) for name in [f".tmp-{run.name}", *(file.name for file in run.path.iterdir())]
    )
    assert last == ("runs", True)


def test_json_has_the_agreed_shape(planted: FeatureCache, tmp_path: Path) -> None:
    run = train_head(planted, "gesture", seeds=2, config=QUICK, runs=tmp_path / "runs")
    result = json.loads(json.dumps(run.to_json()))
    assert result["task"] == "gesture"
    assert result["head"] == "cross_modal_token_fusion"
    assert result["modalities"] == ["video", "pose"]
    assert result["seeds"] == [0, 1]
    for split in ("val", "test"):
        for score in ("top1", "macro_f1", "mean_class_accuracy", "auc"):
            found = result["metrics"][split][score]
            assert len(found["values"]) == 2
            assert found["mean"] == pytest.approx(np.mean(found["values"]))
            assert found["std"] == pytest.approx(np.std(found["values"], ddof=1))
    assert Run.load(run.path).to_json() == run.to_json()


def test_predictions_give_the_scores_again(planted: FeatureCache, tmp_path: Path) -> None:
    run = train_head(planted, "gesture", seeds=2, config=QUICK, runs=tmp_path / "runs")
    predictions = run.predictions()
    assert list(predictions) == ["clip_id", "subject_id", "split", "seed", "true", "predicted", "p_0", "p_1"]
    assert np.allclose(predictions[["p_0", "p_1"]].sum(axis=1), 1, atol=1e-5)
    test = predictions[predictions["split"] == "test"]
    right = (test["true"] == test["predicted"]).groupby(test["seed"]).mean()
    assert right.tolist() == pytest.approx(run.metrics["test"]["top1"]["values"])


def test_validation_subjects_are_drawn_from_training_alone(planted: FeatureCache, tmp_path: Path) -> None:
    run = train_head(planted, "gesture", head="constant", runs=tmp_path / "runs")
    assert run.config["clips"]["counts"]["val"]["subjects"] == 2
    assert run.config["clips"]["counts"]["train"]["subjects"] == 6
    predictions = run.predictions()
    held_back = set(predictions.loc[predictions["split"] == "val", "subject_id"])
    assert held_back == set(run.config["clips"]["drawn_val_subjects"])


def test_summary_shows_intervals_weights_and_warnings(planted: FeatureCache, tmp_path: Path) -> None:
    random = make_spec(modality="video", dim=3, weights="random:7", reads="imported", backbone="mvit_v2_s")
    with planted.create_feature_set(random).writer() as writer:
        for clip_id in planted.read_clips()["clip_id"]:
            writer.add(clip_id, np.ones((1, 3), np.float32))
    run = train_head(
        planted,
        "gesture",
        head="concat",
        seeds=1,
        config=QUICK,
        features={"video": "mvit_v2_s"},
        notes=["the data are synthetic"],
        runs=tmp_path / "runs",
    )
    for text in (run.summary(), results_table([run, run]), evaluate_run(run, planted).summary()):
        assert "random:7" in text
        assert "warning: the video tokens come from a backbone with random weights" in text
        assert "warning: the data are synthetic" in text
        low, high = run.intervals["test"]["top1"]
        assert f"[{100 * low:.1f}, {100 * high:.1f}]" in text


# Learning


@pytest.mark.parametrize("head", [*FUSION, "concat", "single_video", "score_average"])
def test_heads_overfit_eight_clips(tmp_path: Path, head: str) -> None:
    cache = planted_cache(tmp_path / "features", num_train=8, num_test=2, amplitude=0.0)  # nothing but noise
    table = clips_of(cache, split=["train"] * 8 + ["val"] * 2, gesture=["0", "1"] * 5)
    config = TrainConfig(min_steps=120, patience=1.0, head=HeadConfig(width=32))
    run = train_head(cache, "gesture", head=head, seeds=1, clips=table, config=config, runs=tmp_path / "runs")
    assert pd.read_csv(run.path / "history.csv")["train_top1"].max() == 1.0


@pytest.mark.parametrize("head", FUSION)
def test_fusion_heads_learn_an_exclusive_or(tmp_path: Path, head: str) -> None:
    cache = planted_cache(tmp_path / "features", num_train=320, num_test=150)
    config = TrainConfig(min_steps=300)
    run = train_head(cache, "gesture", head=head, seeds=1, config=config, runs=tmp_path / "runs")
    assert run.metrics["test"]["top1"]["mean"] >= 0.95


@pytest.mark.parametrize("head", ["logistic", "score_average", "single_video", "single_pose", "constant"])
def test_other_heads_cannot_know_an_exclusive_or(tmp_path: Path, head: str) -> None:
    cache = planted_cache(tmp_path / "features", num_train=400, num_test=500, num_subjects=(8, 20))
    config = TrainConfig(epochs=5, min_steps=1)
    run = train_head(cache, "gesture", head=head, seeds=1, config=config, runs=tmp_path / "runs")
    assert run.metrics["test"]["top1"]["mean"] < 0.6
    assert run.label == head


@pytest.mark.parametrize("head", FUSION)
def test_a_small_set_of_four_classes_is_learned(tmp_path: Path, head: str) -> None:
    cache = planted_cache(
        tmp_path / "features", rule="product", num_train=60, num_test=100, num_subjects=(12, 10), dim=32
    )
    run = train_head(cache, "gesture", head=head, seeds=1, runs=tmp_path / "runs")
    assert run.metrics["test"]["top1"]["mean"] >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("head", FUSION)
@pytest.mark.parametrize(
    ("dim", "amplitude", "scale"), [(16, 5, 1.0), (64, 6, 0.01), (256, 6, 30.0), (768, 5, 1.0), (768, 16, 1.0)]
)
def test_planted_interaction(tmp_path: Path, head: str, dim: int, amplitude: float, scale: float) -> None:
    cache = planted_cache(
        tmp_path / "features",
        task="emotion",
        num_train=2000,
        num_test=500,
        num_subjects=(20, 10),
        dim=dim,
        amplitude=amplitude,
        scale=scale,
    )
    run = train_head(cache, "emotion", head=head, modalities=["video", "pose"], seeds=1, runs=tmp_path / "runs")
    assert run.metrics["test"]["top1"]["mean"] >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("head", [*FUSION, "concat", "logistic", "score_average"])
def test_nothing_planted_is_nothing_found(tmp_path: Path, head: str) -> None:
    cache = planted_cache(tmp_path / "features", rule="shuffled", num_train=400, num_test=1000, num_subjects=(10, 40))
    run = train_head(cache, "gesture", head=head, seeds=1, runs=tmp_path / "runs")
    assert run.intervals["test"]["top1"][0] < 0.5 + 0.02


# From disk


def test_evaluate_gives_the_runs_own_scores(planted: FeatureCache, tmp_path: Path) -> None:
    run = train_head(planted, "gesture", seeds=2, config=QUICK, runs=tmp_path / "runs")
    for split in ("val", "test"):
        again = evaluate_run(run.path, planted.path, split=split)
        assert again.metrics == run.metrics[split]
        assert again.intervals == run.intervals[split]
    assert evaluate_run(run, planted).to_json()["metrics"].keys() == {"test"}


@pytest.mark.parametrize("head", ["single_pose", "logistic", "constant", "score_average", "concat"])
def test_every_head_comes_back_from_disk(planted: FeatureCache, tmp_path: Path, head: str) -> None:
    run = train_head(planted, "gesture", head=head, seeds=1, config=QUICK, runs=tmp_path / "runs")
    assert evaluate_run(run.path, planted).metrics == run.metrics["test"]


def test_predict_takes_clips_without_labels_or_splits(planted: FeatureCache, tmp_path: Path) -> None:
    run = train_head(planted, "gesture", seeds=2, config=QUICK, runs=tmp_path / "runs")
    found = predict_run(run.path, planted, clips=clips_of(planted, gesture="", split="")[-80:])
    assert len(found) == 80
    assert set(found["true"]) == {""}
    of_seeds = run.predictions().query("split == 'test'").groupby("clip_id")["p_1"].mean()
    assert np.allclose(found.set_index("clip_id")["p_1"].sort_index(), of_seeds.sort_index(), atol=1e-5)


def test_a_cache_without_the_runs_features_is_refused(planted: FeatureCache, tmp_path: Path) -> None:
    run = train_head(planted, "gesture", seeds=1, config=QUICK, runs=tmp_path / "runs")
    other = planted_cache(tmp_path / "other", dim=5)
    with pytest.raises(RunError, match=r"was trained on video--tiny--\w{8} .* which the cache .* lacks"):
        evaluate_run(run, other)


def test_a_broken_checkpoint_is_named(planted: FeatureCache, tmp_path: Path) -> None:
    run = train_head(planted, "gesture", seeds=1, config=QUICK, runs=tmp_path / "runs")
    file = run.path / "head-seed0.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(RunError, match=r"cannot read .*head-seed0\.safetensors"):
        evaluate_run(run, planted)


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is no run folder: it has no config\.json"):
        Run.load(tmp_path)


# What goes wrong


def test_a_loss_that_is_not_finite_names_the_step(planted: FeatureCache, tmp_path: Path) -> None:
    config = replace(QUICK, epochs=30, learning_rate=1e30, grad_clip=1e30)
    with pytest.raises(
        TrainError, match=r"the loss is not a finite number from step \d+ on; try a lower learning rate"
    ):
        train_head(planted, "gesture", seeds=1, config=config, runs=tmp_path / "runs")
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_runs_path_that_is_a_file_is_found_out_first(planted: FeatureCache, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunError, match=r"cannot write to the runs folder .*; choose another with --runs"):
        train_head(planted, "gesture", runs=tmp_path / "runs")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs is 0; it must be 1 or more"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"modality_dropout": 1.0}, "modality_dropout is 1.0; it must be at least 0 and below 1"),
        ({"class_balance": "yes"}, "class_balance is 'yes'; it must be none, loss, effective, logits"),
        ({"sampling": "even"}, "sampling is 'even'; it must be shuffled, balanced"),
        ({"mixup": 1.5}, "mixup is 1.5; it must be between 0 and 1"),
        ({"ema": 1.0}, "ema is 1.0; it must be at least 0 and below 1"),
        ({"effective_beta": 1.0}, "effective_beta is 1.0; it must be between 0 and 1"),
        ({"views": -1}, "views is -1; it must be 0 or more"),
        ({"views": 10**20}, "views is 1000.*; it must be 0 or more, and 1000 at most"),
        ({"max_tokens": 10**23}, "max_tokens is 1000.*; it must be 1 or more, and 1000000 at most"),
        ({"min_steps": -1}, "min_steps is -1; it must be 0 or more"),
        ({"split_seed": -1}, "split_seed is -1; it must be 0 or more"),
        ({"aux_weight": float("nan")}, "aux_weight is nan; it must be 0 or more"),
        ({"aux_weight": -0.1}, "aux_weight is -0.1; it must be 0 or more"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0; it must be 0 or more"),
        ({"weight_decay": float("nan")}, "weight_decay is nan; it must be 0 or more"),
        ({"learning_rate": float("inf")}, r"learning_rate is inf; it must be above 0, and 1e\+38 at most"),
        ({"learning_rate": 10**400}, "learning_rate is 1000.*; it must be above 0"),
        ({"patience": float("inf")}, "patience is inf; it must be above 0"),
        ({"device": "meta"}, "device is 'meta', which holds no numbers; it must be cpu, cuda, cuda:1"),
        ({"device": "quantum"}, "cannot use device 'quantum'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    planted: FeatureCache, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(TrainError, match=message):
        train_head(planted, "gesture", config=TrainConfig(**settings), runs=tmp_path / "runs")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 3}, "unknown setting 'epoch'; did you mean 'epochs'"),
        ({"epochs": 2.5}, "setting epochs is 2.5; it must be a whole number, as the usual 20"),
        ({"epochs": True}, "setting epochs is True; it must be a whole number"),
        ({"mixup": "much"}, "setting mixup is 'much'; it must be a number, as the usual"),
        ({"cross_tokens": 3}, "setting cross_tokens is 3; it must be a word, as the usual 'all'"),
        ({"allow_unseen_classes": 1}, "setting allow_unseen_classes is 1; it must be true or false"),
    ],
)
def test_settings_of_the_wrong_kind_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(TrainError, match=message):
        make_config(settings)


def test_whole_numbers_will_do_for_any_number() -> None:
    assert make_config({"mixup": 1, "width": 32}) == TrainConfig(mixup=1, head=HeadConfig(width=32))


@pytest.mark.parametrize(
    "seeds",
    [
        *(0, [], [1, 1], [-1], 2.5, True, [True, 2], [0.0, 1.0], [2**63], 10**20, "12", None, [[0], [1]], {"a": 1}),
        *(np.array([[0, 1]]), np.array([0.0, 1.0]), np.array([True, False]), [0, np.int64(0)]),
    ],
    ids=repr,
)
def test_seeds_that_make_no_sense_are_refused(planted: FeatureCache, tmp_path: Path, seeds: Any) -> None:
    with pytest.raises(TrainError, match="give how many"):
        train_head(planted, "gesture", seeds=seeds, runs=tmp_path / "runs")


@pytest.mark.parametrize("seeds", [np.arange(2), np.int64(2), (0, np.uint8(1)), range(2)], ids=repr)
def test_seeds_may_be_numpys_whole_numbers(planted: FeatureCache, tmp_path: Path, seeds: Any) -> None:
    run = train_head(planted, "gesture", head="constant", seeds=seeds, runs=tmp_path / "runs", progress=False)
    assert Run.load(run.path).config["seeds"] == [0, 1]


def test_modalities_may_be_text_as_on_the_command_line(planted: FeatureCache, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"head": "constant", "seeds": 1, "runs": tmp_path / "runs", "progress": False}
    assert train_head(planted, "gesture", modalities="video", **settings).modalities == ["video"]
    assert train_head(planted, "gesture", modalities="pose, video", **settings).modalities == ["pose", "video"]
    words = ["fuse-train", "--task", "gesture", "--cache", str(planted.path), "--runs", str(tmp_path / "runs")]
    for text in (",", "video,"):
        with pytest.raises(TaskError, match=f"a modality of '{text}' has no name; write --modalities video,pose"):
            train_head(planted, "gesture", modalities=text, **settings)
        assert "has no name" in str(CliRunner().invoke(app, [*words, "--modalities", text]).exception)


@pytest.mark.parametrize("name", ["../esc", "/tmp/esc", "a/b", "a\\b", "..", ".", "a\0b"])
def test_a_run_lies_in_the_runs_folder_whatever_its_name(planted: FeatureCache, tmp_path: Path, name: str) -> None:
    with pytest.raises(TrainError, match=r"a run cannot be named .*: the name is that of its folder"):
        train_head(planted, "gesture", head="constant", runs=tmp_path / "runs", name=name)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("head = 5", "head is 5; it must be text, such as 'concat'"),
        ("modalities = 5", "modalities is 5; it must be text, such as 'video,pose'"),
        ("[options]\nfolds = 4\nfold = 1", "folds is no option of .* a settings file; .*fuse-train --option folds=K"),
    ],
)
def test_settings_files_are_checked_before_they_are_used(
    planted: FeatureCache, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "settings.toml").write_text(content)
    words = ["fuse-train", "--task", "gesture", "--cache", str(planted.path), "--runs", str(tmp_path / "runs")]
    done = CliRunner().invoke(app, [*words, "--settings", str(tmp_path / "settings.toml")])
    assert isinstance(done.exception, GridError)
    assert re.search(message, str(done.exception))


@pytest.mark.parametrize("balance", [{"class_balance": "loss"}, {"class_balance": "logits"}, {"sampling": "balanced"}])
def test_class_balance_lifts_the_rare_class(tmp_path: Path, balance: dict[str, str]) -> None:
    cache = planted_cache(tmp_path / "features", num_train=300, num_test=200, amplitude=1.5, dim=2)
    rare = np.random.default_rng(1).random(500) < 0.15  # no token tells it: only the prior can
    table = clips_of(cache, gesture=np.where(rare, "1", "0"))
    found = []
    for settings in ({}, balance):
        config = replace(QUICK, min_steps=200, learning_rate=1e-2, **settings)  # type: ignore[arg-type]
        run = train_head(cache, "gesture", head="concat", seeds=1, clips=table, config=config, runs=tmp_path / "runs")
        found.append(run.predictions()["p_1"].mean())
    assert found[0] < 0.3 < 0.35 < found[1]


def test_zarr_caches_are_read_alike(tmp_path: Path) -> None:
    hdf5 = planted_cache(tmp_path / "hdf5")
    zarr = open_cache(tmp_path / "zarr", create=True, format="zarr")
    for features in hdf5.feature_sets():
        with zarr.create_feature_set(features.spec).writer() as writer:
            for clip_id in features.clips()["clip_id"]:
                writer.add(clip_id, features.load([clip_id])[0])
    table = read_clip_table(next((hdf5.path / "clips").iterdir()))
    scores = [
        train_head(cache, "gesture", seeds=1, config=QUICK, clips=table, runs=tmp_path / "runs").metrics
        for cache in (hdf5, zarr)
    ]
    assert scores[0] == scores[1]
