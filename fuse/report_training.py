"""The report's sections on how the runs came about: training curves, and what it takes to do it again."""

from __future__ import annotations

from typing import Any

import pandas as pd
from markupsafe import Markup

from mgcli.cache import Section, html_table
from mgcli.fuse.report_group import RunGroup, not_shown
from mgcli.fuse.report_plot import Plot, limited_table
from mgcli.fuse.run import HISTORY_FILE

_NEEDED = {"seed", "epoch", "train_top1", "val_top1"}


def training_section(group: RunGroup) -> Section:
    """Accuracy and loss of the first run by epoch, each seed by itself."""
    file = group.run.path / HISTORY_FILE
    try:
        history = pd.read_csv(file)
    except (OSError, ValueError) as error:  # ValueError: empty, or no table
        reason = getattr(error, "strerror", None) or error
        return group.section(
            "training",
            "Training",
            not_shown(f"cannot read {file} ({reason})"),
        )
    if group.run.is_ensemble or not set(history) >= _NEEDED or history.empty:
        text = not_shown(f"{group.name} is not trained in epochs")
        return group.section("training", "Training", text)
    seeds = list(dict.fromkeys(history["seed"].tolist()))
    accuracy = _plot(group, history, seeds, "top1", "top-1, %", 100.0)
    loss = _plot(group, history, seeds, "loss", "loss", 1.0)
    plots = Markup('<div class="side-by-side">{}{}</div>').format(accuracy, loss)
    return group.section("training", "Training", plots)


def making_section(group: RunGroup) -> Section:
    """Folders, dates, settings and versions: what a run must say to be made again."""
    rows = [
        [
            name,
            str(run.path),
            run.config["created"][:16].replace("T", " "),
            " ".join(map(str, run.config["seeds"])),
            _machine(run.config),
        ]
        for run, name in zip(group.runs, group.names, strict=True)
    ]
    runs = html_table(
        ["head", "folder", "made (UTC)", "seeds", "on"], rows, caption="The runs, each made again by mgcli reproduce."
    )
    settings = _flat(group.run.config.get("config", {}))
    others = [_flat(run.config.get("config", {})) for run in group.runs]
    differs = {key for key in settings if len({repr(each.get(key)) for each in others}) > 1}
    lines = [
        [key, _value(value), "differs between the runs" if key in differs else ""] for key, value in settings.items()
    ]
    shown = (
        limited_table(["setting", "value", ""], lines, caption=f"Settings of {group.name}.") if lines else Markup("")
    )
    packages = html_table(
        ["package", "version"],
        sorted(group.run.config.get("packages", {}).items()),
        caption=f"Versions that {group.name} was made with.",
    )
    folded = Markup("<details><summary>Settings and versions</summary>{}{}</details>").format(shown, packages)
    return group.section("making", "How the runs were made", runs, folded)


def _plot(group: RunGroup, history: pd.DataFrame, seeds: list[Any], score: str, title: str, scale: float) -> Markup:
    traces = []
    for place, seed in enumerate(seeds):
        own = history[history["seed"] == seed]
        for part, (name, dash) in {"train": ("training", "dot"), "val": ("validation", "solid")}.items():
            column = f"{part}_{score}"
            if column not in own:
                continue
            values = [None if pd.isna(value) else round(scale * value, 4) for value in own[column]]
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines" if len(own) > 1 else "markers",
                    "name": name,
                    "legendgroup": name,
                    "showlegend": place == 0,
                    "x": own["epoch"].tolist(),
                    "y": values,
                    "line": {"width": 1.6, "dash": dash, "color": "--hue-1" if part == "val" else "--hue-2"},
                    "opacity": 0.85,
                    "hovertemplate": f"seed {int(seed)}, {name}<br>epoch %{{x}}: %{{y:.3g}}<extra></extra>",
                }
            )
    layout = {"xaxis": {"title": {"text": "epoch"}}, "yaxis": {"title": {"text": title}, "rangemode": "tozero"}}
    caption = f"{group.name}: {title.rstrip(', %')} by epoch, a line for each seed ({len(seeds)})."
    rows = []
    for seed in seeds:
        own = history[history["seed"] == seed]
        best = own.loc[own["val_score"].idxmax()] if "val_score" in own else own.iloc[-1]
        last = own.iloc[-1]
        rows.append(
            [
                int(seed),
                len(own),
                int(best["epoch"]),
                *(_number(last, best, part, score, scale) for part in ("train", "val")),
            ]
        )
    header = ["seed", "epochs", "best epoch", f"training {title}, then", f"validation {title}, then"]
    alternative = html_table(header, rows, caption=caption)
    return Plot(anchor=f"{group.key}-{score}-plot", data=traces, layout=layout, height_px=320).html(
        caption, alternative
    )


def _number(last: pd.Series, best: pd.Series, part: str, score: str, scale: float) -> str:
    column = f"{part}_{score}"
    return f"{scale * float(best[column]):.3g}" if column in best else "-"


def _machine(config: dict[str, Any]) -> str:
    return str(config.get("device", "-"))


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"head.width": 96}` of `{"head": {"width": 96}}`."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
