"""The report's section on ablations: a heat map where the runs come from a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mgcli.cache import Section, html_table
from mgcli.fuse.report_group import RunGroup
from mgcli.fuse.report_plot import Plot, axis_labels, hover, percent
from mgcli.fuse.run import Run

LEAST_FILLED = 0.5  # of the cells of a map that is worth drawing
_NOT_A_CHOICE = {"fold", "split_seed", "device", "allow_leakage", "allow_unseen_classes"}


def grid_section(group: RunGroup) -> Section | None:
    """Validation scores by modalities and heads or options; nothing where the runs are no grid."""
    factors = _factors(group.runs)
    if len(factors) < 2:
        return None
    down, across = _axes(factors)
    rows, columns = list(dict.fromkeys(down)), list(dict.fromkeys(across))
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
    trace = {
        "type": "heatmap",
        "z": z,
        "x": axis_labels(columns),
        "y": axis_labels(rows),
        "colorscale": [[0, "--raised"], [1, "--hue-3"]],
        "xgap": 2,
        "ygap": 2,
        "hoverinfo": "text",
        "hovertext": texts,
        "text": [["" if value is None else f"{value:.1f}" for value in line] for line in z],
        "texttemplate": "%{text}",
        "colorbar": {
            "title": {"text": "validation, %", "side": "right"},
            "thickness": 12,
            "len": 0.9,
            "outlinewidth": 0,
        },
    }
    side = {"type": "category", "showgrid": False}
    plot = Plot(
        anchor=f"{group.key}-grid-plot",
        data=[trace],
        layout={
            "xaxis": {**side, "tickangle": -30 if len(columns) > 3 else 0},
            "yaxis": {**side, "autorange": "reversed"},
        },
        height_px=160 + 36 * len(rows),
    )
    caption = (
        f"{group.main_score} of every combination on the validation clips, in percent, mean over seeds. Choose by "
        "this, never by the test clips."
    )
    lines = [
        [row, column, *("-" if value is None else f"{value:.1f}" for value in means[row, column])]
        for row, column in means
    ]
    alternative = html_table(["rows", "columns", "validation, %", "test, %"], lines, caption=caption)
    return group.section("ablation", "Ablation", plot.html(caption, alternative))


def _factors(runs: Sequence[Run]) -> dict[str, list[str]]:
    """What differs between the runs: name -> its value in each of them; modalities and head first."""
    found = {"modalities": ["+".join(run.modalities) for run in runs], "head": [run.config["head"] for run in runs]}
    options = [_options(run) for run in runs]
    for name in dict.fromkeys(name for each in options for name in each):
        found[name] = [f"{name}={each.get(name, '-')}" for each in options]
    return {name: values for name, values in found.items() if len(set(values)) > 1}


def _options(run: Run) -> dict[str, Any]:
    config = run.config.get("config", {})
    plain = {key: value for key, value in config.items() if not isinstance(value, dict)}
    head = config.get("head", {})
    return {key: value for key, value in {**plain, **head}.items() if key not in _NOT_A_CHOICE}


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
    return hover(row, column, *lines, f"{count} run(s)")
