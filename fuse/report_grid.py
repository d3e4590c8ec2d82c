"""The report's section on ablations: a heat map where the runs come from a grid."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from mgcli.cache import Section, counted, html_table
from mgcli.fuse.report_group import RunGroup
from mgcli.fuse.report_plot import Plot, axis_labels, heat_map, hover, percent, spoken
from mgcli.fuse.run import Run
from mgcli.fuse.run_names import varied_options

LEAST_FILLED = 0.5  # of the cells of a map that is worth drawing


def grid_section(group: RunGroup) -> Section | None:
    """Validation scores by modalities and heads or options; nothing where the runs are no grid."""
    factors = _factors(group.runs)
    if len(factors) < 2:
        return None
    down, across = _axes(factors)
    rows, columns = sorted(set(down), key=_natural), sorted(set(across), key=_natural)
    cells: dict[tuple[str, str], list[Run]] = {}
    for run, row, column in zip(group.runs, down, across, strict=True):
        cells.setdefault((row, column), []).append(run)
    if len(rows) < 2 or len(columns) < 2 or len(cells) < 4 or len(cells) < LEAST_FILLED * len(rows) * len(columns):
        return None
    means = {
        place: [_mean(runs, split, group.main_score) for split in ("val", "test")] for place, runs in cells.items()
    }
    z = [[_of(means, row, column)[0] for column in columns] for row in rows]
    texts = [[_hover(means, row, column, len(cells.get((row, column), []))) for column in columns] for row in rows]
    caption = (
        f"{spoken(group.main_score).capitalize()} of every combination on the validation clips, in percent, mean over "
        "seeds. Choose by this, never by the test clips."
    )
    lines = [
        [row, column, *("-" if value is None else f"{value:.1f}" for value in means[row, column])]
        for row, column in means
    ]
    alternative = html_table(["rows", "columns", "validation, %", "test, %"], lines, caption=caption)
    plot = _map(f"{group.key}-grid-plot", z, axis_labels(rows), axis_labels(columns), texts)
    return group.section("ablation", "Ablation", plot.html(caption, alternative))


def _map(anchor: str, z: list[list[float | None]], rows: list[str], columns: list[str], texts: list[list[str]]) -> Plot:
    written = [["" if value is None else f"{value:.1f}" for value in line] for line in z]
    trace = heat_map(z, rows, columns, texts=texts, title="validation, %", color="--hue-3")
    side = {"type": "category", "showgrid": False}
    return Plot(
        anchor=anchor,
        data=[trace | {"text": written, "texttemplate": "%{text}"}],
        layout={
            "xaxis": {**side, "tickangle": -30 if len(columns) > 3 else 0},
            "yaxis": {**side, "autorange": "reversed"},
        },
        height_px=160 + 36 * len(rows),
    )


def _factors(runs: Sequence[Run]) -> dict[str, list[str]]:
    """What differs between the runs: name -> its value in each of them; modalities and head first."""
    found = {"modalities": ["+".join(run.modalities) for run in runs], "head": [run.config["head"] for run in runs]}
    for name, values in varied_options(runs).items():
        found[name] = [f"{name}={value}" for value in values]
    return {name: values for name, values in found.items() if len(set(values)) > 1}


def _natural(text: str) -> list[tuple[int, str]]:
    """Sorts 9 before 10, and `width=64` before `width=128`."""
    return [(int(number or 0), word) for word, number in re.findall(r"(\D+)|(\d+)", text)]


def _axes(factors: dict[str, list[str]]) -> tuple[list[str], list[str]]:
    """For each run its row, by the first factor, and its column, by all others together."""
    first, *others = factors.values()
    return first, [" ".join(values) for values in zip(*others, strict=True)]


def _mean(runs: Sequence[Run], split: str, score: str) -> float | None:
    values = [run.metrics.get(split, {})[score]["mean"] for run in runs if score in run.metrics.get(split, {})]
    return round(100 * float(np.mean(values)), 2) if values else None


def _of(means: dict[tuple[str, str], list[float | None]], row: str, column: str) -> list[float | None]:
    return means.get((row, column), [None, None])


def _hover(means: dict[tuple[str, str], list[float | None]], row: str, column: str, count: int) -> str:
    val, test = _of(means, row, column)
    if val is None:
        return hover(row, column, "no run")
    lines = [f"validation {percent(val / 100)} %", *([f"test {percent(test / 100)} %"] if test is not None else [])]
    return hover(row, column, *lines, counted(count, "run"))
