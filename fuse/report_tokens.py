"""The report's section on tokens: a map of where the clips lie before any head has seen them.

# Shapes: n clips, D token width, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from markupsafe import Markup

from mgcli.cache import Section, html_table
from mgcli.fuse.data import ModalityTokens
from mgcli.fuse.report_group import RunGroup, not_shown
from mgcli.fuse.report_map import MapConfig, MapError, draw_map
from mgcli.fuse.report_plot import NUM_HUES, Plot, hover, hue, plain
from mgcli.fuse.selection import Selection


def tokens_section(group: RunGroup, selection: Selection | str, config: MapConfig) -> Section:
    """Where the clips lie in each modality's token space.

    Args:
        group: runs; the feature sets of the first are drawn.
        selection: its judged clips with their tokens; or why there are none.
        config: how they are laid out.
    """
    if isinstance(selection, str):
        return group.section("tokens", "Token space", not_shown(selection))
    total = group.run.config["clips"]["counts"][group.split]["clips"]
    about = (
        "What the backbones give, before any head. Each point is a clip: the mean of its valid tokens, every number "
        f"scaled to unit spread, {config.about}."
    )
    if len(selection.table) < total:
        about += f" Drawn are {len(selection.table):,} of {total:,} {group.split} clips, evenly chosen."
    plots = [_map(group, selection, name, each, config) for name, each in selection.tensors.modalities.items()]
    return group.section(
        "tokens", "Token space", about, Markup('<div class="side-by-side">{}</div>').format(Markup("").join(plots))
    )


def pooled_tokens(each: ModalityTokens) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the valid tokens of each clip's plain view, (n, D) float64, and which clips have any, (n,) bool."""
    start, count = each.start[:, 0], each.count[:, 0]
    sums = torch.zeros(len(start), each.tokens.shape[1], dtype=torch.float64)
    number = torch.zeros(len(start), dtype=torch.int64)
    for clip in range(len(start)):
        rows = torch.arange(int(start[clip]), int(start[clip] + count[clip]))
        rows = rows[each.valid[rows]]
        number[clip] = len(rows)
        if len(rows):
            sums[clip] = each.tokens[rows].double().sum(dim=0)
    mean = sums / number.clamp_min(1)[:, None]
    return mean.numpy(), (number > 0).numpy()


def _map(group: RunGroup, selection: Selection, modality: str, each: ModalityTokens, config: MapConfig) -> Markup:
    points, there = pooled_tokens(each)
    if there.sum() < 2:
        return not_shown("fewer than two clips have tokens", modality)
    try:
        drawn = draw_map(points[there], config)
    except MapError as error:
        return not_shown(str(error), modality)
    places = drawn.places
    table, labels = selection.table[there], selection.tensors.labels.numpy()[there]
    names = group.class_names
    traces = []
    for name, classes, color in _coloured(labels, names):
        chosen = np.flatnonzero(np.isin(labels, classes))
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": plain(name),
                "x": places[chosen, 0].round(3).tolist(),
                "y": places[chosen, 1].round(3).tolist(),
                "marker": {"size": 7 if len(labels) < 500 else 4, "color": color, "opacity": 0.75},
                "hoverinfo": "text",
                "hovertext": [
                    hover(clip_id, names[labels[i]], f"subject {subject}")
                    for i, clip_id, subject in zip(
                        chosen.tolist(), table["clip_id"].iloc[chosen], table["subject_id"].iloc[chosen], strict=True
                    )
                ],
            }
        )
    legend = {"font": {"size": 11}}
    plot = Plot(
        anchor=f"{group.key}-tokens-{_anchor(modality)}-plot",
        data=traces,
        layout={
            "xaxis": {"title": {"text": drawn.axes[0]}},
            "yaxis": {"title": {"text": drawn.axes[1]}},
            "legend": legend,
            "showlegend": True,
        },
        height_px=360 + 18 * len(traces),
    )
    backbone = group.run.config["features"][modality]["backbone"]
    caption = f"{modality} tokens of {backbone}: {int(there.sum()):,} {group.split} clips."
    rows = [
        [
            names[label],
            int((labels == label).sum()),
            *(f"{mean:.2f}" for mean in places[labels == label].mean(axis=0)),
        ]
        for label in np.unique(labels)[:60].tolist()
    ]
    alternative = html_table(
        ["class", "clips", *(f"mean on {title.partition(' (')[0]}" for title in drawn.axes)], rows, caption=caption
    )
    return plot.html(caption, alternative)


def _coloured(labels: np.ndarray, names: Sequence[str]) -> list[tuple[str, list[int], str]]:
    """(name, classes, colour) of each trace: the most frequent classes have a colour each, the rest share one."""
    there, counts = np.unique(labels, return_counts=True)
    order = there[np.argsort(-counts, kind="stable")].tolist()
    own = order if len(order) <= NUM_HUES else order[: NUM_HUES - 1]
    found = [(names[label], [label], hue(place)) for place, label in enumerate(own)]
    rest = order[len(own) :]
    if rest:
        found.insert(0, (f"{len(rest)} other classes", rest, "--rule"))
    return found


def _anchor(modality: str) -> str:
    return "".join(sign if sign.isalnum() else "-" for sign in modality.lower())
