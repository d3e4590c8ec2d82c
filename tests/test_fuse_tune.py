"""Searches: on validation clips alone, resumed, and the settings that they write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import clips_of, planted_cache
from typer.testing import CliRunner

from mgcli.cache import FeatureCache, MgcliError
from mgcli.cli import app
from mgcli.fuse import GridError, make_config, settings_of
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
    ("text", "message"),
    [
        ("width = [64, 96]\nlearning_rate = {low = 1, high = 0.1}", "learning_rate needs low below high"),
        ("dropout = {low = 0.0, high = 0.3, log = true}", "dropout needs low below high, and low above 0 with log"),
        ("dropout = 0.3", "must be a list of choices, or"),
        ("dropuot = [0.3]", "did you mean 'dropout'"),
        ("", "names no setting to search"),
        ("dropout = {low = 0.0, high = 1.3}", "dropout is 1.3; it must be at least 0 and below 1"),
        ("dropout = [0.1, 1.3]", "dropout is 1.3; it must be at least 0 and below 1"),
        ("num_layers = {low = 1, high = 4}", "num_layers is 1.0; it must be a whole number"),
        ('dropout = {low = "a", high = "b"}', "dropout has an end 'a'; low and high must be numbers"),
        ("learning_rate = {low = 1e-4, high = inf}", "learning_rate has an end inf"),
        (f"learning_rate = {{low = 1, high = 1{'0' * 400}}}", "learning_rate has an end 1000"),
        ("dropout = {low = false, high = true}", "dropout has an end False"),
        ('dropout = {low = 0.1, high = 0.2, log = "no"}', "dropout has log = 'no'; it must be true or false"),
        ("dropout = [[0.1], [0.2]]", r"dropout is \[0.1\]; it must be a number"),
        ("dropout = [1979-05-27]", "dropout is datetime.*; it must be a number"),
        ("folds = [2, 3]", "folds is no option of a grid, a search or a settings file; --folds K"),
        ("fold = {low = 0, high = 3}", "fold is no option of a grid"),
    ],
)
def test_spaces_that_make_no_sense(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "space.toml").write_text(text)
    with pytest.raises(TuneError, match=rf"space\.toml.*{message}"):
        read_space(tmp_path / "space.toml")


def test_choices_that_only_fit_together_are_read(tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text("width = [6, 9]\nnum_heads = [3]\ndropout = {low = 0, high = 0.9999}")
    space = read_space(tmp_path / "space.toml")
    assert space["width"].choices == (6, 9)
    assert max(space["dropout"].draw(np.random.default_rng(seed)) for seed in range(3000)) < 1  # rounded, and within


@pytest.mark.parametrize("how", ["random", "optuna"])
def test_settings_that_do_not_go_together_are_a_failed_trial(cache: FeatureCache, tmp_path: Path, how: str) -> None:
    if how == "optuna":
        pytest.importorskip("optuna")
    space = {"dropout": Range(low=0.0, high=1.9)}
    tuned = search(cache, tmp_path / "runs", search=how, space=space, trials=8)
    assert tuned.table is not None
    assert tuned.outcome.done
    assert tuned.outcome.failed
    for trial, why in tuned.outcome.failed.items():
        assert trial.startswith("trial dropout=1.")
        assert "it must be at least 0 and below 1" in why
    with pytest.raises(MgcliError, match="it must be at least 0 and below 1"):
        search(cache, tmp_path / "runs", search=how, space={"dropout": Range(low=1.2, high=1.9)})


@pytest.mark.parametrize("where", ["base", "space"])
def test_folds_are_no_setting_of_a_search(cache: FeatureCache, tmp_path: Path, where: str) -> None:
    given = {"base": TINY | {"folds": 3}} if where == "base" else {"space": {"folds": Range(choices=(2, 3))}}
    with pytest.raises(GridError, match="folds is no option of a grid, a search or a settings file"):
        search(cache, tmp_path / "runs", **given)


def test_the_command_keeps_what_it_found_where_the_tables_cannot_be_written(
    cache: FeatureCache, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["tune", "--task", "gesture", "--head", "concat", "--trials", "1", "--processes", "1", "--json"]
    words += ["--cache", str(cache.path), "--runs", str(tmp_path / "runs"), "--out", str(out)]
    words += [word for name, value in TINY.items() for word in ("--option", f"{name}={value}")]
    out.write_text("")
    refused = CliRunner().invoke(app, words)
    assert "is a file" in str(refused.exception)
    assert not (tmp_path / "runs").exists()
    out.unlink()
    (out / "settings.toml").mkdir(parents=True)
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, MgcliError)
    assert "cannot write the tables" in str(done.exception)
    assert len(json.loads(done.stdout)["rows"]) == 1


def test_an_unknown_search_is_refused(cache: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(TuneError, match="unknown search 'grid'; known: random, optuna"):
        search(cache, tmp_path / "runs", search="grid")
