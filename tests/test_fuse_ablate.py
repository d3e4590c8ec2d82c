"""Ablation grids: what they plan, that no run is done twice or lost whatever stops them, and the tables they give."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from planted import planted_cache
from typer.testing import CliRunner

from mgcli.cache import CacheError, FeatureCache, MgcliError, open_cache
from mgcli.cli import app
from mgcli.fuse import GridError, HeadError, HeadOutput, Run, RunError, TrainError
from mgcli.fuse.ablate import Outcome, train_cells
from mgcli.fuse.ablate_table import AblationTable, ablation_table
from mgcli.fuse.folds import FoldError
from mgcli.fuse.grid import Cell, check_cells, groups, make_grid, plan_cells
from mgcli.fuse.grid_file import read_grid, settings_of
from mgcli.fuse.head_baselines import Concat
from mgcli.fuse.plan import make_plan

TINY: dict[str, Any] = {"epochs": 1, "min_steps": 2, "width": 8, "num_heads": 2}


class Stubborn(Concat):
    """A user's head that will not be trained with this width."""

    def forward(self, tokens: Any, mask: Any, time: Any) -> HeadOutput:
        if self.training and self.config.width == 4:
            raise RuntimeError("no")
        return super().forward(tokens, mask, time)


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return planted_cache(tmp_path / "features", num_train=48, num_test=24, num_subjects=(6, 6))


def plan(cache: FeatureCache, **content: Any) -> list[Cell]:
    options = TINY | content.pop("options", {})
    return plan_cells(cache, "gesture", make_grid({"seeds": 2, **content, "options": options}), cache.read_clips())


def train(cache: FeatureCache, cells: list[Cell], runs: Path, **settings: Any) -> Outcome:
    return train_cells(cache, "gesture", cells, cache.read_clips(), runs, **settings)


def table_of(cells: list[Cell], outcome: Outcome, runs: Path) -> AblationTable:
    return ablation_table("gesture", cells, outcome.done, runs)


# The grid


def test_everything_is_crossed_and_nothing_is_planned_twice(cache: FeatureCache) -> None:
    cells = plan(
        cache,
        head=["concat", "single_pose"],
        modalities=["video,pose", "pose,video"],
        folds=3,
        options={"learning_rate": [1e-3, 3e-3], "width": [8]},
    )
    assert len(cells) == (2 + 1) * 2 * 3  # single_pose reads pose, whatever else is named
    assert len({cell.name for cell in cells}) == len(cells)
    assert {cell.config.fold for cell in cells} == {0, 1, 2}
    by_one = groups(cells)
    assert [len({cell.head for cell in group}) for group in by_one] == [1, 1, 1]
    assert sum(map(len, by_one)) == len(cells)
    assert max(map(len, groups(cells, workers=4))) == 2


def test_a_key_changes_with_all_that_decides_a_run(cache: FeatureCache) -> None:
    def key(**content: Any) -> str:
        (cell,) = plan(cache, **{"head": "concat", **content})
        return cell.name

    table = cache.read_clips()
    keys = [key(), key(seeds=3), key(head="logistic"), key(modalities="pose,video"), key(options={"dropout": 0.2})]
    moved = table.assign(split=table["split"].where(table.index != 3, "val"))
    grid = make_grid({"seeds": 2, "head": "concat", "options": TINY})
    keys.append(plan_cells(cache, "gesture", grid, moved)[0].name)
    features = cache.feature_set("video")
    with features.writer() as writer:  # a clip more has tokens
        writer.add("c99999", np.ones((2, 8), np.float32))
    grown = pd.concat([table, table[-1:].assign(clip_id="c99999")], ignore_index=True)
    keys.append(plan_cells(cache, "gesture", grid, grown)[0].name)
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]


def test_a_key_changes_with_the_augmented_views_that_are_read(cache: FeatureCache) -> None:
    def key(views: int) -> str:
        return plan(cache, head="concat", options={"views": views})[0].name

    before = [key(0), key(1)]
    with cache.feature_set("pose").writer() as writer:
        writer.add("c00000", np.ones((2, 8), np.float32), view=1)
    assert before[0] == key(0)
    assert before[1] != key(1)


def test_options_that_a_head_does_not_read_are_said_once(cache: FeatureCache) -> None:
    told: list[str] = []
    cells = plan(cache, head=["constant", "concat"], options={"num_bottlenecks": [2, 3]})
    check_cells(cache, "gesture", cells, cache.read_clips(), told.append)
    assert len(told) == len(set(told)) == 2
    assert told[0].startswith("head 'constant' does not read width")


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ({"modalities": "video,face"}, CacheError, r"no tokens of 'face' .* Run: mgcli extract --modality face"),
        (
            {"options": {"learing_rate": [1]}},
            TrainError,
            "unknown setting 'learing_rate'; did you mean 'learning_rate'",
        ),
        ({"options": {"learning_rate": ["x"]}}, TrainError, "learning_rate is 'x'; it must be a number"),
        ({"options": {"dropout": []}}, GridError, "option dropout has no value"),
        ({"options": {"folds": [3]}}, GridError, "folds is no option of a grid"),
        ({"head": "conct"}, HeadError, "unknown head 'conct'; did you mean 'concat'"),
        ({"head": "single"}, MgcliError, "takes one modality, not video, pose"),
        ({"folds": 9}, FoldError, "6 training subject.* cannot be cut into 9 folds.* Ask for 6 folds or fewer"),
        ({"folds": "3"}, GridError, "folds is '3'; it must be a whole number"),
        ({"folds": 1}, GridError, "folds is 1; it must be a whole number, 2 or more, or 0 for none"),
        ({"folds": True}, GridError, "folds is True; it must be a whole number"),
        ({"head": 5}, GridError, "head is 5; it must be a name, such as 'concat', or a list of names"),
        ({"head": [["concat"]]}, GridError, r"head is \['concat'\]; it must be a name"),
        ({"head": {"a": 1}}, GridError, "head is {'a': 1}; it must be a name"),
        ({"options": {"dropout": {"a": 1}}}, TrainError, "dropout is {'a': 1}; it must be a number"),
        ({"seeds": {"a": 1}}, TrainError, "give how many"),
        ({"modalities": "video,"}, GridError, "modalities are named as 'video,pose', not 'video,'"),
        ({"seeds": [1, 1]}, TrainError, "give how many"),
        ({"modalities": [3]}, GridError, "modalities are named as 'video,pose', not 3"),
    ],
)
def test_grids_that_ask_for_what_there_is_not(
    cache: FeatureCache, content: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plan(cache, **content)


def test_grid_files_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    for text, message in (
        ("heads = ['concat']", "unknown key 'heads'; did you mean 'head'"),
        ("head = [", "is not valid TOML"),
        ("options = 3", r"options must be a section, \[options\]"),
    ):
        file.write_text(text)
        with pytest.raises(GridError, match=message):
            read_grid(file)
    with pytest.raises(GridError, match="cannot read"):
        read_grid(tmp_path / "absent.toml")
    file.write_text("head = ['concat', 'logistic']")
    with pytest.raises(GridError, match=r"head has several values; that is a grid, for mgcli ablate --grid"):
        settings_of(file)
    file.write_text("seeds = 3")
    with pytest.raises(GridError, match=r"seeds is no setting of a head; give --seeds"):
        settings_of(file)
    for text, message in (
        ("[options]\nfolds = 3", r"grid\.toml: folds is no option of a grid, a search or a settings file"),
        ("[options]\nfold = 1", r"grid\.toml: fold is no option"),
        ("head = 5", r"grid\.toml: head is 5; it must be text, such as 'concat'"),
        ("modalities = 5", r"grid\.toml: modalities is 5; it must be text, such as 'video,pose'"),
    ):
        file.write_text(text)
        with pytest.raises(GridError, match=message):
            settings_of(file)


def test_a_feature_set_that_no_run_reads_is_refused(cache: FeatureCache) -> None:
    fingerprint = cache.feature_set("video").spec.fingerprint
    grid = make_grid({"modalities": ["video,pose", "pose"], "head": ["concat", "single_pose"], "options": TINY})
    assert plan_cells(cache, "gesture", grid, cache.read_clips(), {"video": fingerprint})
    with pytest.raises(GridError, match=r"--features names 'vidoe', which no run reads .*; did you mean 'video'\?"):
        plan_cells(cache, "gesture", grid, cache.read_clips(), {"vidoe": fingerprint})
    usual = make_grid({"head": "concat", "options": TINY})
    with pytest.raises(MgcliError, match=r"--features names vidoe, .*; did you mean 'video'\?"):
        plan_cells(cache, "gesture", usual, cache.read_clips(), {"vidoe": fingerprint})


# Training


def test_a_grid_goes_on_where_it_was_and_repeats_nothing(cache: FeatureCache, tmp_path: Path) -> None:
    cells = plan(cache, head=["constant", "logistic", "concat"], folds=2)
    runs = tmp_path / "runs"
    first = train(cache, cells[:3], runs, processes=1)
    assert [cell.name for cell in first.done] == [cell.name for cell in cells[:3]]
    before = {cell.name: (runs / cell.name).stat().st_ino for cell in cells[:3]}
    (runs / f".tmp-{cells[3].name}").mkdir()  # what a killed training leaves behind
    second = train(cache, cells, runs, processes=1)
    assert len(second.done) == 6
    assert {name: (runs / name).stat().st_ino for name in before} == before
    assert make_plan(cache, cells, runs).to_json()["finished"] == 6
    assert sorted(p.name for p in runs.iterdir() if p.name.startswith("gesture-")) == sorted(c.name for c in cells)
    table = table_of(cells, second, runs)
    assert all(row.complete for row in table.rows)
    assert all(len(row.scores["val"]) == 48 for row in table.rows)  # every training clip, once
    scores = [row.metrics["val"]["top1"]["mean"] for row in table.rows]
    assert scores == sorted(scores, reverse=True)


def test_one_cell_that_fails_leaves_the_others(
    cache: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"width": [8, 4], "learning_rate": [1e-3]}
    cells = plan(cache, head=["test_fuse_ablate:Stubborn", "concat"], options=options)
    outcome = train(cache, cells, tmp_path / "runs", processes=1)
    assert len(outcome.done) == 3
    assert list(outcome.failed.values()) == ["RuntimeError: no"]
    assert "Traceback" in capsys.readouterr().err  # a bug keeps it
    diverging = plan(cache, head="concat", options={"learning_rate": [1e30], "grad_clip": [1e30], "epochs": [20]})
    (why,) = train(cache, diverging, tmp_path / "runs", processes=1).failed.values()
    assert "the loss is not a finite number from step" in why


def test_several_processes_give_what_one_gives(cache: FeatureCache, tmp_path: Path) -> None:
    cells = plan(cache, head=["concat", "constant"], options={"dropout": [0.0, 0.2]})
    tables = [
        table_of(cells, train(cache, cells, tmp_path / str(n), processes=n), tmp_path / str(n)).numbers()
        for n in (1, 2)
    ]
    pd.testing.assert_frame_equal(*tables)


def test_an_engine_that_there_is_not_is_refused(cache: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="unknown engine 'rya'; known: ray"):
        train(cache, plan(cache, head="constant"), tmp_path / "runs", engine="rya")


def test_a_file_in_place_of_the_claims_is_said(cache: FeatureCache, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/.claims").write_text("")
    with pytest.raises(RunError, match=r"\.claims is a file, where a folder is kept; remove it"):
        train(cache, plan(cache, head="constant"), tmp_path / "runs")


# Tables


def ablate(cache: FeatureCache, tmp_path: Path, *words: str) -> Result:
    """The command with one constant head, in this process."""
    own = ["ablate", "--task", "gesture", "--seeds", "1", "--processes", "1", "--json", "--cache", str(cache.path)]
    return CliRunner().invoke(app, [*own, "--runs", str(tmp_path / "runs"), *words])


def test_a_place_for_the_tables_that_will_not_do_is_found_out_first(cache: FeatureCache, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out, message in (("file", "is a file"), ("file/below", "is a file, or lies below one")):
        done = ablate(cache, tmp_path, "--head", "constant", "--out", str(tmp_path / out))
        assert isinstance(done.exception, CacheError)
        assert message in str(done.exception)
    done = ablate(cache, tmp_path, "--head", "constant", "--out", "/proc/x")
    assert "cannot write the tables to --out /proc/x" in str(done.exception)
    assert not (tmp_path / "runs").exists()


def test_tables_that_cannot_be_written_are_printed(cache: FeatureCache, tmp_path: Path) -> None:
    (tmp_path / "out/table.csv").mkdir(parents=True)
    done = ablate(cache, tmp_path, "--head", "constant", "--out", str(tmp_path / "out"))
    assert isinstance(done.exception, CacheError)
    assert "cannot write the tables to" in str(done.exception)
    assert [row["head"] for row in json.loads(done.stdout)["rows"]] == ["constant"]


def test_a_grid_that_fails_whole_says_so_in_json(cache: FeatureCache, tmp_path: Path) -> None:
    done = ablate(cache, tmp_path, "--head", "concat", "--option", "width=8", "--option", "device=cuda:99")
    assert done.exit_code == 3
    result = json.loads(done.stdout)
    assert result["rows"] == []
    (why,) = result["failed"].values()
    assert "cannot use device 'cuda:99'" in why


def test_tables_are_escaped_and_every_row_says_what_to_know(cache: FeatureCache, tmp_path: Path) -> None:
    cells = plan(cache, head=["constant", "logistic"])
    notes = ["50 % synthetic | made_up"]
    outcome = train(cache, cells, tmp_path / "runs", processes=1, notes=notes)
    table = table_of(cells, outcome, tmp_path / "runs")
    csv, markdown, latex = table.write(tmp_path / "out")
    numbers = pd.read_csv(csv)
    assert {"seeds", "weights", "protocol", "warnings", "p_subjects_holm", "val_top1_mean"} <= set(numbers)
    assert set(numbers["warnings"]) == {"50 % synthetic | made_up"}
    assert (numbers["test_top1_low"] <= numbers["test_top1_mean"]).all()
    widths = {line.count("|") for line in markdown.read_text().splitlines() if line.startswith("|")}
    assert len(widths) == 1
    assert "Note 1: 50 % synthetic | made_up" in markdown.read_text()
    body = [line for line in latex.read_text().splitlines() if not line.startswith("%")]
    assert r"val top1" in latex.read_text()
    assert not any("_" in line.replace(r"\_", "") for line in body)
    assert len({line.count("&") for line in body if line.endswith(r"\\")}) == 1
    assert table.to_json()["rows"][1]["paired"]["num_subjects"] == 6


def test_folds_that_are_not_finished_are_marked_and_not_compared(cache: FeatureCache, tmp_path: Path) -> None:
    cells = plan(cache, head=["constant", "logistic", "concat"], folds=2)
    outcome = train(cache, cells[:5], tmp_path / "runs", processes=1)
    table = ablation_table("gesture", cells, outcome.done, tmp_path / "runs")
    assert [row.complete for row in table.rows] == [True, True, False]
    assert "1/2 (unfinished)" in table.text()
    assert list(table.tests) == [table.rows[1].name]


# Kills

GRID = """
head = ["constant", "logistic", "concat"]
seeds = 2
folds = 2
[options]
epochs = 2
min_steps = 40
width = 16
num_heads = 2
learning_rate = [1e-3, 2e-3]
"""


def start_ablate(folder: Path, runs: str, processes: int = 2) -> subprocess.Popen[bytes]:
    words = ["ablate", "--task", "gesture", "--grid", "grid.toml", "--runs", runs, "--out", f"{runs}/out"]
    return subprocess.Popen(
        [sys.executable, "-m", "mgcli.cli", *words, "--processes", str(processes)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def finished(runs: Path) -> dict[str, int]:
    """Finished run -> what tells this folder from one that was made anew."""
    return {each.parent.name: each.stat().st_mtime_ns for each in runs.glob("gesture-*/metrics.json")}


def kill_and_compare(folder: Path, kills: int, processes: int) -> None:
    """An undisturbed grid and one that is killed so often: the same tables, and no finished run made anew."""
    (folder / "grid.toml").write_text(GRID)
    assert start_ablate(folder, "calm", processes).wait() == 0
    rng = np.random.default_rng(0)
    seen: dict[str, int] = {}
    hits = 0
    for number in range(kills):
        process = start_ablate(folder, "killed", processes)
        wanted = len(seen) + int(rng.integers(2))  # at a random moment after none or one run more
        while process.poll() is None and len(finished(folder / "killed")) < wanted:
            time.sleep(0.01)
        if wanted == len(seen):
            time.sleep(rng.uniform(0.5, 4))
        time.sleep(rng.uniform(0, 0.2))
        hits += process.poll() is None
        if number % 2 and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()  # its workers must end by themselves
        process.wait()
        now = finished(folder / "killed")
        assert seen.items() <= now.items(), "a finished run was lost or done again"
        seen = now
    assert hits >= kills / 2
    assert start_ablate(folder, "killed", processes).wait() == 0
    assert seen.items() <= finished(folder / "killed").items()
    assert len(finished(folder / "killed")) == 12
    for name in ("table.csv", "table.md", "table.tex"):
        assert (folder / "killed/out" / name).read_bytes() == (folder / "calm/out" / name).read_bytes()


def test_a_killed_grid_gives_the_same_table(cache: FeatureCache, tmp_path: Path) -> None:
    kill_and_compare(tmp_path, kills=1, processes=1)


@pytest.mark.faults
def test_a_grid_that_is_killed_ten_times_gives_the_same_table(cache: FeatureCache, tmp_path: Path) -> None:
    kill_and_compare(tmp_path, kills=10, processes=2)


@pytest.mark.faults
def test_two_commands_share_a_grid(cache: FeatureCache, tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(GRID)
    both = [start_ablate(tmp_path, "runs") for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert len(finished(tmp_path / "runs")) == 12


def test_ctrl_c_writes_the_table_of_what_is_finished(cache: FeatureCache, tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(
        GRID.replace("min_steps = 40", "min_steps = 3000\nepochs = 600").replace("epochs = 2\n", "", 1)
    )
    process = start_ablate(tmp_path, "runs")
    while process.poll() is None and len(finished(tmp_path / "runs")) < 2:  # the constants; concat takes longer
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert len(pd.read_csv(tmp_path / "runs/out/table.csv")) >= 1
    assert Run.load(next((tmp_path / "runs").glob("gesture-constant-*")))
    open_cache(tmp_path / "features")
