"""The page of a run that goes on, in a real browser."""

import shutil
import threading
from functools import partial

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.report.live.runs import begin, line, write
from treepo.cli.report import find_estimator
from treepo.report.live.server import PageServer, PayloadCache, fingerprint, live_payload
from treepo.report.page.report import page_html

pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "<img src=x onerror=boom()>"


@pytest.fixture
def server(folder):
    cache = PayloadCache(lambda: fingerprint(folder), lambda: live_payload(folder, find_estimator), clock=lambda: 0.0)
    with PageServer(cache, partial(page_html, is_live=True)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def wait_for_steps(page, count):
    """Until the page has so many steps; its policy lets no function of ours wait inside it."""
    for _ in range(200):
        if page.evaluate("treepo.shell.payload.runs[0]?.steps.length") == count:
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"the page never had {count} steps")


def test_the_page_follows_the_run(server, folder):
    """From before there is a run; what is not new is not sent again, and a name that is markup is shown as text."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        errors, answers = [], []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("response", lambda response: answers.append((response.url.removeprefix(server.url), response.status)))
        page.clock.install()
        page.goto(server.url)
        expect(page.locator("h1")).to_have_text(folder.name)
        expect(page.locator("#tab-curves")).to_have_count(0)
        # It was an empty page, that did not say whether more was to come.
        expect(page.locator("#notes")).to_contain_text("waiting for the run to begin")
        begin(folder)
        write(folder, line(0), line(1), line(2))
        page.clock.run_for(4000)
        expect(page.locator("#tab-curves")).to_be_visible()
        wait_for_steps(page, 3)
        expect(page.locator("#notes")).not_to_contain_text("waiting")
        expect(page.locator(".state")).to_have_text("live: follows the run")
        with page.expect_response(lambda response: response.status == 304):
            page.clock.run_for(4000)
        write(folder, line(3), line(4))
        page.clock.run_for(4000)
        wait_for_steps(page, 5)
        shutil.rmtree(folder)
        page.clock.run_for(4000)
        expect(page.locator("#notes")).to_contain_text("folder of the run is gone")
        browser.close()
    assert not errors
    assert {name for name, _ in answers} == {"", "payload"}
