"""The report as a person opens it: in Chromium, light and dark, wide and narrow, by keyboard, on paper."""

import base64
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.chromium import Tab, chromium
from tests.fake_records import DOMAINS, fake_run
from tests.report.test_paper import needed
from workbench.report import write_report

pytestmark = [pytest.mark.browser, pytest.mark.slow]

DRAWN = """document.readyState === 'complete' && document.querySelectorAll('.plotly-graph-div').length > 7 &&
    [...document.querySelectorAll('.plotly-graph-div')].every(plot => plot.querySelector('svg.main-svg'))"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = fake_run(tmp_path_factory.mktemp("runs") / "seen", DOMAINS[:4], n_layers=3, d_model=64)
    return write_report(folder)


@pytest.fixture(scope="module")
def tab(report: Path) -> Iterator[Tab]:
    with chromium(report.as_uri(), width=1300, height=1000) as opened:
        opened.wait(DRAWN, 90)
        yield opened


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder and remembers what was asked for."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def served(report: Path) -> Iterator[tuple[str, list[str]]]:
    handler = type("Asked", (Handler,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(report.parent))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", handler.asked
        server.shutdown()
        thread.join()


def loaded(tab: Tab) -> list[str]:
    """Everything that the page asked for after itself, as the browser counts it; its own icon is no request of ours."""
    names = tab.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
    return [name for name in names if not name.startswith(("data:", "blob:")) and "favicon" not in name]


def test_the_report_asks_for_nothing_but_the_shared_plotly(served: tuple[str, list[str]]) -> None:
    address, asked = served
    with chromium(f"{address}report.html") as tab:
        tab.wait(DRAWN, 90)
        tab.wait("document.readyState === 'complete'")
        assert loaded(tab) == [f"{address}assets/plotly.min.js"]
    assert [path for path in asked if "favicon" not in path] == ["/report.html", "/assets/plotly.min.js"]


def test_the_browser_refuses_a_request_that_a_figure_might_make(tab: Tab) -> None:
    script = """new Promise(done => {
        document.addEventListener('securitypolicyviolation', event => done(event.effectiveDirective), {once: true});
        fetch('http://127.0.0.1:9/').catch(() => 0);
        setTimeout(() => done('nothing refused'), 5000);
    })"""
    assert tab.evaluate(script) == "connect-src"


def test_a_page_that_asks_would_be_seen(served: tuple[str, list[str]], report: Path) -> None:
    (report.parent / "asks.html").write_text("<p>seen<script src='manifest.json'></script>", encoding="utf-8")
    address, asked = served
    with chromium(f"{address}asks.html") as tab:
        tab.wait("document.readyState === 'complete'")
        assert len(loaded(tab)) == 1
    assert "/manifest.json" in asked


def test_every_figure_is_drawn_and_none_offers_the_cloud(tab: Tab) -> None:
    seen = tab.evaluate(
        "[...document.querySelectorAll('.plotly-graph-div')].map(p => "
        "({w: p.querySelector('svg').getBoundingClientRect().width, n: p.querySelectorAll('.trace, .hm').length}))"
    )
    assert len(seen) >= 8
    assert all(one["w"] > 400 and one["n"] > 0 for one in seen)
    titles = tab.evaluate("[...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title || '').join('|')")
    assert "cloud" not in titles.lower()
    assert "studio" not in titles.lower()


def emulate(tab: Tab, *, width: int = 1300, scheme: str = "light", media: str = "") -> None:
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    tab.call("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    tab.call("Emulation.setEmulatedMedia", {"media": media, "features": features})
    tab.evaluate("new Promise(done => setTimeout(done, 1500))")


@pytest.mark.parametrize("width", [375, 800, 1300])
def test_the_page_itself_never_scrolls_sideways(tab: Tab, width: int) -> None:
    emulate(tab, width=width)
    tab.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    over = "[...document.querySelectorAll('.plot-scroll')].map(e => e.scrollWidth - e.clientWidth)"
    assert max(tab.evaluate(over)) <= 0
    emulate(tab)


def colours(tab: Tab) -> list[dict[str, Any]]:
    script = """[...document.querySelectorAll('p, td, th, h2, h3, figcaption, summary, a')].slice(0, 400).map(e =>
        ({text: getComputedStyle(e).color, page: getComputedStyle(document.body).backgroundColor}))"""
    return tab.evaluate(script)


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours by WCAG 2."""
    shades = []
    for colour in (one, other):
        channels = [int(part) / 255 for part in colour.strip("rgba()").split(",")[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        shades.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(shades) + 0.05) / (min(shades) + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_a_light_and_on_a_dark_page(tab: Tab, scheme: str) -> None:
    emulate(tab, scheme=scheme)
    found = colours(tab)
    assert len(found) > 50
    assert min(contrast(each["text"], each["page"]) for each in found) >= 4.5
    ground = tab.evaluate("document.querySelector('.plotly-graph-div').layout.template.layout.paper_bgcolor")
    assert (ground.lower() == "#ffffff") == (scheme == "light")
    emulate(tab)


def test_everything_that_scrolls_or_opens_is_reached_by_the_tab_key_and_seen(tab: Tab) -> None:
    emulate(tab)
    tab.evaluate("document.querySelectorAll('details').forEach(each => { each.open = false; }); window.scrollTo(0, 0)")
    tab.evaluate("document.activeElement.blur()")
    press = {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9}
    reached: list[str] = []
    for _ in range(400):
        tab.call("Input.dispatchKeyEvent", {"type": "keyDown", **press})
        tab.call("Input.dispatchKeyEvent", {"type": "keyUp", **press})
        script = """(() => { const e = document.activeElement; const s = getComputedStyle(e);
            const label = e.getAttribute('aria-label') || e.textContent.slice(0, 40);
            return JSON.stringify([e.tagName, label, s.outlineStyle, e === document.body]) })()"""
        tag, label, outline, is_body = json.loads(tab.evaluate(script))
        if is_body:
            break
        assert outline != "none", f"the focus on {tag} {label} cannot be seen"
        reached.append(tag)
    n_contents = tab.evaluate("document.querySelectorAll('nav a').length")
    n_figures = tab.evaluate("[...document.querySelectorAll('.plot-scroll')].filter(e => e.offsetParent).length")
    n_details = tab.evaluate("[...document.querySelectorAll('summary')].filter(e => e.offsetParent).length")
    assert reached.count("A") >= n_contents + 1  # and the link that skips to the content
    assert reached.count("SUMMARY") == n_details
    assert reached.count("DIV") >= n_figures


def test_on_paper_everything_is_light_and_figures_fit_the_page(tab: Tab, tmp_path: Path) -> None:
    emulate(tab, scheme="dark")
    tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    emulate(tab, scheme="dark", media="print")
    assert contrast(tab.evaluate("getComputedStyle(document.body).backgroundColor"), "rgb(255, 255, 255)") < 1.01
    seen = tab.evaluate(
        "[...document.querySelectorAll('.plotly-graph-div')].map(p => "
        "[p.layout.template.layout.paper_bgcolor.toLowerCase(), p.layout.width])"
    )
    assert {ground for ground, _ in seen} == {"#ffffff"}
    assert len({width for _, width in seen}) == 1
    assert seen[0][1] * 0.66 <= (210 - 2 * 14) / 25.4 * 96  # A4 with the margins and the zoom of the style sheet
    emulate(tab)
    tab.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert tab.evaluate("document.querySelector('.plotly-graph-div').layout.width") is None


def test_the_report_prints_as_pages_that_hold_its_text(tab: Tab, tmp_path: Path) -> None:
    emulate(tab)
    printed = base64.b64decode(tab.call("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    (tmp_path / "report.pdf").write_bytes(printed)
    pdftotext = needed(shutil.which("pdftotext"), "pdftotext of poppler-utils")
    text = subprocess.run([pdftotext, tmp_path / "report.pdf", "-"], check=True, capture_output=True, text=True).stdout
    assert text.count("\f") >= 5
    for words in ("In short", "Dimension magnitudes per layer", "Methods", "Manifest"):
        assert words in text
