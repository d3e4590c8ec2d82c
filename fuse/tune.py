"""Searching for settings on validation clips alone: the test clips are taken out of the table before anything is read.

A trial is a cell as of `ablate`, so that a search that was stopped goes on: the same seed proposes the same trials,
and those with a run folder are not trained again.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mgcli.cache import FeatureCache, MgcliError, committed_file, warn, writing
from mgcli.fuse.ablate import Outcome, train_cells
from mgcli.fuse.ablate_table import AblationTable, ablation_table
from mgcli.fuse.grid import Cell, Grid, check_cells, plan_cells
from mgcli.fuse.grid_file import refuse_folds
from mgcli.fuse.selection import TEST_SET_ASIDE
from mgcli.fuse.settings import check_kind, make_config
from mgcli.fuse.task import TASKS

SEARCHES = ("random", "optuna")
_LARGEST = 1e300  # of a range: a difference must not overflow
_TOGETHER = ("width", "num_heads")  # whether a choice of one will do, the other says


class TuneError(MgcliError):
    """A search that cannot start."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from low to high, evenly or evenly on a logarithmic scale; or some choices."""

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()

    def draw(self, rng: np.random.Generator) -> Any:
        """One value."""
        if self.choices:
            return self.choices[int(rng.integers(len(self.choices)))]
        if self.log:
            return self.rounded(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return self.rounded(rng.uniform(self.low, self.high))

    def rounded(self, value: float) -> float:
        """Three digits, within the range: as good a setting, and one that can be read and typed."""
        return min(max(float(f"{value:.3g}"), self.low), self.high)


SPACE: dict[str, Range] = {  # what a search varies unless a file says otherwise
    "learning_rate": Range(low=2e-4, high=5e-3, log=True),
    "weight_decay": Range(low=1e-3, high=0.3, log=True),
    "dropout": Range(low=0.0, high=0.4),
    "label_smoothing": Range(low=0.0, high=0.15),
    "token_dropout": Range(low=0.0, high=0.3),
    "modality_dropout": Range(low=0.0, high=0.3),
    "width": Range(choices=(48, 96, 192)),
    "num_layers": Range(choices=(1, 2, 3)),
}


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A finished or stopped search."""

    table: AblationTable | None  # of the finished trials, best first
    outcome: Outcome
    best: Cell | None  # of the best trial


def tune(
    cache: FeatureCache,
    task: str,
    table: pd.DataFrame,
    runs: Path,
    *,
    grid: Grid,
    space: Mapping[str, Range] | None = None,
    search: str = "random",
    trials: int = 30,
    seed: int = 0,
    features: Mapping[str, str] | None = None,
    base: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    processes: int | None = None,
    replicas: str = "auto",
) -> Tuned:
    """Train so many trials and rank them by their validation score.

    Args:
        cache: where the tokens are.
        task: gesture or emotion.
        table: the clip table; of its test clips nothing is looked at but whether they leak into the others.
        runs: folder of the runs.
        grid: one head, one choice of modalities, the seeds and the folds of every trial.
        space: setting -> its range; by default SPACE.
        search: random, or optuna (its tree-structured Parzen estimator, one trial after another).
        trials: how many.
        seed: of the search.
        features: modality -> fingerprint or backbone.
        base: settings of every trial.
        notes: what to warn of wherever a result is shown.
        processes: trials trained at a time by a random search.
        replicas: whether trials of one architecture are trained together: on, off, or auto: on a GPU.

    Raises:
        MgcliError: the cache or the table does not allow it, or no trial can be trained. Settings of one trial that do
            not go together are a failed trial.
    """
    if search not in SEARCHES:
        raise TuneError(f"unknown search {search!r}; known: {', '.join(SEARCHES)}")
    space = SPACE if space is None else space
    own = table[table["split"] != "test"].reset_index(drop=True)
    own.attrs[TEST_SET_ASIDE] = len(table) - len(own)
    planned: list[Cell] = []
    refused: dict[str, MgcliError] = {}  # a trial that cannot be planned -> why

    def plan(settings: Mapping[str, Any]) -> list[Cell]:
        """The cells of one trial; none where it was planned already, or cannot be."""
        one = replace(grid, options={name: (value,) for name, value in settings.items()})
        row = planned[-1].row + 1 if planned else 0
        known = {cell.name for cell in planned}
        say = _nothing if planned or refused else warn
        try:
            cells = [replace(cell, row=row) for cell in plan_cells(cache, task, one, own, features, base, say)]
        except MgcliError as error:
            refused[f"trial {', '.join(f'{name}={value}' for name, value in settings.items())}"] = error
            return []
        if not planned:
            check_cells(cache, task, cells, table)
        return [cell for cell in cells if cell.name not in known]

    def train(cells: Sequence[Cell]) -> Outcome:
        return train_cells(cache, task, cells, own, runs, notes=notes, processes=processes, replicas=replicas)

    if search == "random":
        for settings in _random_trials(space, trials, seed):
            planned += plan(settings)
        outcome = train(planned) if planned else Outcome()
    else:
        outcome = _optuna_trials(space, trials, seed, task, runs, planned, plan, train)
    if refused and not planned:
        raise next(iter(refused.values()))
    outcome.failed |= {trial: str(error) for trial, error in refused.items()}
    made = ablation_table(task, planned, outcome.done, runs, paired=False) if outcome.done else None
    outcome.lose(made.damaged if made else {})
    first = made.rows[0].runs[0].name if made and made.rows else ""
    best = next((cell for cell in outcome.done if cell.name == first), None)
    return Tuned(table=made, outcome=outcome, best=best)


def read_space(path: Path) -> dict[str, Range]:
    """A search space from TOML: `name = [a, b, c]` for choices, `name = {low = 1e-4, high = 1e-2, log = true}`.

    Raises:
        TuneError: it cannot be read, a setting does not exist, or does not take what is to be tried.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TuneError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TuneError(f"{path} is not valid TOML: {error}") from None
    space = {}
    for name, value in content.items():
        try:
            space[name] = _range(name, value)
        except MgcliError as error:
            raise TuneError(f"{path}: {error}") from None
    if not space:
        raise TuneError(f"{path} names no setting to search")
    return space


def _range(name: str, given: Any) -> Range:
    """What a line of a space says, every choice and both ends of it tried on the settings."""
    refuse_folds([name])
    if isinstance(given, list) and given:
        found = Range(choices=tuple(given))
    elif isinstance(given, dict) and set(given) <= {"low", "high", "log"} and {"low", "high"} <= set(given):
        found = _numbers(name, **given)
    else:
        raise TuneError(f"{name} must be a list of choices, or {{low = A, high = B, log = true}}")
    for value in found.choices or (found.low, found.high):
        check_kind(name, value)
        if name not in _TOGETHER:
            make_config({name: value})
    return found


def _numbers(name: str, low: Any, high: Any, log: Any = False) -> Range:
    for end in (low, high):
        if not isinstance(end, int | float) or isinstance(end, bool) or not abs(end) < _LARGEST:
            raise TuneError(f"{name} has an end {end!r}; low and high must be numbers, and finite")
    if not isinstance(log, bool):
        raise TuneError(f"{name} has log = {log!r}; it must be true or false, without quotes")
    if not low < high or (log and low <= 0):
        raise TuneError(f"{name} needs low below high, and low above 0 with log")
    return Range(low=float(low), high=float(high), log=log)


def write_settings(path: Path, best: Cell, about: str) -> None:
    """The best trial as a settings file, which `fuse-train` and `ablate` take with --settings.

    What was forced is not written: who takes the settings shall force it themselves.
    """
    lines = [
        *(f"# {line}" for line in about.splitlines()),
        f"head = {json.dumps(best.label)}",
        f"modalities = {json.dumps(','.join(best.modalities))}",
        "",
        "[options]",
        *(f"{name} = {json.dumps(value)}" for name, value in best.options.items() if name != "allow_leakage"),
    ]
    with writing(path), committed_file(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _random_trials(space: Mapping[str, Range], trials: int, seed: int) -> Iterator[dict[str, Any]]:
    """Trial i is the same however many there are."""
    for number in range(trials):
        rng = np.random.default_rng([seed, number])
        yield {name: each.draw(rng) for name, each in space.items()}


def _optuna_trials(
    space: Mapping[str, Range],
    trials: int,
    seed: int,
    task: str,
    runs: Path,
    planned: list[Cell],
    plan: Callable[[Mapping[str, Any]], list[Cell]],
    train: Callable[[Sequence[Cell]], Outcome],
) -> Outcome:
    """Each trial is proposed from the scores of those before: the same scores, the same proposals, also on resuming."""
    try:
        import optuna
    except ImportError as error:
        raise TuneError(f"optuna is not installed ({error}): pip install 'mgcli[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    total, main = Outcome(), TASKS[task].shown[0]
    for _ in range(trials):
        trial = study.ask()
        settings = {name: _suggest(trial, name, each) for name, each in space.items()}
        cells = plan(settings)
        planned += cells
        outcome = train(cells) if cells else Outcome()
        total.done += outcome.done
        total.failed |= outcome.failed
        total.left += outcome.left
        if outcome.left:
            break
        score = None
        with suppress(IndexError):
            score = ablation_table(task, cells, outcome.done, runs, paired=False).rows[0].metrics["val"][main]["mean"]
        study.tell(trial, score, state=None if score is not None else optuna.trial.TrialState.FAIL)
    return total


def _suggest(trial: Any, name: str, each: Range) -> Any:
    if each.choices:
        return trial.suggest_categorical(name, each.choices)
    return each.rounded(trial.suggest_float(name, each.low, each.high, log=each.log))


def _nothing(message: str) -> None:
    """Said once, with the first trial."""
