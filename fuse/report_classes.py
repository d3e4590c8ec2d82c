"""The report's sections on classes: what is taken for what, and how the rare ones fare."""

from __future__ import annotations

import numpy as np
import pandas as pd
from markupsafe import Markup

from mgcli.cache import CLASS_GROUP_NAMES, Section, html_table
from mgcli.fuse.metrics import confusion_matrix
from mgcli.fuse.report_group import RunGroup, not_shown
from mgcli.fuse.report_plot import Plot, axis_labels, heat_map, hover, limited_table, percent
from mgcli.fuse.score_table import ScoreTable

MAX_MATRIX = 64  # classes that a matrix can still be read with
MAX_LABELLED = 48  # classes that have their names beside an axis
MAX_WRITTEN = 12  # classes whose counts stand in the squares
SIGNS_ABREAST = 60  # of labels below an axis before they are turned
EXAMPLES = 3  # clips named where the pointer is


def confusion_section(group: RunGroup) -> Section:
    """The confusion matrix, or the most confused pairs where there are too many classes for one."""
    table = group.scores[0]
    if table is None or not len(table):
        return group.section("confusion", "Confusion", not_shown(group.faults[0]))
    said = table.probabilities.argmax(axis=2)  # (P, n)
    num_classes = len(group.classes)
    labels = np.tile(table.labels, len(said))
    examples = _examples(table, said[0])
    pairs = _pairs(group, labels, said.ravel(), examples)
    seeds = f", summed over {len(said)} seeds" if len(said) > 1 else ""
    confused = limited_table(
        ["true", "predicted", "times", "share of the true class", "such as"],
        pairs,
        caption=f"Most confused pairs of {group.name} on the {group.split} clips{seeds}; clips of the first seed.",
    )
    if not pairs:
        confused = Markup("<p>No {} clip was taken for another class.</p>").format(group.split)
    if num_classes > MAX_MATRIX:
        about = f"{num_classes:,} classes are too many for a readable matrix, so here is what is confused most."
        return group.section("confusion", "Confusion", about, confused)
    counts = confusion_matrix(labels, said.ravel(), num_classes)
    return group.section("confusion", "Confusion", _matrix(group, counts, examples, seeds, confused))


def tail_section(group: RunGroup, train_counts: pd.Series | str) -> Section | None:
    """Accuracy of each class against its number of training clips; nothing with two classes.

    Args:
        group: runs; the first is shown.
        train_counts: label -> training clips; or why they are not known.
    """
    if len(group.classes) < 3:
        return None
    table = group.scores[0]
    if table is None or not len(table):
        return group.section("tail", "Common and rare classes", not_shown(group.faults[0]))
    hits, counts = table.right(), np.bincount(table.labels, minlength=len(group.classes))
    accuracy = np.bincount(table.labels, weights=hits, minlength=len(counts)) / np.maximum(counts, 1)
    parts: list[str] = [_group_table(group)]
    if isinstance(train_counts, str):
        parts.append(not_shown(train_counts, "Accuracy against training clips is not shown"))
    else:
        parts.append(_tail_plot(group, train_counts.reindex(group.classes, fill_value=0).to_numpy(), counts, accuracy))
    return group.section("tail", "Common and rare classes", *parts)


def _examples(table: ScoreTable, said: np.ndarray) -> dict[tuple[int, int], list[str]]:
    """(true, predicted) -> some clips."""
    found: dict[tuple[int, int], list[str]] = {}
    for clip_id, true, other in zip(table.clip_ids.tolist(), table.labels.tolist(), said.tolist(), strict=True):
        clips = found.setdefault((true, other), [])
        if len(clips) < EXAMPLES:
            clips.append(clip_id)
    return found


def _pairs(
    group: RunGroup, labels: np.ndarray, said: np.ndarray, examples: dict[tuple[int, int], list[str]]
) -> list[list[object]]:
    """Rows of the confused pairs, the most frequent first."""
    names, true_counts = group.class_names, np.bincount(labels, minlength=len(group.classes))
    wrong = labels != said
    both, times = np.unique(np.stack([labels[wrong], said[wrong]]), axis=1, return_counts=True)
    rows: list[list[object]] = []
    for place in np.argsort(-times, kind="stable").tolist():
        true, other, count = int(both[0, place]), int(both[1, place]), int(times[place])
        clips = ", ".join(examples.get((true, other), [])) or "-"
        rows.append([names[true], names[other], f"{count:,}", f"{percent(count / true_counts[true])} %", clips])
    return rows


def _matrix(
    group: RunGroup, counts: np.ndarray, examples: dict[tuple[int, int], list[str]], seeds: str, confused: Markup
) -> Markup:
    names, totals = group.class_names, counts.sum(axis=1)
    share = counts / np.maximum(totals, 1)[:, None]
    texts = [
        [
            hover(
                f"true: {names[i]}",
                f"predicted: {names[j]}",
                f"{counts[i, j]:,} of {totals[i]:,} ({percent(share[i, j])} %)",
                *(["such as " + ", ".join(examples[i, j])] if (i, j) in examples else []),
            )
            for j in range(len(names))
        ]
        for i in range(len(names))
    ]
    z = [
        [round(100 * value, 1) if total else None for value in row]
        for row, total in zip(share.tolist(), totals.tolist(), strict=True)
    ]
    plot = _squares(f"{group.key}-confusion-plot", z, counts, axis_labels(names), texts)
    caption = (
        f"Confusion matrix of {group.name} on the {group.split} clips{seeds}: share of each true class. Hover for "
        "counts and clips."
    )
    return plot.html(caption, confused)


def _squares(
    anchor: str, z: list[list[float | None]], counts: np.ndarray, labels: list[str], texts: list[list[str]]
) -> Plot:
    trace = heat_map(z, labels, labels, texts=texts, title="% of the true class", color="--hue-1")
    trace |= {"zmin": 0, "zmax": 100}
    if len(labels) <= MAX_WRITTEN:
        trace |= {"text": [[f"{value:,}" for value in row] for row in counts.tolist()], "texttemplate": "%{text}"}
    side = {
        "type": "category",
        "showgrid": False,
        "showticklabels": len(labels) <= MAX_LABELLED,
        "tickfont": {"size": 11 if len(labels) > 20 else 12},
    }
    angle = -50 if sum(map(len, labels)) > SIGNS_ABREAST else 0
    return Plot(
        anchor=anchor,
        data=[trace],
        layout={
            "xaxis": {**side, "title": {"text": "predicted"}, "tickangle": angle},
            "yaxis": {**side, "title": {"text": "true"}, "autorange": "reversed"},
        },
        height_px=240 + 22 * max(len(labels), 4),
    )


def _group_table(group: RunGroup) -> Markup:
    """Scores of head, middle and tail classes, where the run was scored so."""
    found = group.run.metrics.get(group.split, {})
    sizes = {name: len(classes) for name, classes in group.run.config.get("class_groups", {}).items()}
    rows = [
        [
            name,
            sizes.get(name, "-"),
            percent(found[f"{name}_accuracy"]["mean"]),
            percent(found[f"{name}_accuracy"]["std"]),
        ]
        for name in CLASS_GROUP_NAMES
        if f"{name}_accuracy" in found
    ]
    if not rows:
        return Markup("")
    caption = (
        "Mean accuracy of the classes with more than 100 training clips (head), 20 to 100 (middle) and fewer than 20 "
        "(tail), counted before validation subjects are drawn from them, in percent."
    )
    return html_table(["group", "classes", "accuracy", "± over seeds"], rows, caption=caption)


def _tail_plot(group: RunGroup, train: np.ndarray, counts: np.ndarray, accuracy: np.ndarray) -> Markup:
    names = group.class_names
    scored = [i for i in np.argsort(-train, kind="stable").tolist() if counts[i]]
    traces = []
    for place, part in enumerate(CLASS_GROUP_NAMES):
        chosen = [i for i in scored if group.class_group(group.classes[i], int(train[i])) == part]
        if chosen:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": part,
                    "x": [max(int(train[i]), 0.5) for i in chosen],
                    "y": [round(100 * float(accuracy[i]), 2) for i in chosen],
                    "marker": {
                        "size": 9,
                        "color": f"--hue-{place + 1}",
                        "symbol": ("circle", "diamond", "square")[place],
                    },
                    "hoverinfo": "text",
                    "hovertext": [
                        hover(
                            names[i],
                            f"{percent(accuracy[i])} % of {counts[i]:,} {group.split} clips",
                            f"{train[i]:,} training clips",
                        )
                        for i in chosen
                    ],
                }
            )
    plot = Plot(
        anchor=f"{group.key}-tail-plot",
        data=traces,
        layout={
            "xaxis": {
                "type": "log",
                "title": {"text": "training clips (logarithmic)"},
                "tickvals": [count * 10**power for power in range(6) for count in (1, 2, 5)],
            },
            "yaxis": {"range": [-4, 104], "title": {"text": "accuracy, %"}},
            "showlegend": True,
        },
    )
    caption = f"Accuracy of each class of {group.name} against its training clips."
    if len(scored) < len(names):
        caption += f" {len(names) - len(scored)} class(es) without {group.split} clips are left out."
    rows = [[names[i], f"{train[i]:,}", f"{counts[i]:,}", percent(accuracy[i])] for i in scored]
    alternative = limited_table(
        ["class", "training clips", f"{group.split} clips", "accuracy, %"], rows, caption=caption
    )
    return plot.html(caption, alternative)
