"""Training of 2s-AGCN: what it learns, what its checkpoint says, that it resumes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from golden_weights import scaled_error

from mgcli.cache import LeakageError, MgcliError, open_cache, read_clip_table
from mgcli.extract import (
    BackboneTrainError,
    WeightsError,
    create_backbone,
    describe_weights,
    extract_modalities,
    joint_layout,
    read_provenance,
    train_pose_backbone,
)
from mgcli.extract.skeleton_graph import joints_to_bones
from mgcli.extract.train_pose_clips import Augmentation
from mgcli.extract.train_pose_loop import accuracies

SETTINGS = {"num_frames": 4, "epochs": 3, "min_steps": 0}
NUM_FRAMES = 20
NUM_SUBJECTS = 16
CLIPS_EACH = 4
FINGERS = ("thumb_tip", "index_tip", "middle_tip", "ring_tip", "pinky_tip")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen subjects, two classes: the right arm is high or low."""
    folder = tmp_path_factory.mktemp("skeletons")
    layout = joint_layout("imigue22")
    arm = [layout.index(f"right_{name}") for name in ("elbow", "wrist", *FINGERS)]
    rng = np.random.default_rng(0)
    rows = []
    for subject in range(NUM_SUBJECTS):
        for number in range(CLIPS_EACH):
            joints = rng.normal(100, 4, (1, 22, 3)) + rng.normal(0, 1, (NUM_FRAMES, 22, 3))
            joints[:, layout.index("left_shoulder"), :2] = (150, 100)
            joints[:, layout.index("right_shoulder"), :2] = (50, 100)
            joints[:, arm, 1] += -80 if number % 2 else 120
            joints[..., 2] = 0.9
            name = f"s{subject}-{number}"
            np.save(folder / f"{name}.npy", joints.astype(np.float32))
            split = "test" if subject == NUM_SUBJECTS - 1 else "train"
            rows.append((name, f"{name}.npy", 25, f"s{subject}", split, ("low", "high")[number % 2]))
    columns = ["clip_id", "skeleton", "skeleton_fps", "subject_id", "split", "gesture"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "clips.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    return read_clip_table(folder / "clips.csv")


def train(table: pd.DataFrame, weights: Path, **arguments: Any) -> Any:
    settings = SETTINGS | arguments.pop("settings", {})
    return train_pose_backbone(
        table, weights_dir=weights, settings=settings, precision="float32", workers=0, progress=False, **arguments
    )


@pytest.fixture(scope="module")
def trained(table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    report = train(table, tmp_path_factory.mktemp("weights"), settings={"epochs": 14})
    assert report.counts == {"train": 48, "val": 12, "test": 4}
    assert report.scores["test"]["two_stream"]["top1"] == 1.0
    return report.checkpoint


def test_the_checkpoint_says_what_it_was_trained_on(trained: Path) -> None:
    said = read_provenance(trained)
    trained_on = said["trained_on"]
    assert said["classes"] == ["high", "low"]
    assert said["options"]["joints"] == "imigue22"
    assert (trained_on["protocol"], trained_on["task"]) == ("table", "gesture")
    assert len(trained_on["clips"]) == 48
    subjects, chosen_by = set(trained_on["subjects"]), set(trained_on["epoch_chosen_by_subjects"])
    assert (len(subjects), len(chosen_by)) == (12, 3)
    assert not subjects & chosen_by
    assert "s15" not in subjects | chosen_by
    assert len(trained_on["videos"]) == 48
    assert {Path(name).name for name in trained_on["videos"]} == set(trained_on["clips"])  # a skeleton file a clip


def test_splits_that_share_subjects_are_refused_and_a_published_overlap_is_told(
    table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = table.assign(subject_id=table["subject_id"].replace("s15", "s0"))
    with pytest.raises(LeakageError, match=r"1 of 1 test subjects are in (train|val) too \(s0\).*--allow-leakage"):
        train(shared, tmp_path)
    assert list(tmp_path.iterdir()) == []
    quick = {"settings": {"epochs": 1}}
    train(shared, tmp_path, protocol="imigue-emotion-2021", **quick)
    assert "as imigue-emotion-2021 was published" in capsys.readouterr().err
    train(shared, tmp_path, allow_leakage=True, **quick)
    assert "leakage, forced with --allow-leakage: 1 of 1 test subjects" in capsys.readouterr().err


def test_weights_lists_the_checkpoint(trained: Path) -> None:
    (row,) = (row for row in describe_weights(trained.parent) if row["file"] == trained.name)
    assert (row["name"], row["here"]) == ("agcn_two_stream", f"yes: {trained}")


def test_extract_takes_the_checkpoint_of_its_protocol(trained: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "features", create=True)
    settings: dict[str, Any] = {"weights_dir": trained.parent, "precision": "float32", "workers": 0, "progress": False}
    assert extract_modalities(cache, table, ["pose"], **settings).failed == 0
    features = cache.feature_set("pose")
    assert features.spec.backbone == "agcn_two_stream"
    assert features.spec.weights == trained.name
    assert features.spec.sampling["num_frames"] == SETTINGS["num_frames"]  # as it was trained, without being told
    assert features.provenance["trained_on"]["subjects"] == read_provenance(trained)["trained_on"]["subjects"]
    assert features.load(["s15-0"])[0].shape == (1, 512)
    with pytest.raises(WeightsError, match="backbone-train"):
        extract_modalities(cache, table, ["pose"], protocol="another", **settings)


def test_scores_of_the_cached_tokens_are_those_of_the_training(trained: Path, table: pd.DataFrame) -> None:
    backbone = create_backbone("agcn_two_stream", weights=str(trained), tokens="full")
    right = []
    for row in table[table["split"] == "test"].itertuples():
        (times_s,) = backbone.windows(0.0, NUM_FRAMES / 25)
        joints = np.load(str(row.skeleton))[(times_s * 25).astype(int)]
        inputs = backbone.prepare(joints, times_s).inputs[None]
        tokens, kept = backbone.embed_with_companions(inputs)
        scores = kept["class_scores"]  # (1, N, K)
        assert scores.shape == (1, tokens.shape[1], 2)
        with torch.inference_mode():
            assert scaled_error(scores[:, 0].numpy(), backbone.logits(inputs).numpy()) < 1e-5
        right.append(["high", "low"][int(scores[0, 0].argmax())] == row.gesture)
    assert all(right)


@pytest.mark.parametrize(("name", "columns"), [("agcn_joint", slice(0, 256)), ("agcn_bone", slice(256, 512))])
def test_each_stream_takes_its_half_of_the_checkpoint(trained: Path, name: str, columns: slice) -> None:
    joints, times_s = np.random.default_rng(1).uniform(1, 9, (4, 22, 3)).astype(np.float32), np.arange(4) / 25
    both = create_backbone("agcn_two_stream", weights=str(trained))
    one = create_backbone(name, weights=str(trained))
    of_both = both.embed(both.prepare(joints, times_s).inputs[None])[..., columns]
    of_one = one.embed(one.prepare(joints, times_s).inputs[None])
    assert torch.equal(of_both, of_one)


def test_a_second_run_trains_nothing_and_another_one_is_refused(
    trained: Path, table: pd.DataFrame, tmp_path: Path
) -> None:
    before = trained.read_bytes()
    again = train(table, trained.parent, settings={"epochs": 14})
    assert again.there_already
    assert again.scores["test"]["two_stream"]["top1"] == 1.0
    with pytest.raises(BackboneTrainError, match=r"was trained otherwise \(epochs\); .* --overwrite"):
        train(table, trained.parent, settings={"epochs": 11})
    other = table.assign(split=table["split"].mask(table["subject_id"] == "s0", "val"))
    with pytest.raises(BackboneTrainError, match="clips, labels, splits or skeletons"):
        train(other, trained.parent, settings={"epochs": 14})
    assert trained.read_bytes() == before


@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_stopped_training_goes_on_to_the_same_weights(
    stop_after: int,
    table: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("mgcli.extract.train_pose.SAVE_EVERY_S", 0.0)
    whole = train(table, tmp_path / "whole").checkpoint
    epochs = 0

    class KilledError(Exception):
        pass

    def accuracies_until_killed(*arguments: Any) -> dict[str, float]:
        nonlocal epochs
        epochs += 1
        if epochs > stop_after:
            raise KilledError
        return accuracies(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr("mgcli.extract.train_pose_loop.accuracies", accuracies_until_killed)
        with pytest.raises(KilledError):
            train(table, tmp_path / "stopped")
    capsys.readouterr()
    resumed = train(table, tmp_path / "stopped").checkpoint
    assert f"{stop_after} of 6 epochs are done" in capsys.readouterr().err
    assert resumed.read_bytes() == whole.read_bytes()
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == [resumed.name]


def test_a_damaged_unfinished_training_starts_anew(
    table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".agcn_two_stream-table.unfinished.pt").write_bytes(b"PK\x03\x04 cut short")
    train(table, tmp_path, settings={"epochs": 1})
    assert "the training starts anew" in capsys.readouterr().err


def test_unreadable_skeletons_are_left_out_and_named(
    table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    skeletons = table["skeleton"].mask(table["clip_id"].isin(["s0-0", "s1-1"]), str(tmp_path / "bad.npy"))
    report = train(table.assign(skeleton=skeletons), tmp_path, settings={"epochs": 1})
    assert sorted(failure.clip_id for failure in report.failures) == ["s0-0", "s1-1"]
    assert sum(report.counts.values()) == 62
    assert "2 clips failed" in report.summary()
    assert "bad.npy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({}, {"epoch": 3}, "unknown setting 'epoch'; did you mean 'epochs'"),
        ({}, {"epochs": 0}, "epochs is 0"),
        ({}, {"epochs": "many"}, "wrong kind"),
        ({}, {"learning_rate": 1e30, "epochs": 2}, "not a finite number in epoch"),
        ({}, {"joints": "ntu25"}, "has 22 joints, layout 'ntu25' has 25"),
        ({"skeleton": ""}, {}, "names a skeleton file"),
        ({"gesture": "one"}, {}, "all training clips are of one class"),
        ({"split": "test"}, {}, "validation split"),
    ],
)
def test_a_training_that_cannot_be_is_refused(
    change: dict[str, str], settings: dict[str, Any], message: str, table: pd.DataFrame, tmp_path: Path
) -> None:
    with pytest.raises(MgcliError, match=message):
        train(table.assign(**change), tmp_path, settings=settings)
    assert not list(tmp_path.glob("*.safetensors"))


def test_augmentation_keeps_what_it_must() -> None:
    joints = torch.rand(4, 3, 16, 22, 1) + 0.5
    joints[:, :, :, 5] = 0
    changed = Augmentation()(joints, torch.Generator().manual_seed(0), is_3d=False)
    assert changed.shape == joints.shape
    assert not changed[:, :, :, 5].any()
    kept = {round(value, 5) for value in joints[0, 2].flatten().tolist()}
    assert {round(value, 5) for value in changed[0, 2].flatten().tolist()} <= kept  # confidences
    still = Augmentation(least_share=1.0, turn=0.0, scale=0.0)(joints, torch.Generator(), is_3d=False)
    assert torch.allclose(still, joints)
    turned = Augmentation(least_share=1.0, turn=0.5, scale=0.0)(joints, torch.Generator().manual_seed(1), is_3d=True)
    assert not torch.allclose(turned, joints)
    assert torch.allclose(turned.norm(dim=1), joints.norm(dim=1), atol=1e-5)


def test_bones_of_tensors_are_those_of_arrays() -> None:
    layout = joint_layout("imigue22")
    joints = np.random.default_rng(0).normal(size=(3, 8, 22)).astype(np.float32)  # (C, T, V)
    expected = joints_to_bones(np.moveaxis(joints, 0, -1), layout)  # (T, V, C)
    found = joints_to_bones(torch.from_numpy(joints)[..., None], layout)[..., 0]  # (C, T, V, M) as networks have it
    assert np.array_equal(np.moveaxis(found.numpy(), 0, -1), expected)
