"""The explorer in JupyterLab, in a browser: what a person clicks, slides and reads."""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from tests.chromium import Tab, chromium

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CELL = """
import workbench as wb
prompts = wb.load_corpus("builtin", domains=["law", "code"], limit=12)
wb.explore(wb.load_model(), prompts=prompts, n_tokens=12)
"""
PANEL = "[...window.jupyterapp.shell.widgets('main')].find(each => each.sessionContext)"
HEADING = "document.querySelector('.dimension-explorer h3').textContent"
STEERED = "document.querySelector('.dimension-explorer .steered').textContent"
PLAIN = "document.querySelector('.dimension-explorer .texts .text:not(.steered)').textContent"


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a notebook that opens the explorer, in a JupyterLab of its own."""
    folder, settings = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("jupyter")
    written = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    written.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(written, folder / "explorer.ipynb")
    token = secrets.token_hex(16)
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(settings / "config"),
        "JUPYTER_DATA_DIR": str(settings / "data"),
        "JUPYTER_RUNTIME_DIR": str(settings / "runtime"),
        "JUPYTER_TOKEN": token,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    options = ["--no-browser", "--port=0", "--ip=127.0.0.1", "--allow-root", "--LabApp.expose_app_in_browser=True"]
    command = [sys.executable, "-m", "jupyterlab", *options, f"--ServerApp.root_dir={folder}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=environment, **quiet) as server:
        try:
            yield f"{_address(settings / 'runtime', server)}lab/tree/explorer.ipynb?token={token}"
        finally:
            server.terminate()
            server.wait(30)


def _address(runtime: Path, server: "subprocess.Popen[bytes]") -> str:
    end = time.monotonic() + 240
    while time.monotonic() < end and server.poll() is None:
        for written in runtime.glob("jpserver-*.json") if runtime.is_dir() else ():
            return json.loads(written.read_text())["url"]
        time.sleep(0.2)
    raise AssertionError("JupyterLab did not start")


@pytest.fixture(scope="module")
def explorer(notebook: str) -> Iterator[Tab]:
    with chromium(notebook) as tab:
        tab.call("Emulation.setFocusEmulationEnabled", {"enabled": True})
        tab.wait(f"{PANEL}.sessionContext.session.kernel.id", 300)
        tab.evaluate(f"window.jupyterapp.shell.activateById({PANEL}.id)")
        tab.wait("window.jupyterapp.shell.currentWidget !== null")
        tab.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => true)")
        tab.wait("document.querySelector('.dimension-explorer canvas').clientWidth > 100", 400)
        yield tab


def cell_centre(tab: Tab, layer: int, dimension: int) -> tuple[float, float]:
    """Where on the screen a cell of the map of 6 layers and 256 dimensions is drawn."""
    tab.evaluate("document.querySelector('.dimension-explorer').scrollIntoView()")
    box = tab.evaluate(
        "(() => { const b = document.querySelector('.dimension-explorer canvas').getBoundingClientRect();"
        "return [b.left, b.top, b.width] })()"
    )
    left, top, width = box
    return left + 40 + (dimension + 0.5) / 256 * (width - 48), top + 12 + (5 - layer + 0.5) * 26


def test_click_slide_and_read(explorer: Tab, tmp_path: Path) -> None:
    static = "[...document.querySelectorAll('.dimension-card')].filter(card => card.offsetParent).length"
    assert explorer.evaluate(static) == 1, "the static card is hidden where the widget is live"

    explorer.click(*cell_centre(explorer, 4, 100))
    explorer.wait(f"{HEADING}.match(/^Dimension 100 in .*, layer 4$/)")
    explorer.press("ArrowLeft")
    explorer.press("ArrowUp")
    explorer.wait(f"{HEADING}.match(/^Dimension 99 in .*, layer 5$/)")

    explorer.evaluate(
        "(() => { const s = document.querySelector('.dimension-explorer select[name=edit]');"
        "s.value = 'all dimensions'; s.dispatchEvent(new Event('change')) })()"
    )
    explorer.wait(f"{STEERED} === {PLAIN}")
    explorer.evaluate(
        "(() => { const s = document.querySelector('.dimension-explorer input[name=strength]'); s.focus() })()"
    )
    explorer.press("End")
    explorer.wait(f"{STEERED} !== {PLAIN}")
    assert explorer.evaluate("document.querySelector('.dimension-explorer output').value") == "6"
    assert explorer.evaluate("document.querySelector('.dimension-explorer mark').textContent")
    explorer.press("Home")
    low = explorer.evaluate(STEERED)
    explorer.wait(f"{STEERED} !== {json.dumps(low)}")
    if folder := os.environ.get("WORKBENCH_SCREENSHOTS"):
        explorer.screenshot(Path(folder) / "explorer.png")


def test_another_domain_has_another_map_and_card(explorer: Tab) -> None:
    before = explorer.evaluate("document.querySelector('.dimension-explorer .caption').textContent")
    explorer.evaluate(
        "(() => { const s = document.querySelector('.dimension-explorer select[name=domain]');"
        "s.value = [...s.options].find(o => o.value !== s.value).value; s.dispatchEvent(new Event('change')) })()"
    )
    domain = explorer.evaluate("document.querySelector('.dimension-explorer select[name=domain]').value")
    explorer.wait(f"{HEADING}.includes('in {domain}, layer')")
    after = explorer.evaluate("document.querySelector('.dimension-explorer .caption').textContent")
    assert domain in after
    assert after != before
