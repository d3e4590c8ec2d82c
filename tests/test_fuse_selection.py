"""What a run is trained on: the modalities and feature sets chosen, the clips, their splits and classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import QUICK, clips_of, planted_cache
from samples import make_spec

from mgcli.cache import CacheError, ClipTableError, FeatureCache
from mgcli.fuse import (
    HeadError,
    SelectionError,
    TaskError,
    evaluate_run,
    train_head,
)


def test_one_modality_makes_a_single(tmp_path: Path, planted: FeatureCache) -> None:
    run = train_head(planted, "gesture", modalities=["pose"], seeds=1, config=QUICK, runs=tmp_path / "runs")
    assert run.label == "single_pose"
    same = train_head(planted, "gesture", head="single", modalities=["pose"], seeds=1, config=QUICK, runs=tmp_path)
    assert same.metrics == run.metrics


def test_what_the_cache_lacks_is_done_without_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = planted_cache(tmp_path / "features", task="emotion")
    run = train_head(cache, "emotion", seeds=1, config=QUICK, runs=tmp_path / "runs")
    assert run.label == "single_pose"
    said = capsys.readouterr().err
    assert "the cache has no face, context, so this run reads pose" in said
    assert "mgcli extract --modality face --modality context" in said
    assert run.config["warnings"][0] in said


def test_a_cache_of_other_modalities_is_used_as_it_is(tmp_path: Path) -> None:
    cache = planted_cache(tmp_path / "features", task="emotion", modalities=("sound", "touch"))
    run = train_head(cache, "emotion", seeds=1, config=QUICK, runs=tmp_path / "runs")
    assert run.label == "inter_fusion"
    assert run.modalities == ["sound", "touch"]


def test_a_fusion_head_by_name_gets_a_second_modality(tmp_path: Path) -> None:
    cache = planted_cache(tmp_path / "features", task="emotion")
    run = train_head(cache, "emotion", head="concat", seeds=1, config=QUICK, runs=tmp_path / "runs")
    assert run.modalities == ["pose", "video"]


def test_an_asked_for_modality_must_be_there(planted: FeatureCache) -> None:
    with pytest.raises(CacheError, match=r"no tokens of 'face' .* Run: mgcli extract --modality face"):
        train_head(planted, "gesture", modalities=["video", "face"])


def test_two_streams_of_pose_are_two_modalities(tmp_path: Path) -> None:
    cache = planted_cache(tmp_path / "features")
    bone = cache.create_feature_set(make_spec(modality="pose", backbone="agcn_bone", dim=3))
    with bone.writer() as writer:
        for clip_id in clips_of(cache)["clip_id"]:
            writer.add(clip_id, np.ones((2, 3), np.float32))
    names = ["video", "pose:tiny", "pose:agcn_bone"]
    run = train_head(cache, "gesture", modalities=names, seeds=1, config=QUICK, runs=tmp_path / "runs")
    assert run.modalities == names
    assert [each["backbone"] for each in run.config["features"].values()] == ["tiny", "tiny", "agcn_bone"]
    assert evaluate_run(run.path, cache).metrics == run.metrics["test"]
    alone = train_head(cache, "gesture", head="single_pose:agcn_bone", seeds=1, config=QUICK, runs=tmp_path / "runs")
    assert alone.label == "single_pose:agcn_bone"
    fingerprint = run.config["features"]["pose:tiny"]["fingerprint"]
    with pytest.raises(TaskError, match=r"pose:tiny and pose:\w{8} are the same feature set, pose--tiny"):
        train_head(cache, "gesture", modalities=["pose:tiny", f"pose:{fingerprint}"])
    with pytest.raises(TaskError, match="has a dot in its name; write video:FINGERPRINT"):
        train_head(cache, "gesture", modalities=["video:timm:vit.lvd", "pose:tiny"])


def test_single_must_say_which(planted: FeatureCache) -> None:
    with pytest.raises(TaskError, match="takes one modality, not video, pose; say which: --head single_video"):
        train_head(planted, "gesture", head="single")


def test_single_and_modalities_must_agree(planted: FeatureCache) -> None:
    with pytest.raises(TaskError, match="reads 'video'; --modalities says pose"):
        train_head(planted, "gesture", head="single_video", modalities=["pose"])


def test_several_feature_sets_must_be_chosen_from(planted: FeatureCache) -> None:
    planted.create_feature_set(make_spec(modality="video", backbone="other", reads="imported"))
    with pytest.raises(CacheError, match=r"2 feature sets of 'video'; choose one with --features video="):
        train_head(planted, "gesture")


def test_features_of_a_modality_that_is_not_read_are_an_error(planted: FeatureCache) -> None:
    with pytest.raises(TaskError, match="--features names face, which the run does not read"):
        train_head(planted, "gesture", features={"face": "abcd"})


def test_unknown_task_and_head_suggest(planted: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="unknown task 'gestures'; did you mean 'gesture'"):
        train_head(planted, "gestures")
    with pytest.raises(HeadError, match="unknown head 'conct'; did you mean 'concat'"):
        train_head(planted, "gesture", head="conct", runs=tmp_path / "runs")


# Which clips


def test_a_class_without_training_clips_is_named_with_its_counts(planted: FeatureCache, tmp_path: Path) -> None:
    table = planted.read_clips()
    table.loc[table.index[-3:], "gesture"] = "7"
    with pytest.raises(SelectionError, match=r"1 gesture class.* '7': 0 train, 0 val, 3 test"):
        train_head(planted, "gesture", clips=table, runs=tmp_path / "runs")
    config = replace(QUICK, allow_unseen_classes=True)
    run = train_head(planted, "gesture", clips=table, seeds=1, config=config, runs=tmp_path / "runs")
    assert run.config["classes"] == ["0", "1", "7"]


def test_one_class_is_refused(planted: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match="all clips with tokens have the emotion label 'win'"):
        train_head(planted, "emotion", clips=clips_of(planted, emotion="win"), runs=tmp_path / "runs")


def test_no_label_is_refused(planted: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match="no clip of the clip table has a label in column 'emotion'"):
        train_head(planted, "emotion", runs=tmp_path / "runs")


def test_no_split_is_refused_and_some_without_are_left_out(
    planted: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SelectionError, match="no clip has a split"):
        train_head(planted, "gesture", clips=clips_of(planted, split=""), runs=tmp_path / "runs")
    table = planted.read_clips()
    table.loc[0, "split"] = ""
    run = train_head(planted, "gesture", head="constant", clips=table, runs=tmp_path / "runs")
    assert "1 clip(s) ('c00000') left out: no split" in capsys.readouterr().err
    assert sum(each["clips"] for each in run.config["clips"]["counts"].values()) == 239


def test_one_training_subject_is_refused(planted: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(ClipTableError, match="cannot draw a validation split from 1 training subject"):
        train_head(planted, "gesture", clips=clips_of(planted, subject_id="s1"), runs=tmp_path / "runs")


def test_without_test_clips_there_are_no_test_scores(
    planted: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_head(planted, "gesture", seeds=1, config=QUICK, clips=clips_of(planted)[:160], runs=tmp_path)
    assert run.metrics["test"] == {}
    assert "no test clips" in capsys.readouterr().err
    assert "val" in run.summary()


def test_clips_without_tokens_are_counted_and_named(
    planted: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = planted.read_clips()
    table.loc[[3, 5], "clip_id"] = ["gone1", "gone2"]
    run = train_head(planted, "gesture", seeds=1, config=QUICK, clips=table, runs=tmp_path / "runs")
    assert "2 clip(s) ('gone1', 'gone2') left out: no video or pose tokens" in capsys.readouterr().err
    assert run.config["clips"]["counts"]["test"]["clips"] == 80
    table["clip_id"] = "x" + table["clip_id"]
    with pytest.raises(SelectionError, match="none of the 240 clips has video or pose tokens"):
        train_head(planted, "gesture", config=QUICK, clips=table, runs=tmp_path / "runs")


def test_a_missing_modality_is_a_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = planted_cache(tmp_path / "features")
    spec = make_spec(modality="face", dim=2, reads="imported")
    with cache.create_feature_set(spec).writer() as writer:
        for clip_id in cache.read_clips()["clip_id"][::2]:
            valid = np.array([clip_id != "c00000", False])  # nothing to see in the first clip's two tokens
            writer.add(clip_id, np.ones((2, 2), np.float32), valid=valid)
    run = train_head(
        cache, "gesture", head="inter_fusion", modalities=["video", "face"], seeds=1, config=QUICK, runs=tmp_path
    )
    assert "121 of 240 clips have no face tokens" in capsys.readouterr().err
    assert run.config["clips"]["counts"]["train"]["clips"] == 120
