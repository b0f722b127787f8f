"""Pages of all kinds of runs: a broken figure ends them with its name, and no text of a record becomes markup."""

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from tests.fake_records import HOSTILE, fake_comparison, fake_run
from tests.pages import Page
from workbench.cli.app import app
from workbench.figures import FIGURES, FigureError, catalogue, draw
from workbench.records import LockedError
from workbench.report import write_figures, write_paper, write_report
from workbench.runs import Run

DOMAINS = ("law", "code", "physics", "biology", "art")
EVIL = (HOSTILE, "<b>code</b>", '"><script>alert(2)</script>', "a & b", "art")


def scripts_of(path: Path) -> list[str]:
    """What runs on a page besides Plotly, the page's own script and the drawing of figures."""
    page = Page(path.read_text(encoding="utf-8"))
    assert not page.unbalanced, path
    assert not [element for element in page.all("b") if element.text == "code"]
    known = ("plotly.js v", "window.PLOTLYENV", "const templates")
    plain = [one for one in page.all("script") if one.attributes.get("type") != "application/json"]
    return [one.text for one in plain if "src" not in one.attributes and not any(word in one.text for word in known)]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run(tmp_path_factory.mktemp("runs") / "study", EVIL, n_layers=2, d_model=64)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_comparison(tmp_path_factory.mktemp("runs"), EVIL)


def test_no_name_in_a_record_becomes_markup_on_any_page(
    study: Path, comparison: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "absent"))
    for run in (study, comparison):
        report = write_report(run)
        write_paper(run, tmp_path / run.name)
        pages = [report, tmp_path / run.name / "gallery.html", *(run / "figures").glob("*.html")]
        assert len(pages) > 8
        for page in pages:
            assert scripts_of(page) == [], page.name
        text = " ".join(element.text for element in Page(report.read_text(encoding="utf-8")).all("td"))
        assert all(name in text for name in EVIL)


def test_a_page_that_a_name_got_into_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(f"<p>{HOSTILE}</p>", encoding="utf-8")
    assert scripts_of(tmp_path / "page.html") == ["alert('x')"]


@pytest.mark.parametrize("kind", ["magnitudes", "forest"])
def test_a_fault_in_a_figure_ends_the_report_with_its_name(
    kind: str, study: Path, comparison: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*records: object, **options: object) -> None:
        raise ValueError("operands could not be broadcast together")

    planted = [dataclasses.replace(one, figure=broken) if one.name == kind else one for one in FIGURES]
    monkeypatch.setattr(catalogue, "FIGURES", planted)
    for run in (study, comparison) if kind == "forest" else (study,):
        with pytest.raises(FigureError, match=f"the figure {kind}.*ValueError: operands could not be broadcast"):
            write_report(run)


def test_a_figure_with_nothing_to_draw_is_left_out(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        catalogue,
        "FIGURES",
        [dataclasses.replace(one, figure=lambda *records, **options: None, caption=len) for one in FIGURES],
    )
    assert draw(Run(study)) == []


def test_a_comparison_has_its_page_its_figures_and_its_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_comparison(tmp_path, DOMAINS)
    page = Page(write_report(run).read_text(encoding="utf-8"))
    text = " ".join(" ".join(element.text.split()) for element in page.all("main"))
    assert "1 methods" not in text or "1 methods and all controls on 5 tasks" in text
    assert "n/a [1] because it has no pairs" in text
    names = {name.removeprefix("plot-") for name, *_ in page.plots()}
    assert {"effect-domain-loss", "front-domain-loss", "forest-domain-share", "strength-domain-loss-law"} <= names
    assert {"damage-domain-loss-law", "domains-cds-both-domain-loss"} <= names
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "absent"))
    write_paper(run, tmp_path / "paper")
    latex = (tmp_path / "paper" / "tables" / "damage.tex").read_text(encoding="utf-8")
    assert r"\toprule" in latex
    assert "nats per token" in latex
    markdown = (tmp_path / "paper" / "tables" / "damage.md").read_text(encoding="utf-8")
    assert markdown.startswith("| task | arm | role |")


def test_a_masked_exam_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [["law", "rank", 1, 7, 12, 0.6, 0.2, 0.5], ["code", "rank", 1, 9, 12, 0.4, 0.3, 0.5]]
    names = ["subject", "role", "rank", "dimension", "n", "unmasked", "masked", "same_letter"]
    pd.DataFrame(rows, columns=pd.Index(names)).to_csv(tmp_path / "subjects.csv", index=False)
    assert [one.name for one in draw(Run(tmp_path))] == ["masked-exam"]
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "absent"))
    write_paper(tmp_path, tmp_path / "paper")
    assert {path.name for path in (tmp_path / "paper").glob("masked-exam.*")} == {
        f"masked-exam.{kind}" for kind in ("html", "csv", "tex", "md")
    }


def test_tables_escape_what_latex_and_markdown_would_read(study: Path, tmp_path: Path) -> None:
    from workbench.figures.export import write_tables

    frame = pd.DataFrame([["50 % & more_|", 0.123456]], columns=pd.Index(["name", "value"]))
    csv, latex, markdown = (path.read_text(encoding="utf-8") for path in write_tables(frame, tmp_path / "table"))
    assert "0.123456" in csv
    assert r"50 \% \& more\_| & 0.123" in latex
    assert r"| 50 % & more\_\| | 0.123 |" in markdown


def test_single_figures_can_be_asked_for_and_can_stand_alone(study: Path, tmp_path: Path) -> None:
    (alone,) = write_figures(study, tmp_path / "alone", only=["frequency"], alone=True)
    assert not Page(alone.read_text(encoding="utf-8")).requests()
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["frequency.html"]
    (shared,) = write_figures(study, tmp_path / "shared", only=["frequency"])
    assert Page(shared.read_text(encoding="utf-8")).requests() == ["assets/plotly.min.js"]
    with pytest.raises(ValueError, match=r"no figure 'magnitude'; choose from magnitudes, first-positions"):
        write_figures(study, only=["magnitude"])
    done = CliRunner().invoke(app, ["figures", str(study), "--only", "frequency", "--out", str(tmp_path / "cli")])
    assert done.output.strip() == str(tmp_path / "cli" / "frequency.html")


def test_findings_are_short_and_begin_with_their_number(study: Path, comparison: Path) -> None:
    from workbench.report.comparison import findings as compared
    from workbench.report.study import findings

    found = [*findings(Run(study)), *compared(Run(comparison).primary)]
    assert len(found) >= 6
    for finding in found:
        assert finding[0].isdigit(), finding
        for sentence in finding.split(". "):
            assert len(sentence.split()) <= 25, sentence


def test_only_one_process_writes_a_paper(tmp_path: Path) -> None:
    run = fake_comparison(tmp_path / "run", DOMAINS)
    holder = {"host": "elsewhere", "process": 1, "started": 0.0}
    (tmp_path / ".paper.lock").write_text(json.dumps(holder), encoding="utf-8")
    with pytest.raises(LockedError, match="on elsewhere writes"):
        write_paper(run, tmp_path / "paper")
    assert not (tmp_path / "paper").exists()
