"""Figures of the report: plain plotly figures as JSON, drawn in the browser by `report.js`.

plotly's Python package is only where its JavaScript comes from. A colour in a figure is the name of one in the page's
style, such as `--hue-1`: the browser puts the theme's value in its place.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from mgcli.cache import Section, html_data, html_details, html_figure, html_table, page_text

NUM_HUES = 8
MAX_LABEL = 40  # signs of a class name beside an axis
TABLE_ROWS = 60  # of a table that could have any number


@dataclass(frozen=True, kw_only=True)
class Plot:
    """What plotly draws."""

    anchor: str
    data: list[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)
    height_px: int = 360

    def html(self, caption: str, alternative: Markup) -> Markup:
        """The figure with its caption and the same as text."""
        drawing = Markup(
            '<div class="plot" id="{0}" data-figure="{0}-data" role="img" aria-label="{1}" style="height:{2}px"></div>'
            "{3}"
        )
        body = drawing.format(
            self.anchor,
            caption,
            self.height_px,
            html_data(f"{self.anchor}-data", {"data": self.data, "layout": self.layout}),
        )
        return html_figure(body, caption=caption, alternative=alternative)


def with_plots(section: Section) -> Section:
    """The same section with what draws its figures."""
    if "data-figure=" not in section.body:
        return section
    from plotly.offline import get_plotlyjs  # slow to import, and only needed here

    scripts = (*section.scripts, get_plotlyjs(), page_text("report.js", "mgcli.fuse"))
    styles = (*section.styles, page_text("report.css", "mgcli.fuse"))
    return Section(anchor=section.anchor, title=section.title, body=section.body, scripts=scripts, styles=styles)


def hue(place: int) -> str:
    """Colour of the place-th thing in a figure."""
    return f"--hue-{place % NUM_HUES + 1}"


def plain(text: object) -> str:
    """Text for plotly, which takes some tags for mark-up: they are shown as they are."""
    return html.escape(str(text), quote=False)


def short(text: object) -> str:
    """The same, without its middle where it does not fit beside an axis."""
    text, half = str(text), MAX_LABEL // 2
    return plain(text if len(text) <= MAX_LABEL else f"{text[: half - 1]}…{text[-half:]}")


def axis_labels(names: Sequence[str]) -> list[str]:
    """Short labels, no two alike: plotly would take equal ones for one."""
    labels = [short(name) for name in names]
    return [label if labels.count(label) == 1 else f"{label} [{i}]" for i, label in enumerate(labels)]


def hover(*lines: object) -> str:
    """What a pointer shows."""
    return "<br>".join(map(plain, lines))


def heat_map(
    z: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    texts: Sequence[Sequence[str]],
    title: str,
    color: str,
) -> dict[str, Any]:
    """A trace of squares.

    Args:
        z: what is drawn, a row for each of `rows`; None: an empty square.
        rows: their labels, from the top.
        columns: likewise, from the left.
        texts: what the pointer shows of each square.
        title: of the scale.
        color: of the highest value.
    """
    return {
        "type": "heatmap",
        "z": z,
        "x": columns,
        "y": rows,
        "colorscale": [[0, "--raised"], [1, color]],
        "xgap": 1,
        "ygap": 1,
        "hoverinfo": "text",
        "hovertext": texts,
        "colorbar": {
            "title": {"text": title, "side": "right", "font": {"size": 13}},
            "thickness": 12,
            "len": 0.85,
            "outlinewidth": 0,
        },
    }


def limited_table(header: Sequence[object], rows: Sequence[Sequence[object]], *, caption: str) -> Markup:
    """A table of the first rows, which says how many there are."""
    if len(rows) > TABLE_ROWS:
        caption = f"{caption} The first {TABLE_ROWS} of {len(rows):,}."
    return html_table(header, rows[:TABLE_ROWS], caption=caption)


def folded_table(summary: str, header: Sequence[object], rows: Sequence[Sequence[object]], *, caption: str) -> Markup:
    """The same behind a line that opens."""
    return html_details(summary, limited_table(header, rows, caption=caption))


def percent(share: float) -> str:
    """`83.1`, of a share."""
    return f"{100 * share:.1f}"


def spoken(score: str) -> str:
    """A score's name in words."""
    return {"top1": "top-1", "top5": "top-5", "auc": "AUC", "macro_f1": "macro-F1"}.get(score, score.replace("_", " "))


def signed(share: float) -> str:
    """`+3.1`, of a difference of shares."""
    return f"{'+' if share >= 0 else '−'}{percent(abs(share))}"


def spread(found: dict[str, Any], interval: Sequence[float] | None) -> str:
    """`83.1 ± 1.2 [75.0, 90.4]`, in percent, of a score over seeds and its interval."""
    text = f"{percent(found['mean'])} ± {percent(found['std'])}"
    return text if interval is None else f"{text} [{percent(interval[0])}, {percent(interval[1])}]"
