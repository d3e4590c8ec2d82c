"""Open a page as a reader does: Debian's Chromium, without a window and without a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
_QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
THEMES = ("light", "dark")


@dataclass
class Opened:
    """A page in the browser, and what it did that it should not."""

    page: Any
    console: list[str] = field(default_factory=list)  # errors and warnings
    requests: list[str] = field(default_factory=list)  # anything but the file itself

    def expect_quiet(self) -> None:
        assert self.console == []
        assert self.requests == []


@contextmanager
def opened(file: Path, *, theme: str = "light", width: int = 1280, height: int = 900) -> Iterator[Opened]:
    """A page's file in Chromium; skips the test, with the reason, where there is none."""
    playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM}; apt-get install chromium")
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=_QUIET)
        page = browser.new_page(color_scheme=theme, viewport={"width": width, "height": height})
        found = Opened(page)
        address = file.absolute().as_uri()
        page.on("console", lambda said: found.console.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: found.console.append(str(error)))
        page.on("request", lambda asked: _note(found, asked.url, address))
        page.goto(address)
        yield found
        browser.close()


def serious_faults(page: Any) -> list[str]:
    """What axe-core calls serious or critical, one line a rule."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    violations = axe.Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {each['help']} ({each['nodes'][0]['html'][:200]})"
        for each in violations
        if each["impact"] in ("serious", "critical")
    ]


def reached_by_tab(page: Any) -> list[str]:
    """What Tab comes to, from the top until it comes round, one description each."""
    describe = (
        "() => { const e = document.activeElement; return e === document.body ? '' : "
        "e.tagName + '#' + e.id + ' ' + (e.getAttribute('aria-label') || e.textContent.trim()).slice(0, 60); }"
    )
    found: list[str] = []
    for _ in range(2000):
        page.keyboard.press("Tab")
        now = page.evaluate(describe)
        if not now or (found and now == found[0]):
            break
        found.append(now)
    return found


def _note(found: Opened, url: str, address: str) -> None:
    if url.split("#")[0] != address and not url.startswith(("data:", "blob:")):
        found.requests.append(url)
