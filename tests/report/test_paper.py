"""The paper's figures of a run: enough of them, the same each time, made by the calls that the gallery shows."""

import json
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import plotly.io as pio
import pytest

from tests.chromium import FOUND
from tests.fake_records import DOMAINS, fake_run
from tests.pages import Page
from workbench.figures import Drawing, Figure, draw
from workbench.records import save_table
from workbench.report import write_paper
from workbench.report.paper import PREAMBLE
from workbench.runs import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run(tmp_path_factory.mktemp("runs") / "paper", DOMAINS[:3], n_layers=3, d_model=64)


@pytest.fixture(scope="module")
def drawings(run: Path) -> list[Drawing]:
    return draw(Run(run))


@pytest.fixture(scope="module")
def without_browser(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The figures as they are written where there is no browser."""
    folder = tmp_path_factory.mktemp("paper") / "figures"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BROWSER_PATH", str(folder / "absent"))
        write_paper(run, folder)
    return folder


def test_there_are_at_least_eight_figures_and_all_have_captions(drawings: list[Drawing]) -> None:
    assert len(drawings) >= 8
    assert len({drawing.name for drawing in drawings}) == len(drawings)
    assert all(len(drawing.caption) > 20 and drawing.caption.endswith(".") for drawing in drawings)


def test_redrawing_from_the_records_gives_equal_json(run: Path, drawings: list[Drawing]) -> None:
    again = draw(Run(run))
    assert [item.figure.to_json() for item in again] == [item.figure.to_json() for item in drawings]
    assert [item.caption for item in again] == [item.caption for item in drawings]


def test_every_call_of_the_gallery_makes_its_figure(run: Path, drawings: list[Drawing]) -> None:
    names: dict[str, object] = {}
    exec(PREAMBLE.format(folder=run), names)
    for drawing in drawings:
        made = eval(drawing.call, names)
        assert isinstance(made, Figure)
        assert made.to_json() == drawing.figure.to_json(), drawing.name


def test_the_gallery_shows_every_figure_with_its_call_and_loads_nothing(
    without_browser: Path, drawings: list[Drawing]
) -> None:
    page = Page((without_browser / "gallery.html").read_text(encoding="utf-8"))
    assert not page.unbalanced
    assert page.requests() == ["assets/plotly.min.js"]
    assert [name for name, *_ in page.plots()] == [f"plot-{drawing.name}" for drawing in drawings]
    shown = [element.text for element in page.all("code")]
    assert shown[1:] == [drawing.call for drawing in drawings]


def test_the_manifest_says_what_the_figures_are_made_of_and_names_no_path_of_this_machine(
    without_browser: Path, run: Path, drawings: list[Drawing]
) -> None:
    text = (without_browser / "manifest.json").read_text(encoding="utf-8")
    manifest, made_from = json.loads(text), json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    for part in ("seeds", "model", "data", "versions"):
        assert manifest["run"][part] == made_from[part]
    written = [path for path in (run / "records").rglob("*") if path.is_file()]
    assert set(manifest["records"]) == {path.relative_to(run / "records").as_posix() for path in written}
    assert manifest["drawn_with"]["plotly"]
    assert [item["name"] for item in manifest["figures"]] == [drawing.name for drawing in drawings]
    for known in (str(run), str(run.parent), str(Path.home()), os.getcwd()):
        assert known not in text


def test_another_record_gives_another_hash(run: Path, tmp_path: Path, without_browser: Path) -> None:
    other = tmp_path / "run"
    shutil.copytree(run, other)
    save_table([], other / "records" / "detectors.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BROWSER_PATH", str(tmp_path / "absent"))
        write_paper(other, tmp_path / "figures")
    before, after = (
        json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["records"]
        for folder in (without_browser, tmp_path / "figures")
    )
    assert {name for name in before if before[name] != after[name]} == {"detectors.json"}
    assert not (tmp_path / "figures" / "detectors.html").exists()


# --- with a browser ---------------------------------------------------------------------------------------------------


def needed(found: str | None, what: str) -> str:
    """A program that a test needs: without it the test fails where CI is set and is skipped elsewhere."""
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs {what}")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    needed(FOUND, "Chromium")
    folder = tmp_path_factory.mktemp("paper") / "figures"
    _, obstacle = write_paper(run, folder)
    assert obstacle is None
    return folder


@pytest.mark.browser
@pytest.mark.slow
def test_every_figure_is_there_in_every_format(exported: Path, drawings: list[Drawing]) -> None:
    listed = json.loads((exported / "manifest.json").read_text(encoding="utf-8"))["figures"]
    for item in listed:
        assert {Path(name).suffix for name in item["files"]} >= {".pdf", ".svg", ".png", ".html", ".csv"}
        assert all((exported / name).stat().st_size > 100 for name in item["files"])
    assert len(listed) == len(drawings)


@pytest.mark.browser
@pytest.mark.slow
def test_pdf_files_embed_every_font_and_have_the_columns_width(exported: Path, drawings: list[Drawing]) -> None:
    pdffonts = needed(shutil.which("pdffonts"), "pdffonts of poppler-utils")
    pdfinfo = needed(shutil.which("pdfinfo"), "pdfinfo of poppler-utils")
    for drawing in drawings:
        path = exported / f"{drawing.name}.pdf"
        fonts = subprocess.run([pdffonts, path], check=True, capture_output=True, text=True).stdout.splitlines()[2:]
        assert fonts, f"{drawing.name} has no text"
        for line in fonts:
            assert "Type 3" not in line
            *_, embedded, subset, _, _, _ = line.split()
            assert (embedded, subset) == ("yes", "yes"), line
        about = subprocess.run([pdfinfo, path], check=True, capture_output=True, text=True).stdout
        (width,) = re.findall(r"Page size:\s+([\d.]+)", about)
        assert abs(float(width) / 72 * 25.4 - {"one-column": 85, "two-column": 175}[drawing.preset]) < 1.5
        assert re.findall(r"Pages:\s+(\d+)", about) == ["1"]


@pytest.mark.browser
@pytest.mark.slow
def test_png_files_have_300_dots_per_inch_and_svg_files_load_nothing(exported: Path, drawings: list[Drawing]) -> None:
    for drawing in drawings:
        head = (exported / f"{drawing.name}.png").read_bytes()[16:24]
        width, _ = struct.unpack(">II", head)
        assert abs(width - {"one-column": 85, "two-column": 175}[drawing.preset] / 25.4 * 300) < 4
        drawn = (exported / f"{drawing.name}.svg").read_text(encoding="utf-8")
        assert not re.search(r"(?:href|src)=.https?:|url\(.?https?:|@import", drawn)
        sizes = {float(size) for size in re.findall(r"font-size: ([\d.]+)px", drawn)}
        assert sizes
        assert all(abs(size - 8 * 96 / 72) < 0.02 for size in sizes)


@pytest.mark.browser
@pytest.mark.slow
def test_plotly_draws_the_same_json_that_was_compared(exported: Path, drawings: list[Drawing]) -> None:
    (plot,) = Page((exported / f"{drawings[0].name}.html").read_text(encoding="utf-8")).plots()
    assert plot[1] == json.loads(pio.to_json(drawings[0].figure))["data"]
