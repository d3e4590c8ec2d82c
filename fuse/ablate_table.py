"""The table of an ablation: one row for each combination, over its seeds and folds, best validation score first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mgcli.cache import MgcliError, align_columns, committed_file, writing
from mgcli.fuse.calibration import log_loss
from mgcli.fuse.grid import Cell
from mgcli.fuse.metrics import over_seeds, scores, subject_intervals
from mgcli.fuse.paired import PairedTest, compare_paired, p_text
from mgcli.fuse.run import Run, group_rows
from mgcli.fuse.score_table import ScoreTable, joined, run_scores
from mgcli.fuse.task import TASKS

_Read = tuple[Cell, Run, ScoreTable]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one combination gave."""

    label: str
    modalities: tuple[str, ...]
    options: dict[str, Any]
    runs: list[Run]  # one a fold
    folds: int  # that were planned, 1 where there are none
    scores: dict[str, ScoreTable]  # val: each clip by the run that held it back; test: by every seed of every fold
    metrics: dict[str, Any]  # split -> score -> mean, std, values
    intervals: dict[str, Any]  # split -> score -> [low, high]

    @property
    def complete(self) -> bool:
        return len(self.runs) == self.folds

    @property
    def name(self) -> str:
        """Head, modalities and options, in one line."""
        options = [f"{key}={value}" for key, value in self.options.items()]
        return " ".join([self.label, "+".join(self.modalities), *options])

    def about(self) -> dict[str, str]:
        """What a reader must know to trust the row: seeds, folds, weights, protocol, warnings."""
        configs = [run.config for run in self.runs]
        return {
            "seeds": " ".join(map(str, configs[0]["seeds"])),
            "folds": f"{len(self.runs)}/{self.folds}" if self.folds > 1 else "-",
            "weights": ", ".join(f"{name} {text}" for name, text in self.runs[0].weights.items()),
            "protocol": str(configs[0].get("protocol") or "-"),
            "warnings": "; ".join(dict.fromkeys(text for config in configs for text in config["warnings"])),
        }


@dataclass(frozen=True, kw_only=True)
class AblationTable:
    """Rows, and how they compare with the first of them."""

    task: str
    rows: list[Row]  # best validation score first
    tests: dict[str, PairedTest]  # name of a row -> the first row against it
    tested_on: str  # test, or val where there are no test clips
    damaged: dict[str, str]  # cells whose run folder cannot be read -> why

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {
            "task": self.task,
            "sorted_by": f"val {TASKS[self.task].shown[0]}",
            "paired_on": self.tested_on,
            "rows": [
                {
                    "head": row.label,
                    "modalities": list(row.modalities),
                    "options": row.options,
                    **row.about(),
                    "complete": row.complete,
                    "metrics": row.metrics,
                    "intervals": row.intervals,
                    "paired": test.to_json() if (test := self.tests.get(row.name)) else None,
                    "runs": [str(run.path) for run in row.runs],
                }
                for row in self.rows
            ],
        }

    def numbers(self) -> pd.DataFrame:
        """One row a combination, every number in a column of its own: for programs."""
        lines = []
        for row in self.rows:
            line: dict[str, Any] = {"head": row.label, "modalities": "+".join(row.modalities), **row.options}
            for split, found in row.metrics.items():
                for name, each in found.items():
                    line |= {f"{split}_{name}_mean": each["mean"], f"{split}_{name}_std": each["std"]}
                    if name in row.intervals.get(split, {}):
                        line[f"{split}_{name}_low"], line[f"{split}_{name}_high"] = row.intervals[split][name]
            if (test := self.tests.get(row.name)) is not None:
                line |= {"first_leads_by": test.lead, "p_subjects": test.p_subjects, "p_mcnemar": test.p_mcnemar}
                line |= {"p_subjects_holm": test.p_subjects_holm, "p_mcnemar_holm": test.p_mcnemar_holm}
            lines.append(line | row.about() | {"runs": " ".join(run.name for run in row.runs)})
        return pd.DataFrame(lines)

    def cells(self) -> list[list[str]]:
        """The table for people, header first."""
        options = self._varied()
        first, *others = TASKS[self.task].shown
        shown = [("val", first), *(("test", name) for name in (first, *others))]
        shown = [(split, name) for split, name in shown if any(name in row.metrics[split] for row in self.rows)]
        warnings = list(dict.fromkeys(row.about()["warnings"] for row in self.rows if row.about()["warnings"]))
        header = ["head", "modalities", *options, "seeds", "folds", *(f"{split} {name}" for split, name in shown)]
        p_values = ["p subjects", "p McNemar"] if self.tests else []
        table = [[*header, *p_values, "weights", "protocol", "notes"]]
        for row in self.rows:
            about, test = row.about(), self.tests.get(row.name)
            table.append(
                [
                    *(row.label, "+".join(row.modalities)),
                    *(str(row.options.get(name, "-")) for name in options),
                    *(about["seeds"], about["folds"] + ("" if row.complete else " (unfinished)")),
                    *(_score(row, split, name) for split, name in shown),
                    *((p_text(test.p_subjects_holm), p_text(test.p_mcnemar_holm)) if test else "-" * len(p_values)),
                    *(about["weights"], about["protocol"]),
                    str(warnings.index(about["warnings"]) + 1) if about["warnings"] else "-",
                ]
            )
        return table

    def _varied(self) -> list[str]:
        """The options that tell rows apart."""
        names = dict.fromkeys(name for row in self.rows for name in row.options)
        return [name for name in names if len({repr(row.options.get(name)) for row in self.rows}) > 1]

    def notes(self) -> list[str]:
        """What stands below the table."""
        warnings = dict.fromkeys(row.about()["warnings"] for row in self.rows if row.about()["warnings"])
        notes = [
            f"In percent: mean ± standard deviation over seeds [95 % interval over subjects]. Sorted by val "
            f"{TASKS[self.task].shown[0]}, never by test."
        ]
        common = {k: v for k, v in self.rows[0].options.items() if k not in self._varied()}
        if common:
            notes.append(f"Every run: {', '.join(f'{name}={value}' for name, value in common.items())}.")
        if self.tests:
            notes.append(
                f"p: the first row against each other one on the {self.tested_on} clips, two-sided, corrected for "
                f"{len(self.tests)} comparison(s) by Holm."
            )
        return [*notes, *(f"Note {i + 1}: {text}" for i, text in enumerate(warnings))]

    def text(self) -> str:
        """For a terminal."""
        lines = align_columns(self.cells())
        return "\n".join([f"{self.task}: {len(self.rows)} combination(s)", *lines, *self.notes()])

    def markdown(self) -> str:
        """For a README or an issue."""
        header, *rows = [[_for_markdown(cell) for cell in row] for row in self.cells()]
        lines = [header, ["---"] * len(header), *rows]
        return "\n".join([*(f"| {' | '.join(row)} |" for row in lines), "", *(f"{each}\n" for each in self.notes())])

    def latex(self) -> str:
        """For a paper: a tabular without packages."""
        header, *rows = [" & ".join(_for_latex(cell) for cell in row) + r" \\" for row in self.cells()]
        notes = [f"% {each}" for each in self.notes()]
        width = len(self.cells()[0])
        body = [
            rf"\begin{{tabular}}{{{'l' * width}}}",
            r"\hline",
            header,
            r"\hline",
            *rows,
            r"\hline",
            r"\end{tabular}",
        ]
        return "\n".join([*notes, *body, ""])

    def write(self, folder: Path) -> list[Path]:
        """table.csv, table.md and table.tex in a folder, each whole or not at all."""
        writers: dict[str, Callable[[], str]] = {
            "table.csv": lambda: self.numbers().to_csv(index=False),
            "table.md": self.markdown,
            "table.tex": self.latex,
        }
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in writers.items():
                with committed_file(folder / name) as temporary:
                    temporary.write_text(text(), encoding="utf-8")
        return [folder / name for name in writers]


def ablation_table(
    task: str, planned: Sequence[Cell], done: Sequence[Cell], runs: Path, *, paired: bool = True
) -> AblationTable:
    """What the finished runs of a grid say.

    Args:
        task: gesture or emotion.
        planned: every cell of the grid.
        done: those that have a run folder.
        runs: where it is.
        paired: test the first row against the others.

    Returns:
        Rows of what can be read; of a row whose runs are all damaged nothing but why, in `damaged`.
    """
    folds: dict[int, int] = {}
    for cell in planned:
        folds[cell.row] = folds.get(cell.row, 0) + 1
    of_row: dict[int, list[_Read]] = {}
    damaged: dict[str, str] = {}
    for cell in sorted(done, key=lambda cell: cell.config.fold):
        try:
            run = Run.load(runs / cell.name)
            read = cell, run, run_scores(run)
        except MgcliError as error:
            damaged[cell.name] = f"{error}: delete {runs / cell.name} and run the same command again"
        else:
            of_row.setdefault(cell.row, []).append(read)
    rows = [_row(task, each, folds[row]) for row, each in of_row.items()]
    rows.sort(key=lambda row: (not row.complete, [-value for value in _validation(row, task)], row.name))
    complete = [row for row in rows if row.complete]
    split = "test" if all(len(row.scores["test"]) for row in complete) else "val"
    tests: dict[str, PairedTest] = {}
    if paired and len(complete) > 1:
        first, *others = complete
        found = compare_paired(first.scores[split], {row.name: row.scores[split] for row in others})
        tests = {test.against: test for test in found}
    return AblationTable(task=task, rows=rows, tests=tests, tested_on=split, damaged=damaged)


def _validation(row: Row, task: str) -> list[float]:
    """What a row is sorted by: the task's main score, the others where that ties, and the log loss."""
    shown = [row.metrics["val"][name]["mean"] for name in TASKS[task].shown if name in row.metrics["val"]]
    val = row.scores["val"]
    return [*shown, -float(np.mean([log_loss(val.labels, each) for each in val.probabilities]))]


def _row(task: str, read: Sequence[_Read], folds: int) -> Row:
    """Of the cells of a combination, fold after fold."""
    (cell, *_), found, tables = zip(*read, strict=True)
    of_split = {
        "val": joined([table.split("val") for table in tables]),
        "test": _by_all([table.split("test") for table in tables]),
    }
    metrics, intervals = found[0].metrics, found[0].intervals
    if folds > 1:
        groups = group_rows(found[0].config)
        metrics = {split: _metrics(table, groups) for split, table in of_split.items()}
        intervals = {split: _intervals(table) for split, table in of_split.items()}
    return Row(
        label=cell.label,
        modalities=cell.modalities,
        options=cell.options,
        runs=list(found),
        folds=folds,
        scores=of_split,
        metrics=metrics,
        intervals=intervals,
    )


def _by_all(tables: Sequence[ScoreTable]) -> ScoreTable:
    """The same clips as every fold's runs see them: their seeds side by side."""
    first = tables[0]
    aligned = [table.in_order_of(first).probabilities for table in tables]
    return first.with_probabilities(np.concatenate(aligned))


def _metrics(table: ScoreTable, groups: dict[str, list[int]]) -> Mapping[str, Any]:
    return over_seeds([scores(table.labels, each, groups) for each in table.probabilities]) if len(table) else {}


def _intervals(table: ScoreTable) -> dict[str, list[float]]:
    if not len(table):
        return {}
    predicted = [each.argmax(axis=1) for each in table.probabilities]
    return subject_intervals(table.labels, predicted, table.subjects.astype(str), len(table.classes))


def _score(row: Row, split: str, name: str) -> str:
    """`83.1 ± 1.2 [75.0, 90.4]`, in percent."""
    if name not in row.metrics[split]:
        return "-"
    each = row.metrics[split][name]
    text = f"{100 * each['mean']:.1f} ± {100 * each['std']:.1f}"
    if name in row.intervals[split]:
        low, high = row.intervals[split][name]
        text += f" [{100 * low:.1f}, {100 * high:.1f}]"
    return text


def _for_markdown(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _for_latex(cell: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    special |= {"<": r"$<$", ">": r"$>$"} | {sign: f"\\{sign}" for sign in "&%$#_{}"}
    return "".join(special.get(sign, sign) for sign in cell.replace("\n", " "))
