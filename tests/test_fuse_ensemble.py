"""Ensembles of runs and score files: the sums by hand, and files that are not what they should be."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from planted import QUICK, planted_cache
from typer.testing import CliRunner

from mgcli.cache import CacheError, check_clip_table
from mgcli.cli import app
from mgcli.fuse import Run, RunError, evaluate_run, train_head
from mgcli.fuse.ensemble import EnsembleError, fit_weights, make_ensemble
from mgcli.fuse.score_files import read_scores
from mgcli.fuse.score_table import ScoreError

K = 5


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def clip_table(n: int = 60, split: str = "test") -> pd.DataFrame:
    """Clips whose class is i * 7 % K."""
    return check_clip_table(
        pd.DataFrame(
            {
                "clip_id": [f"{split}{i}" for i in range(n)],
                "subject_id": [f"s{i % 6}" for i in range(n)],
                "split": split,
                "gesture": [str(i * 7 % K) for i in range(n)],
            }
        )
    )


def logits_of(table: pd.DataFrame, seed: int) -> np.ndarray:
    """(n, K) that lean towards the true class."""
    true = np.eye(K)[table["gesture"].astype(int)]
    return np.random.default_rng(seed).standard_normal((len(table), K)) + 1.2 * true


def dump(path: Path, table: pd.DataFrame, scores: np.ndarray, wrap: Callable[[Any], Any], **more: Any) -> Path:
    """As mmaction2's DumpResults writes it."""
    entries = [
        {"pred_score": wrap(row.astype(np.float32)), "gt_label": wrap(np.array([int(label)])), "num_clips": 1, **more}
        for row, label in zip(scores, table["gesture"], strict=True)
    ]
    path.write_bytes(pickle.dumps(entries))
    return path


@pytest.mark.parametrize("wrap", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("kind", ["softmax", "logits"])
def test_two_score_pickles_add_up_as_by_hand(tmp_path: Path, wrap: Callable[[Any], Any], kind: str) -> None:
    table = clip_table()
    logits = [logits_of(table, seed) for seed in (1, 2)]
    scores = [softmax(each) if kind == "softmax" else each for each in logits]
    files = [dump(tmp_path / f"{i}.pkl", table, each, wrap) for i, each in enumerate(scores)]
    made = make_ensemble(files, tmp_path / "runs", task="gesture", clips=table)

    together = softmax(logits[0].astype(np.float32)) + softmax(logits[1].astype(np.float32))
    labels = table["gesture"].astype(int).to_numpy()
    right = together.argmax(axis=1) == labels
    by_class = [right[labels == k].mean() for k in range(K)]
    found = made.run.metrics["test"]
    assert found["top1"]["mean"] == pytest.approx(right.mean())
    assert found["mean_class_accuracy"]["mean"] == pytest.approx(np.mean(by_class))
    assert found["top1"]["mean"] > max(each["top1"] for each in made.alone)
    again = Run.load(made.run.path)
    assert list(again.predictions()["clip_id"]) == list(table["clip_id"])
    assert again.to_json() == made.run.to_json()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_older_dumps_sample_indices_and_plain_lists(tmp_path: Path, protocol: int) -> None:
    table = clip_table(12)
    scores = softmax(logits_of(table, 1))
    order = np.random.default_rng(0).permutation(12)
    older = [{"pred_scores": {"item": torch.tensor(row)}, "gt_labels": {"item": torch.tensor(3)}} for row in scores]
    for entry, label in zip(older, table["gesture"], strict=True):
        entry["gt_labels"] = {"item": torch.tensor(int(label))}
    mixed = [{"pred_score": scores[i], "sample_idx": int(i)} for i in order]
    for name, content in (("older", older), ("mixed", mixed), ("pyskl", list(scores))):
        path = tmp_path / f"{name}.pkl"
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        assert read_scores(path, table, "gesture", "test").mean == pytest.approx(scores)


def test_a_csv_goes_by_clip_id(tmp_path: Path) -> None:
    table = clip_table(12)
    scores = softmax(logits_of(table, 1))
    frame = pd.DataFrame(scores, columns=[str(k) for k in range(K)]).assign(clip_id=table["clip_id"])
    frame.sample(frac=1, random_state=0).to_csv(tmp_path / "scores.csv", index=False)
    assert read_scores(tmp_path / "scores.csv", table, "gesture", "test").mean == pytest.approx(scores)
    pd.concat([frame, frame[:1]]).to_csv(tmp_path / "twice.csv", index=False)
    with pytest.raises(ScoreError, match=r"clip 'test0' has several rows"):
        read_scores(tmp_path / "twice.csv", table, "gesture", "test")
    frame[:5].to_csv(tmp_path / "few.csv", index=False)
    with pytest.raises(ScoreError, match=r"lacks 7 of 12 test clips"):
        read_scores(tmp_path / "few.csv", table, "gesture", "test")


@pytest.mark.parametrize("extra", ["Unnamed: 0", "label", "start_s", "0.1", "01"])
@pytest.mark.parametrize("prefix", ["", "p_"])
def test_a_column_that_is_no_class_is_refused(tmp_path: Path, extra: str, prefix: str) -> None:
    table = clip_table(12)
    frame = pd.DataFrame(softmax(logits_of(table, 1)), columns=[f"{prefix}{k}" for k in range(K)])
    path = tmp_path / "scores.csv"
    frame.assign(clip_id=table["clip_id"], **{prefix + extra: range(12)}).to_csv(path, index=False)
    with pytest.raises(
        ScoreError, match=rf"column '{prefix}{extra}' is no gesture class of the clip table .*such as 0"
    ):
        read_scores(path, table, "gesture", "test")
    frame.assign(clip_id=table["clip_id"]).to_csv(path)  # pandas writes its index, too
    if prefix:
        assert len(read_scores(path, table, "gesture", "test")) == 12
        return
    with pytest.raises(ScoreError, match=r"column 'Unnamed: 0' .* write with index=False"):
        read_scores(path, table, "gesture", "test")


def test_columns_are_classes_of_the_table_by_name_and_ids_that_it_lacks(tmp_path: Path) -> None:
    table = clip_table(12)
    scores = softmax(logits_of(table, 1))
    path = tmp_path / "scores.csv"
    wide = pd.DataFrame(scores, columns=[str(k) for k in range(K)]).assign(clip_id=table["clip_id"], seed=0)
    wide.assign(**{"31": 0.0}).to_csv(path, index=False)  # a class that no clip of the table has
    assert read_scores(path, table, "gesture", "test").classes == [*map(str, range(K)), "31"]
    named = table.assign(gesture="g" + table["gesture"])
    pd.DataFrame(scores, columns=[f"g{k}" for k in range(K)]).assign(clip_id=table["clip_id"]).to_csv(path, index=False)
    assert read_scores(path, named, "gesture", "test").mean == pytest.approx(scores)
    wide.to_csv(path, index=False)
    with pytest.raises(ScoreError, match=r"column '0' is no gesture class of the clip table \(those are g0, g1"):
        read_scores(path, named, "gesture", "test")
    alone = wide.assign(subject_id="s", split="test", true=table["gesture"])
    alone.to_csv(path, index=False)
    with pytest.raises(ScoreError, match=r"has no column p_CLASS: .* or give the clip table with --clips"):
        read_scores(path, None, "gesture", "test")
    alone.rename(columns={str(k): f"p_{k}" for k in range(K)}).assign(start_s=1.5).to_csv(path, index=False)
    assert read_scores(path, None, "gesture", "test").mean == pytest.approx(scores)


def test_clips_with_a_label_of_the_other_task_alone_are_not_of_the_list(tmp_path: Path) -> None:
    gestures = clip_table(12)
    interview = gestures[:1].assign(clip_id="interview", gesture="", emotion="win")
    both = pd.concat([interview, gestures], ignore_index=True)
    scores = softmax(logits_of(gestures, 1))
    found = read_scores(dump(tmp_path / "a.pkl", gestures, scores, np.asarray), both, "gesture", "test")
    assert found.clip_ids.tolist() == gestures["clip_id"].tolist()
    frame = pd.DataFrame(scores, columns=[str(k) for k in range(K)]).assign(clip_id=gestures["clip_id"])
    frame.to_csv(tmp_path / "a.csv", index=False)
    assert len(read_scores(tmp_path / "a.csv", both, "gesture", "test")) == 12


def test_fitted_weights_are_those_of_the_lowest_log_loss(tmp_path: Path) -> None:
    val, test = clip_table(200, "val"), clip_table()
    table = pd.concat([val, test], ignore_index=True)
    files: dict[str, list[Path]] = {"val": [], "test": []}
    for i, strength in enumerate((1.0, 0.3, 0.0)):
        for split, part in (("val", val), ("test", test)):
            scores = softmax(
                np.random.default_rng([i, len(part)]).standard_normal((len(part), K)) + strength * logits_of(part, i)
            )
            files[split].append(dump(tmp_path / f"{split}{i}.pkl", part, scores, np.asarray))
    made = make_ensemble(
        files["test"], tmp_path / "runs", task="gesture", clips=table, fit=True, val_sources=files["val"]
    )
    tables = [read_scores(path, table, "gesture", "val") for path in files["val"]]
    labels = tables[0].labels

    def loss(weights: np.ndarray) -> float:
        mixed = np.einsum("m,mnk->nk", weights, np.stack([each.mean for each in tables]))
        return float(-np.log(mixed[np.arange(len(labels)), labels]).mean())

    grid = [np.array([a, b, 20 - a - b]) / 20 for a in range(21) for b in range(21 - a)]
    assert loss(np.array(made.weights)) <= min(map(loss, grid)) + 1e-9
    assert made.weights[0] > made.weights[2]
    assert made.weights == fit_weights(tables)
    assert "validation clips" not in made.text()  # 200 are enough for three
    with pytest.raises(EnsembleError, match=r"3 score file.* need as many of validation clips"):
        make_ensemble(files["test"], tmp_path / "runs", task="gesture", clips=table, fit=True)


def test_runs_and_ensembles_of_runs(tmp_path: Path) -> None:
    cache = planted_cache(tmp_path / "features", num_train=48, num_test=24)
    runs = [
        train_head(cache, "gesture", head=head, seeds=2, config=QUICK, runs=tmp_path / "runs", progress=False)
        for head in ("concat", "logistic")
    ]
    made = make_ensemble([run.path for run in runs], tmp_path / "runs", weights=[3, 1])
    means = [run.predictions().query("split == 'test'").groupby("clip_id")["p_1"].mean() for run in runs]
    found = made.run.predictions().set_index("clip_id")["p_1"].sort_index()
    assert found.to_numpy() == pytest.approx((0.75 * means[0] + 0.25 * means[1]).to_numpy(), abs=1e-5)
    assert "weights of video: imported" in made.text()
    assert made.run.metrics["test"].keys() == runs[0].metrics["test"].keys()  # by head, middle and tail too
    assert "middle_accuracy" in made.text()
    nested = make_ensemble([made.run.path, runs[0].path], tmp_path / "runs")
    assert nested.run.metrics["test"]["top1"]["mean"] >= 0
    with pytest.raises(RunError, match="is an ensemble and has no weights of its own"):
        evaluate_run(made.run.path, cache)
    fitted = make_ensemble([run.path for run in runs], tmp_path / "runs", fit=True)
    assert sum(fitted.weights) == pytest.approx(1)
    num_val = (runs[0].predictions().query("split == 'val'")["seed"] == 0).sum()
    assert f"warning: the weights of 2 sources were fitted on {num_val} validation clips" in fitted.text()


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.system, ("touch boom",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bomb.pkl").write_bytes(pickle.dumps([{"pred_score": Bomb()}]))
    with pytest.raises(ScoreError, match="which could run code; only plain data are read"):
        read_scores(Path("bomb.pkl"), clip_table(1), "gesture", "test")
    hidden = torch.nn.Linear(2, 2)  # a whole module inside
    Path("module.pkl").write_bytes(pickle.dumps([hidden]))
    with pytest.raises(ScoreError, match="which could run code"):
        read_scores(Path("module.pkl"), clip_table(1), "gesture", "test")
    assert not Path("boom").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entries: entries[:-1], "has 11 entries, but 12 test clips stand in the clip table"),
        (lambda entries: entries[::-1], r"entry 0 is of class 2, but test clip 0 of the table, 'test0', is of '0'"),
        (lambda entries: [{"gt_label": 1}, *entries[1:]], "entry 0 has no pred_score"),
        (lambda entries: [entries[0] | {"pred_score": np.ones(3)}, *entries[1:]], "entries have 3, 5 scores"),
        (lambda entries: [entries[0] | {"pred_score": np.full(K, np.nan)}, *entries[1:]], "is not finite"),
        (
            lambda entries: [e | {"pred_score": e["pred_score"][:4]} for e in entries],
            "but the clip table has class id 4",
        ),
        (lambda entries: [e | {"pred_score": e["pred_score"] * 10} for e in entries], "neither probabilities"),
        (lambda entries: [e | {"sample_idx": 0} for e in entries], "the sample_idx of its 12 entries are not 0 to 11"),
        (lambda entries: {"a": 1}, "not a list of results"),
        (lambda entries: [None] * 12, r"entry 0 has no pred_score \(it is None\)"),
        (lambda entries: [e | {"sample_idx": "first"} for e in entries], "sample_idx is 'first', not one whole number"),
        (lambda entries: [e | {"sample_idx": np.arange(2)} for e in entries], "sample_idx is array"),
        (lambda entries: [e | {"sample_idx": [0, 1]} for e in entries], r"sample_idx is \[0, 1\], not one"),
        (lambda entries: [e | {"sample_idx": float("nan")} for e in entries], "sample_idx is nan, not one"),
        (lambda entries: [e | {"sample_idx": {}} for e in entries], "sample_idx is {}, not one"),
        (lambda entries: [e | {"gt_label": float("inf")} for e in entries], "gt_label is inf, not one whole number"),
        (lambda entries: [e | {"gt_label": 10**30} for e in entries], "gt_label is 1000.*, not one whole number"),
        (lambda entries: [e | {"pred_score": [10**400, 1]} for e in entries], "entry 0 is not as mmaction2 dumps it"),
    ],
)
def test_score_files_that_do_not_fit_are_refused(tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    table = clip_table(12)
    path = dump(tmp_path / "scores.pkl", table, softmax(logits_of(table, 1)), np.asarray)
    path.write_bytes(pickle.dumps(change(pickle.loads(path.read_bytes()))))
    with pytest.raises(ScoreError, match=message):
        read_scores(path, table, "gesture", "test")


def test_weights_and_tasks_must_fit(tmp_path: Path) -> None:
    table = clip_table(12)
    path = dump(tmp_path / "scores.pkl", table, softmax(logits_of(table, 1)), np.asarray)
    with pytest.raises(RunError, match=r"2 source.*weights 1; give one weight each"):
        make_ensemble([path, path], tmp_path / "runs", task="gesture", weights=[1], clips=table)
    with pytest.raises(EnsembleError, match="say which with --task"):
        make_ensemble([path], tmp_path / "runs", clips=table)


def test_what_would_be_passed_over_is_refused(tmp_path: Path) -> None:
    table = clip_table(12)
    path = dump(tmp_path / "scores.pkl", table, softmax(logits_of(table, 1)), np.asarray)
    with pytest.raises(EnsembleError, match=r"\(--val\) serve to fit the weights; give --fit too"):
        make_ensemble([path], tmp_path / "runs", task="gesture", clips=table, val_sources=[Path("nosuch.pkl")])
    with pytest.raises(ScoreError, match="unknown scale 'zz'; known: auto, probability, logit"):
        make_ensemble([tmp_path], tmp_path / "runs", scale="zz")  # whatever the sources are
    cache = planted_cache(tmp_path / "features", num_train=48, num_test=24)
    run = train_head(cache, "gesture", head="constant", seeds=1, runs=tmp_path / "runs", progress=False)
    words = ["ensemble", "--cache", str(cache.path), "--runs", str(tmp_path / "runs")]
    for source in (run.path, path):
        done = CliRunner().invoke(app, [*words, str(source), "--task", "gesture", "--protocol", "qq"])
        assert isinstance(done.exception, CacheError)
        assert "no clip table of protocol 'qq'" in str(done.exception)
    done = CliRunner().invoke(app, [*words, str(run.path), "--protocol", "planted"])
    assert done.exit_code == 0, done.output
