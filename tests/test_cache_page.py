"""The shell of every HTML page: what is text stays text, nothing is fetched, everyone can use it."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import THEMES, opened, reached_by_tab, serious_faults
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from mgcli.cache import Page, PageError, Section, html_data, html_details, html_figure, html_table, html_warnings

HOSTILE = "<img src=x onerror=alert(1)> & \"q\" 'a' </script><!-- </style>"


class Outline(HTMLParser):
    """Every start tag, and the text of elements by id."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def make_page(**changes: object) -> Page:
    table = html_table(["class", "clips"], [[HOSTILE, 12], ["shrug", 3]], caption=f"Clips of {HOSTILE}")
    fields: dict[str, object] = {
        "title": HOSTILE,
        "lead": HOSTILE,
        "warnings": [HOSTILE],
        "sections": [
            Section(anchor="data", title=HOSTILE, body=table, scripts=("let once = 1;",), styles=("b { color: red }",)),
            Section(
                anchor="more",
                title="More",
                body=html_figure(Markup("<svg></svg>"), caption="A figure", alternative=table)
                + html_details("Open", table)
                + html_data("numbers", {"name": HOSTILE}),
                scripts=("let once = 1;",),
            ),
        ],
        "footer": HOSTILE,
    }
    return Page(**(fields | changes))  # type: ignore[arg-type]


def test_text_stays_text_wherever_it_stands() -> None:
    tags = [tag for tag, _ in Outline(make_page().html()).tags]
    assert "img" not in tags
    assert tags.count("script") == 3  # the page's own, the section's once, the data
    assert make_page().html().count("let once") == 1


def test_a_page_forbids_itself_the_network_and_names_its_maker() -> None:
    metas = [attrs for tag, attrs in Outline(make_page().html()).tags if tag == "meta"]
    (policy,) = [each["content"] for each in metas if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert {"name": "generator", "content": "mgcli"} in metas


def test_headings_landmarks_and_links_are_whole() -> None:
    tags = Outline(make_page().html()).tags
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {attrs["href"] for tag, attrs in tags if tag == "a"}
    assert targets == {"#content", "#data", "#more"}
    assert {target.removeprefix("#") for target in targets if target} <= set(ids)
    for landmark in ("header", "nav", "main", "footer"):
        assert [tag for tag, _ in tags].count(landmark) == 1


@given(st.text(), st.text())
def test_any_text_survives_in_data_and_in_tables(key: str, value: str) -> None:
    data = html_data("d", {key: value})
    assert data.count("<") == 2
    assert [tag for tag, _ in Outline(data).tags] == ["script"]
    table = html_table([key], [[value]], caption=value)
    assert {tag for tag, _ in Outline(table).tags} == {"div", "table", "caption", "thead", "tbody", "tr", "th"}


def test_columns_of_numbers_are_flush_right() -> None:
    table = html_table(["a", "b", "c"], [["x", "1,234", "3 of 4"], ["y", "83.1 ± 1.2 [75.0, 90.4]", "-"]], caption="")
    assert [tag for tag in Outline(table).tags if tag == ("td", {"class": "number"})] == [
        ("td", {"class": "number"})
    ] * 2


def test_no_warnings_no_box() -> None:
    assert html_warnings([]) == ""
    assert html_warnings(["twice", "twice"]).count("twice") == 1


def test_what_would_end_a_script_early_is_a_bug_that_is_found() -> None:
    section = Section(anchor="a", title="A", body=Markup(""), scripts=("let x = '</script>';",))
    with pytest.raises(ValueError, match="would end it early"):
        make_page(sections=[section]).html()


@pytest.mark.parametrize("anchor", ["", "A", "1a", "a b", 'a"'])
def test_an_anchor_is_plain(anchor: str) -> None:
    with pytest.raises(ValueError, match="anchor"):
        Section(anchor=anchor, title="A", body=Markup(""))


def test_an_anchor_stands_once() -> None:
    section = Section(anchor="a", title="A", body=Markup(""))
    with pytest.raises(ValueError, match="twice"):
        make_page(sections=[section, section])


def test_a_page_replaces_an_older_page_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    make_page().write(out)
    make_page(title="Second").write(out)
    assert "<title>Second</title>" in out.read_text(encoding="utf-8")
    (tmp_path / "mine.html").write_text("<p>my own notes</p>")
    with pytest.raises(PageError, match="no page of mgcli, so it is kept"):
        make_page().write(tmp_path / "mine.html")
    with pytest.raises(PageError, match="is a folder"):
        make_page().write(tmp_path)
    with pytest.raises(PageError, match="there is no folder"):
        make_page().write(tmp_path / "absent" / "page.html")
    assert {each.name for each in tmp_path.iterdir()} == {"page.html", "mine.html"}


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", [390, 1280])
def test_everyone_can_use_the_page(tmp_path: Path, theme: str, width: int) -> None:
    make_page().write(tmp_path / "page.html")
    with opened(tmp_path / "page.html", theme=theme, width=width) as browser:
        assert browser.page.inner_text("h1") == HOSTILE
        assert browser.page.evaluate("mgcliPage.data('numbers').name") == HOSTILE
        assert serious_faults(browser.page) == []
        reached = reached_by_tab(browser.page)
        assert "skip to the content" in reached[0].lower()
        for wanted in ("BUTTON#theme", "A#", "SUMMARY#", "DIV#"):
            assert any(each.startswith(wanted) for each in reached), wanted
        assert browser.page.evaluate("document.documentElement.scrollWidth") <= width
        browser.expect_quiet()


def test_the_button_changes_the_theme_and_paper_is_light(tmp_path: Path) -> None:
    make_page().write(tmp_path / "page.html")
    ground = "getComputedStyle(document.body).backgroundColor"
    with opened(tmp_path / "page.html", theme="dark") as browser:
        dark = browser.page.evaluate(ground)
        browser.page.click("#theme")
        light = browser.page.evaluate(ground)
        assert dark != light
        assert browser.page.inner_text("#theme") == "Dark page"
        browser.page.click("#theme")
        assert browser.page.evaluate(ground) == dark
        browser.page.emulate_media(media="print")
        assert browser.page.evaluate(ground) == "rgb(255, 255, 255)"
        assert not browser.page.evaluate("mgcliPage.isDark()")
        browser.expect_quiet()
