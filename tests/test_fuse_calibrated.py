"""Predictions with the temperature and the threshold that a run's validation clips ask for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planted import QUICK, planted_cache
from typer.testing import CliRunner

from mgcli.cache import FeatureCache
from mgcli.cli import app
from mgcli.fuse import Run, RunError, answered, predict_run, threshold_for, train_head
from mgcli.fuse.calibration import fit_threshold, with_temperature


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return planted_cache(tmp_path_factory.mktemp("cache") / "features", task="emotion", amplitude=2.0)


@pytest.fixture(scope="module")
def run(cache: FeatureCache, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_head(cache, "emotion", head="gated", seeds=2, config=QUICK, runs=tmp_path_factory.mktemp("runs"))


def of_split(run: Run, split: str) -> tuple[np.ndarray, np.ndarray]:
    """True classes (n,), and the mean over seeds of scaled probabilities of a win (n,), from the run's own files."""
    table = run.predictions()
    table = table[table["split"] == split]
    scaled = [
        with_temperature(table.loc[table["seed"] == seed, ["p_lose", "p_win"]].to_numpy(), temperature)[:, 1]
        for seed, temperature in zip(run.config["seeds"], run.calibration["temperature"], strict=True)
    ]
    return table.loc[table["seed"] == 0, "true"].to_numpy(), np.mean(scaled, axis=0)


def test_each_seed_is_scaled_by_its_own_temperature(cache: FeatureCache, run: Run) -> None:
    found = predict_run(run, cache, split="test", calibrated=True)
    assert found["p_win"].to_numpy() == pytest.approx(of_split(run, "test")[1], abs=1e-4)
    assert np.abs(found["p_win"] - predict_run(run, cache, split="test")["p_win"]).max() > 1e-3


@pytest.mark.parametrize("prior", [None, 0.1, 0.9])
def test_the_threshold_is_fitted_on_validation_clips_for_the_prior(run: Run, prior: float | None) -> None:
    true, positive = of_split(run, "val")
    expected = fit_threshold((true == "win").astype(int), positive, 0.5 if prior is None else prior)
    assert threshold_for([run], prior=prior) == pytest.approx(expected, abs=1e-5)
    assert threshold_for([run, run], [2.0, 1.0], prior) == pytest.approx(expected, abs=1e-5)


def test_the_command_answers_by_the_threshold(cache: FeatureCache, run: Run, tmp_path: Path) -> None:
    wins = {}
    for words in (("--calibrated",), ("--calibrated", "--prior", "0.95"), ("--calibrated", "--prior", "0.05")):
        out = tmp_path / "predictions.csv"
        done = CliRunner().invoke(
            app, ["predict", str(run.path), "--cache", str(cache.path), "--out", str(out), *words]
        )
        assert done.exit_code == 0, done.output
        table = pd.read_csv(out)
        threshold = threshold_for([run], prior=float(words[2]) if len(words) > 1 else None)
        assert threshold is not None
        assert ((table["predicted"] == "win") == (table["p_win"] >= threshold)).mean() > 0.99  # rounded in the file
        wins[words[-1]] = int((table["predicted"] == "win").sum())
    assert wins["0.05"] <= wins["--calibrated"] <= wins["0.95"]
    assert wins["0.05"] < wins["0.95"]


def test_more_classes_get_a_temperature_and_no_threshold(tmp_path: Path) -> None:
    cache = planted_cache(tmp_path / "features", rule="product")
    run = train_head(cache, "gesture", head="gated", seeds=1, config=QUICK, runs=tmp_path / "runs")
    assert threshold_for([run]) is None
    plain, calibrated = (predict_run(run, cache, calibrated=each) for each in (False, True))
    assert plain["predicted"].equals(calibrated["predicted"])
    assert answered(calibrated, run.config["classes"], None) is calibrated
    with pytest.raises(RunError, match=r"a prior is for two classes, and .* knows 4"):
        threshold_for([run], prior=0.3)


@pytest.mark.parametrize("prior", [0.0, 1.0, -1.0, float("nan")])
def test_a_prior_that_is_no_share_is_refused(run: Run, prior: float) -> None:
    with pytest.raises(RunError, match="it is a share of the clips, between 0 and 1"):
        threshold_for([run], prior=prior)


def test_a_prior_without_calibration_is_wrong_usage(run: Run) -> None:
    done = CliRunner().invoke(app, ["predict", str(run.path), "--prior", "0.3"])
    assert done.exit_code == 2
    assert "--prior is for the threshold of --calibrated" in done.output


def test_a_run_without_temperatures_says_so(cache: FeatureCache, run: Run, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for file in run.path.iterdir():
        (old / file.name).write_bytes(file.read_bytes())
    metrics = json.loads((old / "metrics.json").read_text())
    del metrics["calibration"]
    (old / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(RunError, match="keeps no temperature of its seeds; train the run again"):
        predict_run(old, cache, calibrated=True)
