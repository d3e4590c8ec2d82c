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
MAX_LABEL = 34  # signs of a class name beside an axis
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
    """The same, cut to what fits beside an axis."""
    text = str(text)
    return plain(text if len(text) <= MAX_LABEL else f"{text[: MAX_LABEL - 1]}…")


def axis_labels(names: Sequence[str]) -> list[str]:
    """Short labels, no two alike: plotly would take equal ones for one."""
    labels = [short(name) for name in names]
    return [label if labels.count(label) == 1 else f"{label} [{i}]" for i, label in enumerate(labels)]


def hover(*lines: object) -> str:
    """What a pointer shows."""
    return "<br>".join(map(plain, lines))


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


def signed(share: float) -> str:
    """`+3.1`, of a difference of shares."""
    return f"{'+' if share >= 0 else '−'}{percent(abs(share))}"


def spread(found: dict[str, Any], interval: Sequence[float] | None) -> str:
    """`83.1 ± 1.2 [75.0, 90.4]`, in percent, of a score over seeds and its interval."""
    text = f"{percent(found['mean'])} ± {percent(found['std'])}"
    return text if interval is None else f"{text} [{percent(interval[0])}, {percent(interval[1])}]"
