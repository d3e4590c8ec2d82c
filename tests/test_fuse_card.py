"""The model card: every run has one, and all that it says stands in the run's own files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mgcli.cache import FeatureCache
from mgcli.fuse import Run, make_config, make_ensemble, predict_run, train_head
from mgcli.fuse.card import CARD_FILE, model_card

TINY: dict[str, Any] = {"epochs": 1, "min_steps": 1}


@pytest.fixture
def run(planted: FeatureCache, tmp_path: Path) -> Run:
    config = make_config(TINY | {"width": 32})
    return train_head(planted, "gesture", head="concat", seeds=2, config=config, runs=tmp_path / "runs", progress=False)


def section(card: str, title: str) -> str:
    found = re.search(rf"^## {title}\n\n(.*?)(?=\n\n## |\Z)", card, flags=re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1]


def test_a_card_says_what_the_run_recorded(run: Run) -> None:
    card = (run.path / CARD_FILE).read_text(encoding="utf-8")
    assert card == model_card(Run.load(run.path))
    what = section(card, "What it is")
    assert "The head `concat` for the task gesture" in what
    assert "with seed 0, 1" in what
    assert "`epochs=1`, `min_steps=1`, `width=32`." in what
    counts = run.config["clips"]["counts"]
    assert all(f"| {split} | {n['clips']} | {n['subjects']} |" in section(card, "Data") for split, n in counts.items())
    low, high = run.intervals["test"]["top1"]
    assert f"[{100 * low:.1f}, {100 * high:.1f}]" in section(card, "Scores")
    assert "calibration, fitted on val" in section(card, "Scores")
    for modality, about in run.config["features"].items():
        assert re.search(rf"\| {modality} \|.*`{about['feature_set']}`", section(card, "What it was made from"))
    assert all(f"* {text}" in section(card, "Warnings") for text in run.config["warnings"])


def test_the_python_of_a_card_runs(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", model_card(run), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["predictions"].equals(predict_run(run, tmp_path / "features"))


def test_a_run_of_before_has_no_card_and_still_loads(run: Run) -> None:
    (run.path / CARD_FILE).unlink()
    config = json.loads((run.path / "config.json").read_text())
    for about in config["features"].values():
        del about["licence"]
    (run.path / "config.json").write_text(json.dumps(config))
    assert "| unknown |" in model_card(Run.load(run.path))


def test_an_ensemble_has_a_card_of_its_own(run: Run, tmp_path: Path) -> None:
    made = make_ensemble([run.path, run.path], tmp_path / "runs", weights=[1.0, 3.0])
    card = (made.run.path / CARD_FILE).read_text(encoding="utf-8")
    assert f"* 0.75 x concat: `{run.path}`" in section(card, "What it is")
    assert "mgcli submit" in section(card, "How to use it")
    assert "mgcli reproduce" not in card
