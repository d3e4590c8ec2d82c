"""Runs that can be compared, as the report sees them: one task, one protocol, the same classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mgcli.cache import MgcliError, Section, class_group, class_name
from mgcli.fuse.run import Run
from mgcli.fuse.run_names import run_names
from mgcli.fuse.score_table import UNKNOWN, ScoreTable, run_scores
from mgcli.fuse.task import TASKS


@dataclass(frozen=True, kw_only=True)
class RunGroup:
    """Runs of one group; the first is looked at closely, the others are compared with it."""

    key: str  # how the anchors of its sections begin
    title: str  # before the headings, where a page has several groups; empty otherwise
    runs: list[Run]
    names: list[str]  # of each run, no two alike
    split: str  # whose clips are judged: test, or val where there are no test clips
    scores: list[ScoreTable | None]  # of the judged clips; None where a run's predictions cannot be read
    faults: list[str]  # why not

    @property
    def run(self) -> Run:
        return self.runs[0]

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def task(self) -> str:
        return self.run.config["task"]

    @property
    def classes(self) -> list[str]:
        """Labels of the classes, as the runs name them."""
        return self.run.config["classes"]

    @property
    def class_names(self) -> list[str]:
        """The same for people: a published gesture id has a name."""
        return [class_name(label, self.run.protocol) for label in self.classes]

    def class_group(self, label: str, num_train_clips: int) -> str:
        """Head, middle or tail: as the run was scored, else as the class's training clips have it."""
        scored = self.run.config.get("class_groups", {})
        return next((name for name, classes in scored.items() if label in classes), class_group(num_train_clips))

    @property
    def main_score(self) -> str:
        return TASKS[self.task].shown[0]

    @property
    def warnings(self) -> list[str]:
        return list(dict.fromkeys(text for run in self.runs for text in run.config["warnings"]))

    def section(self, anchor: str, heading: str, *body: str) -> Section:
        """A section of this group; text in the body becomes a paragraph."""
        parts = [part if isinstance(part, Markup) else Markup("<p>{}</p>").format(part) for part in body]
        title = f"{self.title}: {heading[0].lower()}{heading[1:]}" if self.title else heading
        return Section(anchor=f"{self.key}-{anchor}", title=title, body=Markup("\n").join(parts))


def not_shown(reason: str, what: str = "Not shown") -> Markup:
    """Why something that belongs here is not on the page."""
    return Markup('<p class="missing">{}: {}</p>').format(what, reason)


def group_runs(runs: Sequence[Run]) -> list[RunGroup]:
    """The runs by task, protocol and classes, each group in the order given."""
    found: dict[tuple[str, str | None, tuple[str, ...]], list[Run]] = {}
    for run in runs:
        found.setdefault((run.config["task"], run.protocol, tuple(run.config["classes"])), []).append(run)
    tasks = [task for task, _, _ in found]
    groups = []
    for place, ((task, protocol, _), of_group) in enumerate(found.items()):
        number = tasks[: place + 1].count(task)
        key = task if number == 1 else f"{task}-{number}"
        title = task.capitalize() if len(found) > 1 else ""
        if tasks.count(task) > 1:
            title += f" ({protocol or 'own clip table'}, {number})"
        groups.append(_group(key, title, of_group))
    return groups


def _group(key: str, title: str, runs: list[Run]) -> RunGroup:
    split = "test" if any(run.metrics.get("test") for run in runs) else "val"
    found = [_scores(run, split) for run in runs]
    return RunGroup(
        key=key,
        title=title,
        runs=runs,
        names=run_names(runs),
        split=split,
        scores=[table for table, _ in found],
        faults=[fault for _, fault in found],
    )


def _scores(run: Run, split: str) -> tuple[ScoreTable | None, str]:
    """A run's scores of the labelled clips of a split, or why there are none."""
    try:
        table = run_scores(run).split(split)
    except MgcliError as error:
        return None, f"cannot read predictions.csv of {run.name}: {error}"
    table = table.rows(table.labels != UNKNOWN)
    return table, "" if len(table) else f"{run.name} has no predictions of labelled {split} clips"
