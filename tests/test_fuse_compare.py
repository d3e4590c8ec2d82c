"""A head beside its baselines: all of them, on the same clips, the same however many are trained at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from planted import planted_cache

from mgcli.fuse import (
    HeadError,
    Run,
    TaskError,
    compare_heads,
    compare_runs,
    describe_heads,
    evaluate_run,
    make_config,
    results_table,
    train_head,
)
from mgcli.fuse.head_baselines import Concat


def test_every_baseline_stands_beside_the_head_whatever_the_number_of_processes(tmp_path: Path) -> None:
    cache = planted_cache(tmp_path / "features", num_train=48, num_test=24)
    threads = torch.get_num_threads()
    config = make_config({"epochs": 2, "min_steps": 4, "width": 16})
    by_one, by_two = (
        compare_heads(cache, "gesture", seeds=1, runs=tmp_path / "runs", config=config, processes=processes)
        for processes in (1, 2)
    )
    assert [run.label for run in by_one] == [
        "constant",
        "single_video",
        "single_pose",
        "logistic",
        "score_average",
        "concat",
        "cross_modal_token_fusion",
    ]
    assert [run.metrics for run in by_two] == [run.metrics for run in by_one]
    assert torch.get_num_threads() == threads
    table = results_table(by_one)
    assert all(run.label in table for run in by_one)


def test_runs_of_one_head_are_each_compared_and_told_apart(tmp_path: Path) -> None:
    cache = planted_cache(tmp_path / "features", num_train=48, num_test=24)

    def trained(head: str, **options: Any) -> Run:
        config = make_config({"epochs": 1, "min_steps": 2, "width": 8, **options})
        return train_head(cache, "gesture", head=head, seeds=1, runs=tmp_path / "runs", config=config, progress=False)

    run, low, high, single = (
        trained("logistic"),
        trained("concat", dropout=0.0),
        trained("concat", dropout=0.3),
        trained("single_video"),
    )
    report = compare_runs(run, [low, high, single])
    assert report.head == "logistic"
    assert [each.against for each in report.tests] == ["concat (dropout=0.0)", "concat (dropout=0.3)", "single_video"]
    assert "corrected for 3 comparison(s)" in report.text()
    same = compare_runs(low, [trained("concat", dropout=0.0), high])
    assert len(same.tests) == 2
    assert same.head == low.name  # nothing but the folder tells them apart


def test_every_head_says_what_it_is() -> None:
    assert all(row["about"].endswith(".") for row in describe_heads())


class OwnHead(Concat):
    """A head that a user wrote."""


def test_a_head_of_the_users_own_is_trained_and_read_back(tmp_path: Path) -> None:
    cache = planted_cache(tmp_path / "features", num_train=48, num_test=24)
    config = make_config({"epochs": 2, "min_steps": 4})
    name = "test_fuse_compare:OwnHead"
    run = train_head(cache, "gesture", head=name, seeds=1, runs=tmp_path / "runs", config=config, progress=False)
    assert run.label == name
    assert evaluate_run(Run.load(run.path), cache).metrics["top1"] == run.metrics["test"]["top1"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("inter_fuson", "unknown head 'inter_fuson'; did you mean 'inter_fusion'"),
        ("absent_module:Head", "no head at 'absent_module:Head'.*write it as package.module:Class"),
        ("mgcli.fuse.head:HeadConfig", "is not a subclass of mgcli.fuse.FusionHead"),
    ],
)
def test_a_head_that_is_none_is_refused(tmp_path: Path, name: str, message: str) -> None:
    cache = planted_cache(tmp_path / "features", num_train=48, num_test=24)
    with pytest.raises(HeadError, match=message):
        train_head(cache, "gesture", head=name, seeds=1, runs=tmp_path / "runs", progress=False)


def test_a_single_head_takes_its_own_modality_out_of_those_named(tmp_path: Path) -> None:
    cache = planted_cache(tmp_path / "features", num_train=48, num_test=24)
    settings: dict[str, Any] = {
        "seeds": 1,
        "runs": tmp_path / "runs",
        "config": make_config({"epochs": 1, "min_steps": 2}),
    }
    run = train_head(cache, "gesture", head="single_pose", modalities=["video", "pose"], progress=False, **settings)
    assert (run.label, run.modalities) == ("single_pose", ["pose"])
    with pytest.raises(TaskError, match="head 'single_pose' reads 'pose'; --modalities says video"):
        train_head(cache, "gesture", head="single_pose", modalities=["video"], progress=False, **settings)
