"""Searches: on validation clips alone, resumed, and the settings that they write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import clips_of, planted_cache

from mgcli.cache import FeatureCache
from mgcli.fuse import TrainError, make_config, settings_of
from mgcli.fuse.grid import make_grid
from mgcli.fuse.tune import SPACE, Range, TuneError, read_space, tune, write_settings

TINY = {"epochs": 1, "min_steps": 2, "width": 8, "num_heads": 2}
RANGES = {"learning_rate": Range(low=1e-4, high=1e-2, log=True), "dropout": Range(choices=(0.0, 0.3))}


def search(cache: FeatureCache, runs: Path, table: Any = None, **settings: Any) -> Any:
    defaults: dict[str, Any] = {
        "grid": make_grid({"head": "concat", "seeds": 1}),
        "space": RANGES,
        "trials": 3,
        "base": TINY,
        "processes": 1,
    }
    return tune(cache, "gesture", cache.read_clips() if table is None else table, runs, **(defaults | settings))


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return planted_cache(tmp_path / "features", num_train=48, num_test=24)


@pytest.mark.parametrize("how", ["random", "optuna"])
def test_a_search_resumes_and_writes_settings(cache: FeatureCache, tmp_path: Path, how: str) -> None:
    if how == "optuna":
        pytest.importorskip("optuna")
    search(cache, tmp_path / "runs", search=how, trials=2)
    before = {path.name: path.stat().st_ino for path in (tmp_path / "runs").glob("gesture-*")}
    tuned = search(cache, tmp_path / "runs", search=how)
    after = {path.name: path.stat().st_ino for path in (tmp_path / "runs").glob("gesture-*")}
    assert len(before) == 2
    assert before.items() <= after.items()
    assert len(after) == 3
    assert tuned.table.rows[0].runs[0].name == tuned.best.name
    write_settings(tmp_path / "best.toml", tuned.best, "about")
    content = settings_of(tmp_path / "best.toml")
    assert (content["head"], content["modalities"]) == ("concat", "video,pose")
    assert make_config(content["options"]) == tuned.best.config


def test_test_clips_are_not_even_loaded(cache: FeatureCache, tmp_path: Path) -> None:
    tuned = search(cache, tmp_path / "runs", trials=1)
    run = tuned.table.rows[0].runs[0]
    assert run.config["clips"]["counts"]["test"] == {"clips": 0, "subjects": 0}
    assert set(run.predictions()["split"]) == {"val"}
    table = clips_of(cache)
    num_test = (table["split"] == "test").sum()
    said = tuned.table.text()
    assert f"the {num_test} test clips were set aside: settings are chosen by validation clips alone" in said
    assert "no test clips" not in said
    spoilt = table.assign(gesture=table["gesture"].where(table["split"] != "test", "0"))
    again = search(cache, tmp_path / "runs", table=spoilt, trials=1)
    assert again.best.name == tuned.best.name  # nothing of the test split decides anything


def test_draws_stay_in_their_space_and_are_settings() -> None:
    for seed in range(50):
        drawn = {name: each.draw(np.random.default_rng(seed)) for name, each in SPACE.items()}
        make_config(drawn)
        assert 2e-4 <= drawn["learning_rate"] <= 5e-3


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("width = [64, 96]\nlearning_rate = {low = 1, high = 0.1}", TuneError, "learning_rate needs low below high"),
        ("dropout = {low = 0.0, high = 0.3, log = true}", TuneError, "low above 0 with log"),
        ("dropout = 0.3", TuneError, "must be a list of choices, or"),
        ("dropuot = [0.3]", TrainError, "did you mean 'dropout'"),
        ("", TuneError, "names no setting to search"),
    ],
)
def test_spaces_that_make_no_sense(tmp_path: Path, text: str, error: type[Exception], message: str) -> None:
    (tmp_path / "space.toml").write_text(text)
    with pytest.raises(error, match=message):
        read_space(tmp_path / "space.toml")


def test_an_unknown_search_is_refused(cache: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(TuneError, match="unknown search 'grid'; known: random, optuna"):
        search(cache, tmp_path / "runs", search="grid")
