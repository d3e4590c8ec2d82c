"""Run folders, heads and tokens that are not what they should be: found, named, and never scored in silence."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from planted import QUICK, planted_cache
from safetensors.torch import load_file, save_file
from test_fuse_ablate import plan, table_of, train
from test_fuse_replicas import DIMS, even_clips, fit_alone, fit_together, make_replicas
from torch import nn

from mgcli.cache import FeatureCache
from mgcli.fuse import HeadError, HeadOutput, Run, RunError, create_head, evaluate_run, predict_run, train_head
from mgcli.fuse.head import head_class
from mgcli.fuse.head_baselines import Concat
from mgcli.fuse.reproduce import reproduce_run
from mgcli.fuse.source_hash import source_hash
from mgcli.fuse.watch import LossNotFiniteError


@pytest.fixture
def run(planted: FeatureCache, tmp_path: Path) -> Run:
    return train_head(planted, "gesture", head="concat", seeds=2, config=QUICK, runs=tmp_path / "runs", progress=False)


# Run folders


def without_lines(text: str, number: int) -> str:
    return "\n".join(text.splitlines()[:-number]) + "\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", "No columns to parse"),
        (lambda text: without_lines(text, 7), r"seed 1 answers \d+ of \d+ test clips"),
        (lambda text: text + text.splitlines()[-1] + "\n", "a clip has two answers of one seed"),
        (lambda text: text.replace("p_0", "p_zero", 1), "it has no column 'p_0'"),
        (lambda text: text[: text.rindex(",")] + ",nan\n", "some probabilities are no numbers"),
        (lambda text: text[: text.rindex(",")] + ",much\n", "some probabilities are no numbers"),
        (lambda text: text + "1,2,3,4,5,6,7,8,9,10,11,12,13,14\n", "Error tokenizing"),
    ],
)
def test_predictions_that_are_not_the_runs_are_refused(run: Run, change: Callable[[str], str], message: str) -> None:
    file = run.path / "predictions.csv"
    file.write_text(change(file.read_text()))
    with pytest.raises(RunError, match=rf"predictions.csv is damaged: .*{message}.*; train the run again"):
        run.predictions()


def test_weights_that_are_no_numbers_reproduce_and_predict_nothing(run: Run, planted: FeatureCache) -> None:
    file = run.path / "head-seed1.safetensors"
    state = load_file(file)
    state["classify.1.weight"][0, 0] = float("nan")
    save_file(state, file)
    report = reproduce_run(run, planted, progress=False)
    assert report.same_scores
    assert not report.ok
    assert "the weights that it keeps of seed 1 are damaged" in report.text()
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["largest_weight_difference"]["1"] is None
    for judge in (predict_run, evaluate_run):
        with pytest.raises(RunError, match=r"seed 1 of .* answers clip '.*' with no number: its weights are damaged"):
            judge(run, planted)


def test_weights_of_another_head_reproduce_nothing(run: Run, planted: FeatureCache, tmp_path: Path) -> None:
    other = train_head(planted, "gesture", seeds=1, config=QUICK, runs=tmp_path / "other", progress=False)
    shutil.copy(other.path / "head-seed0.safetensors", run.path / "head-seed0.safetensors")
    assert not reproduce_run(run, planted, progress=False).ok


@pytest.mark.parametrize("taken", ["half a folder", "a file"])
def test_what_stands_in_a_cells_way_is_found_before_the_training(tmp_path: Path, taken: str) -> None:
    cache, runs = planted_cache(tmp_path / "features", num_train=48, num_test=24), tmp_path / "runs"
    cells = plan(cache, head=["concat", "single_pose"])
    place = runs / cells[0].name
    runs.mkdir()
    place.write_text("") if taken == "a file" else place.mkdir()
    outcome = train(cache, cells, runs, processes=1)
    assert [cell.name for cell in outcome.done] == [cells[1].name]
    assert outcome.failed[place.name].startswith(f"{place} is in the way and no whole run; delete it")
    assert place.exists()


@pytest.mark.parametrize("file", ["metrics.json", "predictions.csv"])
def test_a_damaged_run_costs_its_own_row_of_a_table(tmp_path: Path, file: str) -> None:
    cache, runs = planted_cache(tmp_path / "features", num_train=48, num_test=24), tmp_path / "runs"
    cells = plan(cache, head=["concat", "single_pose"])
    outcome = train(cache, cells, runs, processes=1)
    (runs / cells[0].name / file).write_text('{"metrics": ')
    table = table_of(cells, outcome, runs)
    assert [row.label for row in table.rows] == ["single_pose"]
    assert list(table.damaged) == [cells[0].name]
    outcome.lose(table.damaged)
    assert ([cell.name for cell in outcome.done], list(outcome.failed)) == ([cells[1].name], [cells[0].name])
    assert f"delete {runs / cells[0].name} and run the same command again" in table.damaged[cells[0].name]
    (runs / cells[1].name / file).write_text("")
    assert not table_of(cells, outcome, runs).rows  # nothing that is done can be read


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": [0, 1]}, "its 'classes' must be different texts"),
        ({"classes": []}, "its 'classes' must be different texts"),
        ({"seeds": []}, "its 'seeds' must be whole numbers"),
        ({"seeds": [True]}, "its 'seeds' must be whole numbers"),
        ({"class_groups": {"head": "0"}}, "its 'class_groups.head' must be a list"),
        ({"class_groups": {"head": ["nod"]}}, "its 'class_groups.head' has a class that is not among its 'classes'"),
        ({"clips": {"counts": {"test": 5}, "drawn_val_subjects": []}}, "it has no key 'clips.counts.test.clips'"),
        ({"config": {"max_tokens": -3, "head": {}}}, "its 'config.max_tokens' must be 1 or more"),
    ],
)
def test_a_config_that_was_edited_by_hand_is_refused(run: Run, change: dict[str, Any], message: str) -> None:
    content = json.loads((run.path / "config.json").read_text())
    (run.path / "config.json").write_text(json.dumps(content | change))
    with pytest.raises(RunError, match=f"config.json is damaged: {message}"):
        Run.load(run.path)


# A user's own heads


class TooManyClasses(Concat):
    def __init__(self, dims: Any, num_classes: int, config: Any) -> None:
        super().__init__(dims, num_classes + 1, config)
        self.num_classes = num_classes


class BareTensor(Concat):
    def forward(self, tokens: Any, mask: Any, time: Any) -> Any:
        return super().forward(tokens, mask, time).logits


class OneScore(Concat):
    def forward(self, tokens: Any, mask: Any, time: Any) -> HeadOutput:
        return HeadOutput(super().forward(tokens, mask, time).logits[:, :1])


class NarrowAnswer(Concat):
    def forward(self, tokens: Any, mask: Any, time: Any) -> HeadOutput:
        logits = super().forward(tokens, mask, time).logits
        return HeadOutput(logits, {"pose": logits[:, :1]})


class UnknownAnswer(Concat):
    def forward(self, tokens: Any, mask: Any, time: Any) -> HeadOutput:
        logits = super().forward(tokens, mask, time).logits
        return HeadOutput(logits, {"smell": logits})


class Frozen(Concat):
    def __init__(self, dims: Any, num_classes: int, config: Any) -> None:
        super().__init__(dims, num_classes, config)
        self.requires_grad_(False)


class CannotBeMade(Concat):
    def __init__(self, dims: Any, num_classes: int, config: Any) -> None:
        super().__init__(dims, num_classes, config)
        self.classify.append(nn.Linear(dims["smell"], num_classes))


class CannotAnswer(Concat):
    def forward(self, tokens: Any, mask: Any, time: Any) -> HeadOutput:
        raise ValueError("no answer\nat all")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (TooManyClasses, r"gives logits of shape \(2, 5\) for 2 clips and 4 classes"),
        (BareTensor, "gives Tensor, not a HeadOutput"),
        (OneScore, r"gives logits of shape \(2, 1\)"),
        (NarrowAnswer, r"gives pose of shape \(2, 1\)"),
        (UnknownAnswer, "gives an answer of modality 'smell' by itself, which it does not read"),
        (Frozen, "has no parameter to train"),
        (CannotBeMade, "fails: KeyError: 'smell'"),
        (CannotAnswer, "fails: ValueError: no answer$"),
    ],
)
def test_a_head_that_does_not_answer_as_a_head_must_is_named(kind: type, message: str) -> None:
    name = f"test_fuse_damage:{kind.__name__}"
    with pytest.raises(HeadError, match=f"head '{name}' {message}"):
        create_head(name, DIMS, 4)


def test_a_head_is_all_the_files_that_it_is_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "own_heads"
    package.mkdir()
    files = {
        tmp_path / "own_heads" / "__init__.py": "",
        tmp_path / "own_heads" / "mine.py": "from .parts import Base\n\n\nclass Mine(Base):\n    pass\n",
        tmp_path / "own_heads" / "parts.py": "import own_scale\nfrom mgcli.fuse.head_baselines import Concat as Base\n",
        tmp_path / "own_scale.py": "SCALE = 1.0\n",
        tmp_path / "own_other.py": "SCALE = 1.0\n",
    }
    for file, text in files.items():
        file.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    kind = head_class("own_heads.mine:Mine")
    seen = {source_hash(kind)}
    (tmp_path / "own_other.py").write_text("SCALE = 2.0\n")
    assert seen == {source_hash(kind)}
    for file in list(files)[:-1]:
        file.write_text(f"{files[file]}# changed\n")
        seen.add(source_hash(kind))
    assert len(seen) == len(files)
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


# Tokens


@pytest.mark.parametrize("together", [False, True])
def test_tokens_that_are_no_numbers_are_named_where_the_loss_is_none(together: bool) -> None:
    clips = even_clips(DIMS, 60)
    train_rows, val = torch.arange(30), torch.arange(30, 60)
    (replica,) = make_replicas("concat", clips, [{}], train_rows, val, width=8, epochs=2, min_steps=1)
    tokens = clips.modalities["pose"].tokens
    assert isinstance(tokens, torch.Tensor)
    tokens[7, 3] = float("nan")
    message = (
        "the pose tokens of the training clips hold numbers that are not finite; find them with: mgcli cache verify"
    )
    if together:
        error = fit_together([replica], clips)[0].error
        assert error is not None
        assert message in str(error)
    else:
        with pytest.raises(LossNotFiniteError, match=message):
            fit_alone(replica, clips)
