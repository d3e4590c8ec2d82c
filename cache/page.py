"""The shell that all HTML pages share: one file that opens without a network, in light and dark, on a phone, on paper.

A page is a title, warnings and sections; a section brings its own scripts and styles, and the page holds each of
them once. Text is told from HTML by its type: a plain `str` (a class name, say) is escaped wherever it goes, a
`markupsafe.Markup` is HTML already. Build HTML with `Markup("<b>{}</b>").format(text)`, which escapes what it fills in.

The page forbids itself the network (Content-Security-Policy). Scripts may rely on three things: colours are CSS custom
properties (`--ink`, `--accent`, ... in `page.css`; read them through `mgcliPage.colour("--ink")`), the event
`mgcli-theme` on `document` says that they changed (also before and after printing), and `mgcliPage.data(ID)` gives
what `html_data(ID, ...)` put into the page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mgcli.cache.durable import committed_file, writing
from mgcli.cache.errors import MgcliError

GENERATOR = '<meta name="generator" content="mgcli">'
_HEAD_BYTES = 4096  # of a file, in which the line above stands if it is one of our pages
_POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_ANCHOR = re.compile(r"[a-z][a-z0-9-]*")
_SHORT = 32  # signs of a row's heading that stay on one line
_NUMBER = re.compile(r"[-+−<]?[\d.,]+( ?%| ± .*| \[.*| [kMG]?B)?|-|")


class PageError(MgcliError):
    """A page that cannot be written where it should go."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of a page under a heading of its own."""

    anchor: str  # what a link to it says behind the #: small letters, digits and hyphens, once in a page
    title: str
    body: Markup
    scripts: tuple[str, ...] = ()  # JavaScript it needs; run at the end of the page, in the order of the sections
    styles: tuple[str, ...] = ()  # CSS it needs

    def __post_init__(self) -> None:
        if not _ANCHOR.fullmatch(self.anchor):
            raise ValueError(f"anchor {self.anchor!r}: small letters, digits and hyphens only, a letter first")


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole page."""

    title: str
    lead: str  # one or two sentences under the title
    sections: Sequence[Section]
    warnings: Sequence[str] = ()  # what a reader must know before believing anything below
    footer: str = ""

    def __post_init__(self) -> None:
        anchors = [section.anchor for section in self.sections]
        twice = sorted({anchor for anchor in anchors if anchors.count(anchor) > 1})
        if twice:
            raise ValueError(f"anchors {twice} twice in one page")

    def html(self) -> str:
        """The page as one string: styles and scripts inside, nothing to fetch."""
        styles = _once([page_text("page.css"), *(text for section in self.sections for text in section.styles)])
        scripts = _once([page_text("page.js"), *(text for section in self.sections for text in section.scripts)])
        return Markup(_SHELL).format(
            generator=Markup(GENERATOR),
            policy=_POLICY,
            title=self.title,
            lead=self.lead,
            styles=Markup("\n").join(_inline("style", text) for text in styles),
            warnings=html_warnings(self.warnings),
            contents=Markup("").join(
                Markup('<li><a href="#{}">{}</a></li>').format(section.anchor, section.title)
                for section in self.sections
            ),
            sections=Markup("\n").join(map(_section, self.sections)),
            footer=self.footer,
            scripts=Markup("\n").join(_inline("script", text) for text in scripts),
        )

    def write(self, out: Path) -> None:
        """Put the page into a file, whole or not at all; an older page there is replaced, and nothing else.

        Raises:
            PageError: there is something else of that name, or no such folder.
            CacheError: the disk does not let us.
        """
        expect_page_place(out)
        with writing(out), committed_file(out) as temporary:
            temporary.write_text(self.html(), encoding="utf-8")


def expect_page_place(out: Path) -> None:
    """Find out before the work whether a page may be written there: a new file, or one that replaces an older page.

    Raises:
        PageError: there is something else of that name, or no such folder.
    """
    if out.is_dir():
        raise PageError(f"{out} is a folder; name a file, such as {out / 'report.html'}")
    if not out.absolute().parent.is_dir():
        raise PageError(f"there is no folder {out.absolute().parent}; make it, or write the page elsewhere")
    if out.exists():
        with out.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        if head and GENERATOR.encode() not in head:
            raise PageError(f"{out} is there and no page of mgcli, so it is kept; name another file")


def page_text(name: str, package: str = "mgcli.cache") -> str:
    """The text of a script or style that lies beside a package's modules."""
    return files(package).joinpath(name).read_text(encoding="utf-8")


def html_data(element_id: str, value: Any) -> Markup:
    """Plain JSON values for the page's scripts, which read them with `mgcliPage.data(element_id)`."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":  # nothing in it may end the element
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup('<script type="application/json" id="{}">{}</script>').format(element_id, Markup(text))


def html_table(header: Sequence[object], rows: Iterable[Sequence[object]], *, caption: str) -> Markup:
    """A table; columns that hold nothing but numbers are set flush right, and wide tables scroll by themselves.

    Args:
        header: one cell a column, text or Markup.
        rows: likewise; the first cell of a row is its heading.
        caption: what the table shows, for everyone and for screen readers.
    """
    cells = [list(row) for row in rows]
    numeric = [
        bool(cells) and all(_NUMBER.fullmatch(str(row[place])) for row in cells) for place in range(len(header))
    ]  # by what the reader sees
    right = [Markup(' class="number"') if each else Markup("") for each in numeric]
    head = Markup("").join(
        Markup('<th scope="col"{}>{}</th>').format(side, cell) for side, cell in zip(right, header, strict=True)
    )
    lines = []
    for first, *others in cells:
        heading = Markup(' class="short"') if not right[0] and len(str(first)) <= _SHORT else right[0]
        shown = Markup("").join(
            Markup("<td{}>{}</td>").format(side, cell) for side, cell in zip(right[1:], others, strict=True)
        )
        lines.append(Markup('<tr><th scope="row"{}>{}</th>{}</tr>').format(heading, first, shown))
    return Markup(
        '<div class="scroll" role="region" tabindex="0" aria-label="{caption}"><table><caption>{caption}</caption>'
        "<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    ).format(caption=caption, head=head, body=Markup("\n").join(lines))


def html_details(summary: str, body: Markup) -> Markup:
    """What is there for those who ask: a line that opens."""
    return Markup("<details><summary>{}</summary>{}</details>").format(summary, body)


def html_figure(body: Markup, *, caption: str, alternative: Markup) -> Markup:
    """A figure with its caption, and the same in words or as a table for those who cannot see it."""
    return Markup("<figure>{}<figcaption>{}</figcaption>{}</figure>").format(
        body, caption, html_details("The same as text", alternative)
    )


def html_warnings(warnings: Sequence[str]) -> Markup:
    """Warnings in a box that nobody overlooks; nothing where there are none."""
    if not warnings:
        return Markup("")
    lines = Markup("").join(Markup("<li>{}</li>").format(text) for text in dict.fromkeys(warnings))
    return Markup('<div class="warning" role="note" aria-label="Warnings"><ul>{}</ul></div>').format(lines)


def _section(section: Section) -> Markup:
    return Markup('<section id="{0}" aria-labelledby="{0}-title"><h2 id="{0}-title">{1}</h2>\n{2}</section>').format(
        section.anchor, section.title, section.body
    )


def _once(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _inline(element: str, text: str) -> Markup:
    """A script or style in the page.

    Raises:
        ValueError: it holds what would end its element early.
    """
    if f"</{element}" in text.lower() or "<!--" in text:
        raise ValueError(f"a {element} of the page holds </{element} or <!--, which would end it early")
    return Markup("<{0}>{1}</{0}>").format(Markup(element), Markup(text))


_SHELL = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{generator}
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
{styles}
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<div class="titles"><h1>{title}</h1>
<p class="lead">{lead}</p></div>
<button type="button" id="theme">Dark page</button>
</header>
<nav aria-label="Contents"><ol>{contents}</ol></nav>
<main id="content" tabindex="-1">
{warnings}
{sections}
</main>
<footer><p>{footer}</p></footer>
{scripts}
</body>
</html>
"""
