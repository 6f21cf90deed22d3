"""A real headless Chromium for tests of pages: Debian's, or whichever is on the path, driven by Playwright.

    def test_it(browse):
        tab = browse(path.as_uri(), color_scheme="dark")    # or "http://127.0.0.1:8377/"
        tab.page.get_by_role("button", name="Ask").click()

When the test ends, it fails if a page logged an error, raised one, opened a dialog or asked for anything outside
its own origin (for a page on disk: for any other file). A test that expects such a thing reads it from `tab.errors`
or `tab.outside` and clears the list. Without Playwright, or a Chromium that starts, the tests are skipped, saying
so; with `TRICE_BROWSER=1` in the environment they fail instead.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, NoReturn
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@dataclass
class Tab:
    """A page (Playwright's own object) and what it did that it should not."""

    page: Any
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One browser for all tests of a file: Playwright's event loop must not outlive them."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if find_spec("playwright") is None or path is None:
        _missing("no Playwright" if path else f"none of {', '.join(NAMES)} on the path")
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:  # without its sandbox, which root and many containers cannot have: it sees our own pages alone
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except Error as error:
            _missing(f"{path} does not start: {error.message.splitlines()[0]}")
        yield browser
        browser.close()


def _missing(reason: str) -> NoReturn:
    (pytest.fail if os.environ.get("TRICE_BROWSER") == "1" else pytest.skip)(reason)
    raise AssertionError  # neither returns


@pytest.fixture
def browse(chromium: Any) -> Iterator[Callable[..., Tab]]:
    """`browse(url, **options)` opens a page in a context of its own; the options are those of `new_context`."""
    tabs: list[Tab] = []

    def browse(url: str, **options: Any) -> Tab:
        tab = Tab(chromium.new_context(**options).new_page())
        tabs.append(tab)
        _watch(tab, url)
        tab.page.goto(url)
        return tab

    yield browse
    for tab in tabs:
        tab.page.context.close()
    assert [tab.errors for tab in tabs if tab.errors] == []
    assert [tab.outside for tab in tabs if tab.outside] == []


def _watch(tab: Tab, url: str) -> None:
    def dismiss(dialog: Any) -> None:
        tab.errors.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def log(message: Any) -> None:
        if message.type == "error":
            tab.errors.append(message.text)

    def requested(request: Any) -> None:
        if not _belongs(request.url, url):
            tab.outside.append(request.url)

    tab.page.on("dialog", dismiss)
    tab.page.on("console", log)
    tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.page.context.on("request", requested)


def _belongs(asked: str, url: str) -> bool:
    """Whether a page at `url` may ask for that: what it holds in itself, its origin, or its own file."""
    there, here = urlsplit(asked), urlsplit(url)
    if there.scheme in ("data", "blob", "about"):
        return True
    return there[:3] == here[:3] if here.scheme == "file" else there[:2] == here[:2]
