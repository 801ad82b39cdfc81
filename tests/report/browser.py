"""A real browser that fails a test at any error of a page and at any request beyond the page itself."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


def open_page(browser: Browser, path: Path, errors: list[str], **options: Any) -> Page:
    """The page of a file, with options of playwright's `new_page`; what goes wrong in it is added to `errors`."""
    page = browser.new_page(**{"viewport": {"width": 1300, "height": 900}} | options)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    own = (path.as_uri(), "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(own) else errors.append(request.url))
    page.goto(path.as_uri())
    return page
