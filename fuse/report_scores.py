"""The report's section on scores: every run with its interval, and paired tests of the first against the others."""

from __future__ import annotations

from markupsafe import Markup

from mgcli.cache import Section, counted, html_table
from mgcli.fuse.paired import PairedTest, compare_paired, p_text
from mgcli.fuse.report_group import RunGroup, not_shown
from mgcli.fuse.report_plot import Plot, axis_labels, hover, signed, spoken, spread
from mgcli.fuse.score_table import ScoreError
from mgcli.fuse.task import TASKS


def scores_section(group: RunGroup) -> Section:
    """A table of all scores, a picture of the main one, and the paired tests."""
    return group.section("scores", "Scores", _table(group), *_picture(group), *_paired(group))


def _table(group: RunGroup) -> Markup:
    """All scores, and below them what each run warns of."""
    split, warnings = group.split, group.warnings
    found = [run.metrics.get(split, {}) for run in group.runs]
    shown = [name for name in TASKS[group.task].shown if any(name in each for each in found)]
    rows = []
    for run, name, scores in zip(group.runs, group.names, found, strict=True):
        intervals = run.intervals.get(split, {})
        cells = [spread(scores[score], intervals.get(score)) if score in scores else "-" for score in shown]
        notes = " ".join(str(warnings.index(text) + 1) for text in dict.fromkeys(run.config["warnings"]))
        rows.append([name, "+".join(run.modalities), len(run.config["seeds"]), *cells, *([notes] if warnings else [])])
    caption = (
        f"Scores of the {split} clips in percent: mean ± standard deviation over seeds [95 % interval over subjects]."
    )
    header = ["head", "modalities", "seeds", *map(spoken, shown), *(["warnings"] if warnings else [])]
    table = html_table(header, rows, caption=caption)
    lines = Markup("").join(Markup("<li>{}. Warning: {}</li>").format(i + 1, text) for i, text in enumerate(warnings))
    return table + (Markup('<ul class="notes">{}</ul>').format(lines) if warnings else Markup(""))


def _picture(group: RunGroup) -> list[Markup]:
    """The main score of each run with its interval, one line a run."""
    split, score = group.split, group.main_score
    rows = [
        (name, run.metrics.get(split, {})[score], run.intervals.get(split, {}).get(score))
        for run, name in zip(group.runs, group.names, strict=True)
        if score in run.metrics.get(split, {})
    ]
    if len(rows) < 2:
        return []
    means = [100 * found["mean"] for _, found, _ in rows]
    whole = [
        [100 * each for each in interval] if interval else [mean] * 2
        for mean, (*_, interval) in zip(means, rows, strict=True)
    ]
    labels = axis_labels([name for name, *_ in rows])
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": means,
        "y": labels,
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [high - mean for mean, (_, high) in zip(means, whole, strict=True)],
            "arrayminus": [mean - low for mean, (low, _) in zip(means, whole, strict=True)],
            "thickness": 1.6,
            "width": 4,
            "color": "--muted",
        },
        "marker": {"size": 10, "color": ["--hue-2" if i == 0 else "--hue-1" for i in range(len(rows))]},
        "hoverinfo": "text",
        "hovertext": [hover(name, f"{spoken(score)} {spread(found, interval)}") for name, found, interval in rows],
    }
    plot = Plot(
        anchor=f"{group.key}-scores-plot",
        data=[trace],
        layout={
            "xaxis": {"title": {"text": f"{spoken(score)}, % of {split} clips"}},
            "yaxis": {"autorange": "reversed", "type": "category"},
        },
        height_px=90 + 30 * len(rows),
    )
    caption = (
        f"{spoken(score).capitalize()} with 95 % intervals over subjects. In another colour: {group.name}, which the "
        "tests compare with the others."
    )
    alternative = html_table(
        ["head", spoken(score)], [[name, spread(found, interval)] for name, found, interval in rows], caption=caption
    )
    return [plot.html(caption, alternative)]


def _paired(group: RunGroup) -> list[str]:
    """The first run against each other one that was scored on the same clips."""
    if len(group.runs) < 2:
        return ["One run alone: name more behind it, and they are tested against it on the same clips."]
    faults = [f"{name}: {why}" for name, why in zip(group.names, group.faults, strict=True) if why]
    parts: list[str] = []
    ours = group.scores[0]
    if ours is not None and len(ours):
        others = {}
        for name, theirs in zip(group.names[1:], group.scores[1:], strict=True):
            if theirs is None:
                continue
            try:  # by itself first: one that was scored on other clips must not keep the rest from being tested
                compare_paired(ours, {name: theirs})
            except ScoreError as error:
                faults.append(f"{name}: {error}")
            else:
                others[name] = theirs
        parts = [_paired_table(group, compare_paired(ours, others))] if others else []
    return [*parts, *(not_shown(fault, "Not tested") for fault in faults)]


def _paired_table(group: RunGroup, tests: list[PairedTest]) -> Markup:
    rows = [
        [
            test.against,
            f"{test.num_clips:,}",
            test.num_subjects,
            signed(test.lead),
            p_text(test.p_subjects_holm),
            p_text(test.p_mcnemar_holm),
        ]
        for test in tests
    ]
    caption = (
        f"{group.name} against the others on the same {group.split} clips. Two-sided p-values, by flipping the signs "
        f"of whole subjects and by McNemar's exact test over clips, corrected for "
        f"{counted(len(tests), 'comparison')} by Holm. Believe the first where the claim is about new people."
    )
    return html_table(
        ["against", "clips", "subjects", "top-1 lead, points", "p, subjects", "p, McNemar"], rows, caption=caption
    )
