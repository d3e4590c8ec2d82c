"""The report's section on calibration: does a probability of 0.8 come true 80 times of 100?"""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup

from mgcli.cache import Section, html_table
from mgcli.fuse.calibration import NUM_BINS, reliability, with_temperature
from mgcli.fuse.report_group import RunGroup, not_shown
from mgcli.fuse.report_plot import Plot, hover, percent
from mgcli.fuse.score_table import ScoreTable

_DIAGONAL: dict[str, Any] = {
    "type": "scatter",
    "mode": "lines",
    "x": [0, 100],
    "y": [0, 100],
    "line": {"color": "--muted", "dash": "dash", "width": 1},
    "hoverinfo": "skip",
    "showlegend": False,
}


def calibration_section(group: RunGroup) -> Section:
    """A reliability diagram of the first run, and the calibration error of every run."""
    table = group.scores[0]
    if table is None or not len(table):
        missing = not_shown(group.faults[0])
        return group.section("calibration", "Calibration", missing, _errors(group))
    return group.section("calibration", "Calibration", _diagram(group, table), _errors(group))


def _diagram(group: RunGroup, table: ScoreTable) -> Markup:
    labels = np.tile(table.labels, len(table.probabilities))
    kinds = [("as they are", np.concatenate(table.probabilities), "--hue-1", "circle")]
    temperatures = group.run.calibration.get("temperature", [])
    if len(temperatures) == len(table.probabilities) and group.split in group.run.calibration:
        scaled = [with_temperature(each, t) for each, t in zip(table.probabilities, temperatures, strict=True)]
        kinds.append(("with temperature", np.concatenate(scaled), "--hue-2", "diamond"))
    traces, rows = [_DIAGONAL], []
    for name, probabilities, color, symbol in kinds:
        count, confidence, right = reliability(labels, probabilities)
        used = np.flatnonzero(count)
        x, y = 100 * confidence[used] / count[used], 100 * right[used] / count[used]
        traces.append(_curve(name, x, y, count[used], color, symbol))
        rows += [[name, f"{a:.1f}", f"{b:.1f}", f"{n:,}"] for a, b, n in zip(x, y, count[used], strict=True)]
    side = {"range": [-3, 103], "dtick": 20}
    plot = Plot(
        anchor=f"{group.key}-calibration-plot",
        data=traces,
        layout={
            "xaxis": {**side, "title": {"text": "confidence, %"}},
            "yaxis": {**side, "title": {"text": "right answers, %"}},
        },
        height_px=420,
    )
    seeds = f", {len(table.probabilities)} seeds together" if len(table.probabilities) > 1 else ""
    caption = (
        f"Reliability of {group.name} on the {group.split} clips{seeds}: {NUM_BINS} bins of confidence, larger where "
        "there are more answers. On the dashed line a probability means what it says; below it, the head is too sure."
    )
    return plot.html(
        caption, html_table(["probabilities", "confidence, %", "right, %", "answers"], rows, caption=caption)
    )


def _curve(name: str, x: np.ndarray, y: np.ndarray, count: np.ndarray, color: str, symbol: str) -> dict[str, Any]:
    """Confidence and share of right answers in percent, a point for each bin of so many answers."""
    size = 6 + 14 * np.sqrt(count / count.max())
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": x.round(2).tolist(),
        "y": y.round(2).tolist(),
        "line": {"color": color, "width": 1.4},
        "marker": {"symbol": symbol, "size": size.round(1).tolist(), "opacity": 0.85},
        "hoverinfo": "text",
        "hovertext": [
            hover(name, f"said {a:.1f} %, right {b:.1f} %", f"{n:,} answers")
            for a, b, n in zip(x.tolist(), y.tolist(), count.tolist(), strict=True)
        ],
    }


def _errors(group: RunGroup) -> Markup:
    rows = []
    for run, name in zip(group.runs, group.names, strict=True):
        if group.split in run.calibration:
            found = {key: each["mean"] for key, each in run.calibration[group.split].items()}
            temperature = f"{np.mean(run.calibration['temperature']):.2f}"
            losses = [f"{found[key]:.3f}" for key in ("log_loss", "log_loss_scaled")]
            rows.append([name, percent(found["ece"]), percent(found["ece_scaled"]), temperature, *losses])
    if not rows:
        return not_shown("it takes test clips beside those of validation", "No run was calibrated")
    caption = (
        "Expected calibration error in percent and log loss, as they are and with the temperature that the validation "
        "clips give; mean over seeds."
    )
    header = ["head", "error, %", "with temperature", "temperature", "log loss", "with temperature"]
    return html_table(header, rows, caption=caption)
