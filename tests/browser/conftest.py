"""These tests need a browser, Chromium or Chrome, on the path or named by CHROMIUM; and requirements-site.txt.

`make test-site` asks for them, and fails where one is missing; elsewhere they are skipped, and one line says why.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "build" / "site"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MACOS = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"


def _browser() -> str:
    named = os.environ.get("CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), "") or (MACOS if Path(MACOS).exists() else "")


def _missing() -> str:
    """What these tests need and do not find, or that nobody asked for them."""
    if os.environ.get("BROWSER_TESTS") != "required":
        return "make test-site runs them"
    if not _browser():
        return "no Chromium or Chrome on the path: install one (apt-get install chromium), or name it in CHROMIUM"
    needed = ("playwright", "axe_playwright_python", "sphinx", "myst_nb", "furo")
    absent = [name for name in needed if not importlib.util.find_spec(name)]
    return f"{', '.join(absent)} not installed: make test-site installs requirements-site.txt" if absent else ""


MISSING = _missing()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is in this folder where it cannot run."""
    if not MISSING:
        return
    if os.environ.get("BROWSER_TESTS") == "required":
        raise pytest.UsageError(f"the tests in a browser cannot run: {MISSING}")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=MISSING))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line for all of them."""
    if MISSING:
        terminalreporter.write_line(f"The tests in a browser are skipped: {MISSING}.")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless browser that talks to nobody by itself."""
    from playwright.sync_api import sync_playwright

    quiet = ["--disable-background-networking", "--disable-component-update", "--no-first-run", "--disable-gpu"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        quiet.append("--no-sandbox")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=_browser(), args=quiet)
        yield started
        started.close()


@pytest.fixture(scope="session")
def folder() -> Path:
    """The book's folder; it is built if it is not there."""
    if not (BOOK / "index.html").exists():
        subprocess.run([sys.executable, str(ROOT / "site" / "book.py")], check=True, cwd=ROOT)
    return BOOK


@pytest.fixture(scope="session")
def address(folder: Path) -> Iterator[str]:
    """Where the book is served on this machine: `http://127.0.0.1:port/`."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    class Calm(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a browser that leaves a page hangs up

    server = Calm(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


class Complaints(list[str]):
    """What a page logged, failed to load, or asked of other machines."""

    def watch(self, page: Any) -> None:
        """Listen to `page` from now on; requests to other machines are stopped."""
        page.on("console", lambda message: self._said(page, message.type, message.text))
        page.on("pageerror", lambda error: self._said(page, "error", str(error)))
        page.on("requestfailed", lambda request: self._failed(page, request))
        page.on("response", lambda response: self._answered(page, response.status, response.url))
        page.route(lambda url: not url.startswith(("http://127.0.0.1:", "data:", "blob:", "file:")), self._stop)

    def _said(self, page: Any, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.append(f"{page.url}: {kind}: {text}")

    def _failed(self, page: Any, request: Any) -> None:
        if "ERR_ABORTED" not in str(request.failure):  # the page was left before it was complete
            self.append(f"{page.url}: {request.url[:200]}: {request.failure}")

    def _answered(self, page: Any, status: int, url: str) -> None:
        if status >= 400:
            self.append(f"{page.url}: {url} answers {status}")

    def _stop(self, route: Any) -> None:
        self.append(f"a request leaves the machine: {route.request.url[:200]}")
        route.abort()


@pytest.fixture
def complaints() -> Complaints:
    """Empty; `complaints.watch(page)` fills it."""
    return Complaints()


@pytest.fixture
def page(browser: Any, complaints: Complaints) -> Iterator[Any]:
    """A page of its own, 1280 pixels wide and light, that is watched."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    opened = context.new_page()
    complaints.watch(opened)
    yield opened
    context.close()
