"""Challenge files against files written by hand, and what is refused."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from planted import QUICK
from samples import make_spec
from typer.testing import CliRunner

from mgcli.cache import FeatureCache, check_clip_table, open_cache
from mgcli.cli import app
from mgcli.fuse import (
    SUBMISSION_FORMS,
    EnsembleError,
    Run,
    RunError,
    SubmitError,
    TrainConfig,
    make_config,
    make_ensemble,
    mean_predictions,
    predict_run,
    submit_runs,
    train_head,
)
from mgcli.fuse.submit import submission_csv

# Test clips in an order that no one wants, their class shown plainly by their token.
GESTURES = {"0101_2": "31", "0054_10": "7", "0101_0": "0", "0054_9": "31", "0101_1": "7"} | {
    f"0054_{k}": "0" for k in range(9)
}
INTERVIEWS = {"0101": "win", "0054": "lose"}

TRACK1_ROWS = (
    "0054_0,0\n0054_1,0\n0054_2,0\n0054_3,0\n0054_4,0\n0054_5,0\n0054_6,0\n0054_7,0\n0054_8,0\n0054_9,31\n0054_10,7\n"
    "0101_0,0\n0101_1,7\n0101_2,31\n"
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """Both tracks in one table, as miga-2025 has them; test clips have no labels."""
    rows = [(f"{v:04d}_{k}", "train", f"p{v}", g, "") for v in range(1, 9) for k, g in enumerate(["0", "7", "31"] * 4)]
    rows += [(f"{v:04d}", "train", f"p{v}", "", ["win", "lose"][v % 2]) for v in range(1, 9)]
    rows += [(clip_id, "test", "q" + clip_id[:4], "", "") for clip_id in (*GESTURES, *INTERVIEWS)]
    table = pd.DataFrame(rows, columns=["clip_id", "split", "subject_id", "gesture", "emotion"])
    cache = open_cache(tmp_path_factory.mktemp("cache") / "features", create=True)
    cache.write_clips(check_clip_table(table), "miga-2025")
    shown = {"0": 0, "7": 1, "31": 2, "win": 3, "lose": 4}
    for modality, is_meant in (
        ("video", lambda clip_id: "_" in clip_id),
        ("context", lambda clip_id: "_" not in clip_id),
    ):
        spec = make_spec(modality=modality, dim=5, reads="imported", weights="imported")
        with cache.create_feature_set(spec).writer() as writer:
            for clip_id, _, _, gesture, emotion in rows:
                label = gesture or emotion or GESTURES.get(clip_id) or INTERVIEWS[clip_id]
                if is_meant(clip_id):
                    writer.add(clip_id, 5 * np.eye(5, dtype=np.float32)[None, shown[label]])
    return cache


@pytest.fixture(scope="module")
def runs(cache: FeatureCache, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each task."""
    folder = tmp_path_factory.mktemp("runs")
    config = TrainConfig(min_steps=60, head=QUICK.head)
    return {
        task: train_head(
            cache,
            task,
            modalities=[modality],
            seeds=1,
            config=config,
            runs=folder,
            progress=False,
            say=lambda text: None,
        ).path
        for task, modality in (("gesture", "video"), ("emotion", "context"))
    }


def in_zip(path: Path) -> tuple[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        (name,) = archive.namelist()
        return name, archive.read(name)


@pytest.mark.parametrize(
    ("form", "task", "name", "content"),
    [
        ("miga2023-track1", "gesture", "Submission.csv", TRACK1_ROWS),
        ("miga2025-track1", "gesture", "prediction.csv", "Id,Target\n" + TRACK1_ROWS),
        ("miga2025-track3", "emotion", "prediction.csv", "video_id,label\n0054,0\n0101,1\n"),
    ],
)
def test_files_are_those_written_by_hand(
    cache: FeatureCache, runs: dict[str, Path], tmp_path: Path, form: str, task: str, name: str, content: str
) -> None:
    submission = submit_runs([runs[task]], cache, tmp_path / "file.zip", form=form)
    assert in_zip(tmp_path / "file.zip") == (name, content.encode())
    scored = SUBMISSION_FORMS[form].num_clips
    (warning, *_) = submission.warnings
    assert warning == f"the challenge scores {scored} clips, and this table has {submission.num_clips} test clips"
    submit_runs([runs[task]], cache, tmp_path / "file.csv", form=form)
    assert (tmp_path / "file.csv").read_bytes() == content.encode()


def test_a_zip_has_the_same_bytes_whenever_it_is_written(
    cache: FeatureCache, runs: dict[str, Path], tmp_path: Path
) -> None:
    submit_runs([runs["emotion"]], cache, tmp_path / "a.zip", form="miga2025-track3")
    content = b"video_id,label\n0054,0\n0101,1\n"
    expected = io.BytesIO()
    entry = zipfile.ZipInfo("prediction.csv", (1980, 1, 1, 0, 0, 0))
    entry.external_attr, entry.create_system = 0o644 << 16, 3
    with zipfile.ZipFile(expected, "w") as archive:
        archive.writestr(entry, content)
    assert (tmp_path / "a.zip").read_bytes() == expected.getvalue()


def test_track_3_takes_probabilities_when_asked(cache: FeatureCache, runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "file.csv"
    submit_runs([runs["emotion"]], cache, out, form="miga2025-track3", probability=True)
    header, *rows = out.read_text().splitlines()
    assert header == "video_id,label"
    assert [row.split(",")[0] for row in rows] == ["0054", "0101"]
    lose, win = (float(row.split(",")[1]) for row in rows)
    assert 0 <= lose < 0.5 < win <= 1


def test_several_runs_are_averaged(cache: FeatureCache, runs: dict[str, Path], tmp_path: Path) -> None:
    other = train_head(
        cache,
        "emotion",
        head="constant",
        modalities=["context"],
        seeds=1,
        config=make_config({"min_steps": 1}),
        runs=tmp_path,
        progress=False,
    )
    both = [runs["emotion"], other.path]
    written = {}
    for weights in ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0]):
        out = tmp_path / "file.csv"
        submit_runs(both, cache, out, form="miga2025-track3", probability=True, weights=weights)
        written[tuple(weights)] = pd.read_csv(out)["label"].to_numpy()
    mean = (written[1.0, 0.0] + written[0.0, 1.0]) / 2
    assert written[1.0, 1.0] == pytest.approx(mean, abs=2e-6)
    assert written[1.0, 0.0][0] != pytest.approx(written[0.0, 1.0][0])


def test_an_ensemble_is_handed_in_as_its_runs_with_its_weights(
    cache: FeatureCache, runs: dict[str, Path], tmp_path: Path
) -> None:
    other = train_head(cache, "emotion", head="constant", modalities=["context"], seeds=1, runs=tmp_path).path
    pair = [runs["emotion"], other]
    one = make_ensemble(pair, tmp_path, split="val", weights=[3, 1])
    nested = make_ensemble([one.run.path, other], tmp_path, split="val")
    outs = [tmp_path / name for name in ("by-hand.csv", "ensemble.csv")]
    for sources, weights, out in ((pair, [0.375, 0.625], outs[0]), ([nested.run.path], None, outs[1])):
        submit_runs(sources, cache, out, form="miga2025-track3", probability=True, weights=weights)
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_an_ensemble_with_a_score_file_is_refused(cache: FeatureCache, runs: dict[str, Path], tmp_path: Path) -> None:
    scores = tmp_path / "scores.csv"
    Run.load(runs["emotion"]).predictions().to_csv(scores, index=False)
    mixed = make_ensemble([runs["emotion"], scores], tmp_path, split="val").run.path
    with pytest.raises(EnsembleError, match=r"adds .*scores.csv, a score file; only runs can predict other clips"):
        submit_runs([mixed], cache, tmp_path / "file.csv", form="miga2025-track3")
    assert not (tmp_path / "file.csv").exists()


def predicted(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"clip_id": ["0001_0", "0001_1"], "p_0": [0.9, 0.2], "p_1": [0.1, 0.8]} | columns)


def test_mean_predictions_by_hand() -> None:
    other = pd.DataFrame({"clip_id": ["0001_1", "0001_0"], "p_1": [0.0, 1.0], "p_0": [1.0, 0.0]})
    mean = mean_predictions([predicted(), other], [3.0, 1.0])
    assert list(mean["clip_id"]) == ["0001_0", "0001_1"]
    assert mean["p_0"].tolist() == pytest.approx([0.675, 0.4])
    assert mean["predicted"].tolist() == ["0", "1"]


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [1.0, -1.0], [1.0, float("nan")]])
def test_weights_that_make_no_sense_are_refused(weights: list[float]) -> None:
    with pytest.raises(RunError, match="give one weight each"):
        mean_predictions([predicted(), predicted()], weights)


def test_runs_of_other_classes_are_not_averaged() -> None:
    with pytest.raises(RunError, match="run 2 knows other classes than run 1"):
        mean_predictions([predicted(), predicted(p_2=0.0)])


def test_the_command_writes_the_same_file_and_takes_a_weight_for_each_run(
    cache: FeatureCache, runs: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "file.csv"
    words = ["submit", *[str(runs["emotion"])] * 2, "--form", "miga2025-track3", "--out", str(out)]
    words += ["--cache", str(cache.path), "--protocol", "miga-2025", "--weight", "2", "--weight", "1"]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["clips"], result["form"], result["out"]) == (2, "miga2025-track3", str(out))
    assert out.read_bytes() == b"video_id,label\n0054,0\n0101,1\n"
    assert "wrote 2 predictions of emotion-single_context" in CliRunner().invoke(app, words).stdout
    refused = CliRunner().invoke(app, [*words, "--weight", "3"])
    assert isinstance(refused.exception, RunError)


# What is refused


def test_clips_without_tokens_are_listed_and_nothing_is_written(
    cache: FeatureCache, runs: dict[str, Path], tmp_path: Path
) -> None:
    table = cache.read_clips()
    more = table[table["clip_id"] == "0101_2"].assign(clip_id="0101_3")
    table = pd.concat([table, more, more.assign(clip_id="0102_0")], ignore_index=True)
    with pytest.raises(SubmitError, match=r"no prediction for 2 of 16 test clips: 0101_3, 0102_0\. .*mgcli extract"):
        submit_runs([runs["gesture"]], cache, tmp_path / "file.zip", form="miga2025-track1", clips=table)
    assert list(tmp_path.iterdir()) == []


def test_clips_that_the_numbers_say_are_lacking_are_listed(
    cache: FeatureCache, runs: dict[str, Path], tmp_path: Path
) -> None:
    table = cache.read_clips()
    table = table[~table["clip_id"].isin(["0054_3", "0101_0"])].reset_index(drop=True)
    with pytest.raises(SubmitError, match=r"lacks 2 test clips, .*: 0054_3, 0101_0\. .*mgcli data check"):
        submit_runs([runs["gesture"]], cache, tmp_path / "file.zip", form="miga2023-track1", clips=table)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"form": "miga2025-track4"}, "unknown form 'miga2025-track4'; known: miga2023-track1, miga2025-track1"),
        ({"form": "miga2025-track3"}, "predicts gesture; miga2025-track3 asks for emotion"),
        ({"probability": True}, "miga2025-track1 takes classes, not probabilities"),
        ({"out": "file.txt"}, r"file\.txt is no \.zip and no \.csv file"),
    ],
)
def test_a_wrong_choice_is_said(
    cache: FeatureCache, runs: dict[str, Path], tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    given = {"form": "miga2025-track1", "out": "file.zip"} | arguments
    with pytest.raises(SubmitError, match=message):
        submit_runs([runs["gesture"]], cache, tmp_path / given.pop("out"), **given)


def test_a_prior_without_calibration_is_refused(cache: FeatureCache, runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SubmitError, match="give calibrated=True"):
        submit_runs([runs["emotion"]], cache, tmp_path / "out.zip", form="miga2025-track3", prior=0.2)


def test_a_prior_for_probabilities_is_refused(cache: FeatureCache, runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SubmitError, match="a prior moves the threshold between the two answers, and no probability"):
        submit_runs(
            *([runs["emotion"]], cache, tmp_path / "file.csv"),
            form="miga2025-track3",
            probability=True,
            calibrated=True,
            prior=0.2,
        )


def test_a_folder_in_place_of_the_file_is_said(cache: FeatureCache, runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "d.zip").mkdir()
    with pytest.raises(SubmitError, match=r"d\.zip is a folder; give a file with --out"):
        submit_runs([runs["gesture"]], cache, tmp_path / "d.zip", form="miga2025-track1")
    done = CliRunner().invoke(app, ["predict", str(runs["gesture"]), "--out", "."])
    assert done.exit_code == 2
    assert "is a folder; give a file" in " ".join(done.output.replace("│", " ").split())


def test_clips_of_other_names_are_refused(cache: FeatureCache, runs: dict[str, Path], tmp_path: Path) -> None:
    table = cache.read_clips()
    table["clip_id"] = table["clip_id"].replace("0054_3", "54_3")
    with pytest.raises(SubmitError, match=r"1 test clips are named otherwise than miga2025-track1 does .*: 54_3"):
        submit_runs([runs["gesture"]], cache, tmp_path / "file.zip", form="miga2025-track1", clips=table)


def test_classes_out_of_range_and_clips_predicted_twice_are_refused() -> None:
    form = SUBMISSION_FORMS["miga2025-track1"]
    table = predicted(predicted=["0", "32"])
    with pytest.raises(SubmitError, match="miga2025-track1 knows no class 32"):
        submission_csv(table, ["0001_0", "0001_1"], form)
    with pytest.raises(SubmitError, match="1 clips are predicted twice: 0001_0"):
        submission_csv(predicted(clip_id="0001_0", predicted="0"), ["0001_0"], form)


def test_calibrated_answers_are_handed_in_when_asked(
    cache: FeatureCache, runs: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "file.csv"
    form = "miga2025-track3"
    submit_runs([runs["emotion"]], cache, out, form=form, probability=True, calibrated=True)
    written = pd.read_csv(out, dtype={"video_id": str}).set_index("video_id")["label"]
    expected = predict_run(runs["emotion"], cache, split="test", calibrated=True).set_index("clip_id")["p_win"]
    assert written["0101"] == pytest.approx(expected["0101"], abs=1e-6)
    with pytest.raises(RunError, match="a prior is for two classes"):
        submit_runs([runs["gesture"]], cache, out, form="miga2025-track1", calibrated=True, prior=0.2)
