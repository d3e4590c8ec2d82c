"""Runs that can be compared, as the report sees them: one task, one protocol, the same classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mgcli.cache import MgcliError, Section, class_name
from mgcli.fuse.run import Run
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
    found: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        found.setdefault((run.config["task"], run.protocol, tuple(run.config["classes"])), []).append(run)
    keys: list[str] = []
    groups = []
    for (task, protocol, _), of_group in found.items():
        count = sum(key.partition("-")[0] == task for key in keys)
        keys.append(f"{task}-{count + 1}" if count else str(task))
        several_protocols = sum(each[0] == task for each in found) > 1
        title = f"{str(task).capitalize()} ({protocol or 'own clip table'}{f', {count + 1}' if count else ''})"
        groups.append(
            _group(keys[-1], "" if len(found) == 1 else title if several_protocols else title.split(" (")[0], of_group)
        )
    return groups


def _group(key: str, title: str, runs: list[Run]) -> RunGroup:
    split = "test" if any(run.metrics.get("test") for run in runs) else "val"
    scores: list[ScoreTable | None] = []
    faults: list[str] = []
    for run in runs:
        try:
            table = run_scores(run).split(split)
            scores.append(table.rows(table.labels != UNKNOWN))
            faults.append("" if len(table) else f"it has no predictions of {split} clips")
        except (MgcliError, KeyError, ValueError) as error:
            scores.append(None)
            faults.append(str(error))
    return RunGroup(key=key, title=title, runs=runs, names=_names(runs), split=split, scores=scores, faults=faults)


def _names(runs: Sequence[Run]) -> list[str]:
    """The shortest name of each run that no other has: its head, with modalities, or its folder."""
    choices = [[run.label, f"{run.label} ({'+'.join(run.modalities)})", run.name, str(run.path)] for run in runs]
    names = []
    for own in choices:
        others = [each for each in choices if each is not own]
        names.append(next((own[i] for i in range(4) if all(own[i] != each[i] for each in others)), own[3]))
    return names
