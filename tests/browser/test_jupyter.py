"""The notebooks in JupyterLab: they run, their sliders move, and what was seen is there when they are opened again."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[2]
SLOWEST = 600_000  # milliseconds that a notebook may run on a busy machine


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with copies of two notebooks, and beside it the files they read."""
    base = tmp_path_factory.mktemp("lab")
    (base / "notebooks").mkdir()
    for name in ("00_start_here.ipynb", "05_elastic_weight_consolidation.ipynb"):
        shutil.copy(ROOT / "notebooks" / name, base / "notebooks")
    for part in ("checkpoints", "results"):
        shutil.copytree(ROOT / "files" / part, base / "files" / part)
    return base / "notebooks"


@pytest.fixture(scope="module")
def lab(work: Path) -> Iterator[str]:
    """JupyterLab's address; it serves `work`, to this machine alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = ["--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    settings += ["--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True", f"--ServerApp.root_dir={work}"]
    settings += [
        "--LabApp.news_url=",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    own = {"JUPYTER_CONFIG_DIR": str(work.parent / "config"), "JUPYTERLAB_SETTINGS_DIR": str(work.parent / "settings")}
    own |= {"JUPYTERLAB_WORKSPACES_DIR": str(work.parent / "workspaces"), "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    log = (work.parent / "log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *settings],
        env=os.environ | own | {"PYTHONPATH": paths},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urlopen(f"{address}/api", timeout=5).close()
                break
            except (URLError, OSError):
                assert server.poll() is None, (work.parent / "log").read_text(encoding="utf-8")
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(20)
        log.close()


@pytest.mark.parametrize(
    ("name", "cell"),
    [("00_start_here", "00-lambda-slider"), ("05_elastic_weight_consolidation", "05-try-slider")],
)
def test_a_notebook_runs_its_slider_moves_and_pictures_stay(
    browser: Any, lab: str, work: Path, name: str, cell: str
) -> None:
    file = work / f"{name}.ipynb"
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    _open(page, lab, name)
    for command in ("clear-all-cell-outputs", "run-all-cells"):
        page.evaluate(f"() => {{ jupyterapp.commands.execute('notebook:{command}'); }}")  # and do not wait here
    page.wait_for_function(
        """() => {
            const cells = jupyterapp.shell.currentWidget.content.model.cells;
            const code = Array.from(cells).filter(cell => cell.type === 'code' && cell.sharedModel.source.trim());
            return code.every(cell => cell.executionCount !== null && cell.executionState !== 'running');
        }""",
        timeout=SLOWEST,
    )
    page.evaluate(f"""() => {{
        const notebook = jupyterapp.shell.currentWidget.content;
        const place = Array.from(notebook.model.cells).findIndex(cell => cell.id === '{cell}');
        notebook.activeCellIndex = place;
        return notebook.scrollToItem(place).then(() => true);
    }}""")
    slider = page.locator(".jp-Cell.jp-mod-active [role=slider]").first
    slider.wait_for()
    shown = page.locator(".jp-Cell.jp-mod-active .jp-OutputArea-output figure img").last
    before = shown.get_attribute("alt")
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "before => [...document.querySelectorAll('.jp-Cell.jp-mod-active figure img')].some(i => i.alt !== before)",
        arg=before,
        timeout=60_000,
    )
    after = shown.get_attribute("alt")
    assert after.rpartition("Shown: ")[2] != before.rpartition("Shown: ")[2]
    page.evaluate("jupyterapp.commands.execute('docmanager:save').then(() => true)")
    page.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty")
    context.close()

    stored = json.loads(file.read_text(encoding="utf-8"))
    assert not [o for c in stored["cells"] for o in c.get("outputs", []) if o["output_type"] == "error"]

    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    _open(page, lab, name)
    place = next(k for k, each in enumerate(stored["cells"]) if each["id"] == cell)
    page.evaluate(f"jupyterapp.shell.currentWidget.content.scrollToItem({place}).then(() => true)")
    again = page.locator(f'.jp-Cell figure img[alt="{after}"]').first
    again.wait_for()
    assert again.evaluate("image => image.naturalWidth") > 100
    context.close()


def _open(page: Any, lab: str, name: str) -> None:
    page.goto(f"{lab}/lab/workspaces/{name}-{time.monotonic_ns()}/tree/{name}.ipynb?reset")
    page.wait_for_function("window.jupyterapp && jupyterapp.shell.currentWidget?.content?.model?.cells.length > 0")
    page.evaluate("jupyterapp.shell.currentWidget.context.ready.then(() => true)")
    page.evaluate("jupyterapp.shell.currentWidget.sessionContext.ready.then(() => true)")
