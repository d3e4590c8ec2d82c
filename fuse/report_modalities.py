"""The report's section on modalities: what each gives alone, and what is lost without it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from markupsafe import Markup

from mgcli.cache import MgcliError, Section, counted, html_table
from mgcli.fuse.paired import compare_paired, p_text
from mgcli.fuse.predict import trained_heads
from mgcli.fuse.predict_clips import predict_probabilities
from mgcli.fuse.report_group import RunGroup, not_shown
from mgcli.fuse.report_plot import Plot, axis_labels, hover, percent, signed
from mgcli.fuse.score_table import ScoreTable, score_table
from mgcli.fuse.selection import Selection


@dataclass(frozen=True, kw_only=True)
class Part:
    """How well a share of the modalities does."""

    name: str
    kind: str  # alone, without, all
    top1: list[float]  # of each seed
    lead: float | None = None  # of the whole over this, on the same clips
    p: float | None = None


def modalities_section(group: RunGroup, selection: Selection | str) -> Section:
    """Each modality alone, and the first run with each one hidden in turn.

    Args:
        group: runs; baselines of one modality among them are shown.
        selection: the judged clips of the first with their tokens; or why there are none.
    """
    title = "What each modality adds"
    if len(group.run.modalities) < 2:
        only = ", ".join(group.run.modalities) or "no tokens"
        return group.section("modalities", title, f"{group.name} reads {only} alone: there is nothing to leave out.")
    alone = [
        Part(name=f"{run.modalities[0]} alone", kind="alone", top1=run.metrics.get(group.split, {})["top1"]["values"])
        for run in group.runs
        if len(run.modalities) == 1 and run.config["head"] != "constant" and run.metrics.get(group.split, {})
    ]
    without: list[Part] | str = selection if isinstance(selection, str) else _without_each(group, selection)
    notes: list[str] = []
    if isinstance(without, str):
        notes.append(not_shown(without, "Hiding a modality is not shown"))
        without = []
    if not alone:
        notes.append("No run of a single modality is among those named.")
    whole = Part(name="all", kind="all", top1=group.run.metrics.get(group.split, {}).get("top1", {}).get("values", []))
    parts = [part for part in (whole, *alone, *without) if part.top1]
    if len(parts) < 2:
        return group.section("modalities", title, *notes)
    return group.section("modalities", title, _picture(group, parts), *notes)


def _without_each(group: RunGroup, selection: Selection) -> list[Part] | str:
    """The run's own heads on the same clips, with one modality hidden; or why that cannot be done."""
    tensors = selection.tensors
    rows = torch.arange(len(selection.table))
    try:
        heads = list(trained_heads(group.run))
    except MgcliError as error:
        return str(error)
    whole = _scores(group, selection, np.stack([predict_probabilities(head, tensors, rows) for head in heads]))
    hidden: dict[str, ScoreTable] = {}
    for modality in tensors.modalities:
        rest = tensors.without(modality)
        left = rest.has_tokens().numpy()  # a clip with nothing else has nothing left to be judged by
        if left.any():
            kept = torch.from_numpy(np.flatnonzero(left))
            table = _scores(group, selection, np.zeros((len(heads), len(left), len(group.classes)))).rows(left)
            answers = np.stack([predict_probabilities(head, rest, kept) for head in heads])
            hidden[f"without {modality}"] = table.with_probabilities(answers)
    tests = compare_paired(whole, hidden)
    return [
        Part(
            name=test.against,
            kind="without",
            top1=(table.probabilities.argmax(axis=2) == table.labels).mean(axis=1).tolist(),
            lead=test.lead,
            p=test.p_subjects_holm,
        )
        for test, table in zip(tests, hidden.values(), strict=True)
    ]


def _scores(group: RunGroup, selection: Selection, probabilities: np.ndarray) -> ScoreTable:
    clips = selection.table[["clip_id", "subject_id", "split"]].assign(true=selection.table[group.task])
    return score_table(clips, group.classes, probabilities)


def _picture(group: RunGroup, parts: list[Part]) -> Markup:
    labels = axis_labels([part.name for part in parts])
    means = [100 * float(np.mean(part.top1)) for part in parts]
    color = {"all": "--hue-2", "alone": "--hue-1", "without": "--hue-3"}
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": {"all": group.name, "alone": "trained on one", "without": "the same head, one hidden"}[kind],
            "x": [means[i] for i in chosen],
            "y": [labels[i] for i in chosen],
            "marker": {"color": color[kind]},
            "width": 0.6,
            "text": [f"{means[i]:.1f}" for i in chosen],
            "textposition": "auto",
            "hoverinfo": "text",
            "hovertext": [_hover(parts[i]) for i in chosen],
        }
        for kind in ("all", "alone", "without")
        if (chosen := [i for i, part in enumerate(parts) if part.kind == kind])
    ]
    plot = Plot(
        anchor=f"{group.key}-modalities-plot",
        data=traces,
        layout={
            "xaxis": {"range": [0, 100], "title": {"text": f"top-1, % of {group.split} clips"}},
            "yaxis": {"type": "category", "categoryorder": "array", "categoryarray": labels[::-1]},
            "barmode": "overlay",
            "showlegend": True,
        },
        height_px=130 + 36 * len(parts),
    )
    caption = (
        f"{group.name} with everything, heads of one modality trained by themselves, and {group.name} with one "
        "modality hidden. It was not trained to go without one unless modality dropout was on, so a loss also tells "
        "of habit."
    )
    rows = [
        [
            part.name,
            percent(float(np.mean(part.top1))),
            "-" if part.lead is None else signed(-part.lead),
            "-" if part.p is None else p_text(part.p),
        ]
        for part in parts
    ]
    header = ["modalities", "top-1, %", "change when hidden", "p, subjects"]
    return plot.html(caption, html_table(header, rows, caption=caption))


def _hover(part: Part) -> str:
    lines = [part.name, f"top-1 {percent(float(np.mean(part.top1)))} %, {counted(len(part.top1), 'seed')}"]
    if part.lead is not None and part.p is not None:
        lines.append(f"{signed(-part.lead)} points when hidden, p {p_text(part.p)} (subjects, Holm)")
    return hover(*lines)
