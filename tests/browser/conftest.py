"""ComfyUI's frontend in headless Chromium, on the server that tests/workflows shares."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from local_server import LocalServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# The frontend opens a workflow of its own when it starts; what a test opened before that one came would be replaced.
READY = """() => window.app?.graph?._nodes.length > 0 && app.extensionManager.workflow?.activeWorkflow
    && Object.keys(LiteGraph.registered_node_types).length > 100"""
FAILED = pytest.StashKey[bool]()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Closed with the module: as long as playwright lives, an event loop runs in this thread."""
    from playwright.sync_api import sync_playwright

    command = os.environ.get("BOLID_CHROMIUM", "chromium")
    executable = shutil.which(command)
    if executable is None:
        pytest.fail(f"{command} is no command: set BOLID_CHROMIUM to a Chromium or Chrome, or run scripts/test.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


@pytest.fixture
def page(
    request: pytest.FixtureRequest, chromium: Browser, workflow_server: LocalServer, tmp_path: Path
) -> Iterator[Page]:
    """A page with the frontend ready. What it shows is saved to tmp_path when the test fails."""
    page = chromium.new_page(viewport={"width": 1600, "height": 1000})
    page.goto(workflow_server.address)
    page.wait_for_function(READY, timeout=120_000)
    yield page
    if request.node.stash.get(FAILED, False):
        page.screenshot(path=tmp_path / "failure.png")
    page.close()
