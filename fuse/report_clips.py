"""The report's section on single clips: where the heads disagree, and where the first one is surely wrong."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from mgcli.cache import Section
from mgcli.fuse.report_group import RunGroup, not_shown
from mgcli.fuse.report_plot import limited_table, percent
from mgcli.fuse.score_table import ScoreTable

MAX_HEADS = 8  # columns of the table of those that disagree


def clips_section(group: RunGroup) -> Section:
    """Two tables of clips, for those who go and look at them."""
    table = group.scores[0]
    if table is None or not len(table):
        return group.section("clips", "Clips to look at", not_shown(group.faults[0]))
    return group.section("clips", "Clips to look at", _surely_wrong(group, table), *_disagreeing(group, table))


def _surely_wrong(group: RunGroup, table: ScoreTable) -> Markup:
    mean = table.mean  # (n, K)
    said = mean.argmax(axis=1)
    wrong = np.flatnonzero(said != table.labels)
    if not len(wrong):
        return Markup("<p>{} named the true class of every one of the {:,} {} clips.</p>").format(
            group.name, len(table), group.split
        )
    wrong = wrong[np.argsort(-mean[wrong, said[wrong]], kind="stable")]
    names = group.class_names
    rows = [
        [
            table.clip_ids[i],
            table.subjects[i],
            names[table.labels[i]],
            names[said[i]],
            percent(mean[i, said[i]]),
            percent(mean[i, table.labels[i]]),
        ]
        for i in wrong.tolist()
    ]
    caption = (
        f"The {group.split} clips that {group.name} is wrong about, the surest first; probabilities in percent, "
        "mean over seeds."
    )
    return limited_table(
        ["clip", "subject", "true", "predicted", "probability", "of the true class"], rows, caption=caption
    )


def _disagreeing(group: RunGroup, table: ScoreTable) -> list[Markup]:
    """Clips that heads answer differently; `constant` is no head to disagree with."""
    chosen = [i for i, run in enumerate(group.runs) if group.scores[i] is not None and run.label != "constant"][
        :MAX_HEADS
    ]
    if len(chosen) < 2:
        return []
    answers = [_answers(group.scores[i]) for i in chosen]
    names = group.class_names
    found = []
    for clip_id, subject, true in zip(
        table.clip_ids.tolist(), table.subjects.tolist(), table.labels.tolist(), strict=True
    ):
        said = [each.get(clip_id) for each in answers]
        given = [each[0] for each in said if each is not None]
        if len(set(given)) > 1:
            sure = float(np.mean([each[1] for each in said if each is not None]))
            right = sum(each == true for each in given)
            cells = ["-" if each is None else "✓" if each[0] == true else names[each[0]] for each in said]
            found.append((sure, [clip_id, subject, names[true], f"{right}/{len(given)}", *cells]))
    if not found:
        return [Markup("<p>The {} heads agree on every clip.</p>").format(len(chosen))]
    found.sort(key=lambda each: -each[0])
    more = f" Only the first {MAX_HEADS} of {len(group.runs)} runs are compared." if len(group.runs) > MAX_HEADS else ""
    caption = (
        f"The {group.split} clips that the heads disagree on, the surest answers first; ✓ is the true class.{more}"
    )
    header = ["clip", "subject", "true", "right", *(group.names[i] for i in chosen)]
    return [limited_table(header, [row for _, row in found], caption=caption)]


def _answers(table: ScoreTable | None) -> dict[str, tuple[int, float]]:
    """Clip -> the class that the mean of the seeds names, and how surely."""
    if table is None or not len(table):
        return {}
    mean = table.mean
    return dict(
        zip(
            table.clip_ids.tolist(),
            zip(mean.argmax(axis=1).tolist(), mean.max(axis=1).tolist(), strict=True),
            strict=True,
        )
    )
