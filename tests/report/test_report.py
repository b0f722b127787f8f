"""The report of a run folder: one file, no request, nothing lost, nothing claimed that the numbers do not say."""

import json
import shutil
from pathlib import Path

import pytest

from tests.fake_records import (
    DOMAINS,
    HOSTILE,
    fake_contrasts,
    fake_dcds,
    fake_detectors,
    fake_rows,
    fake_run,
    fake_statistics,
)
from tests.pages import Page
from workbench.records import RecordError, read_json, save_record, save_table
from workbench.report import write_report

PLOTLY = "assets/plotly.min.js"  # beside the page, for all pages of a run
PARTS = ("statistics.safetensors", "rows.npy", "dcds.json", "detectors.json", "contrasts.json")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = fake_run(tmp_path_factory.mktemp("runs") / "whole")
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page((run / "report.html").read_text(encoding="utf-8"))


def text_of(page: Page) -> str:
    """What a reader sees, without scripts and styles."""
    return " ".join(" ".join(element.text.split()) for element in page.all("main"))


def test_the_report_makes_no_request_and_the_browser_would_refuse_one(page: Page) -> None:
    assert page.requests() == [PLOTLY]
    policies = [e.attributes["content"] for e in page.all("meta") if "Policy" in e.attributes.get("http-equiv", "")]
    rules = dict(rule.strip().split(" ", 1) for rule in policies[0].split(";"))
    assert rules["default-src"] == "'none'"
    allowed = {source for name, sources in rules.items() for source in sources.split() if name != "default-src"}
    assert allowed <= {"'unsafe-inline'", "'none'", "data:", "blob:", "'self'", "file:"}


def test_a_request_in_the_page_would_be_seen() -> None:
    for planted in (
        '<img src="http://example.org/a.png">',
        '<link href="//example.org/a.css">',
        "<style>p { background: url(https://example.org/a.png) }</style>",
        '<p style="background: url(//example.org/a.png)"></p>',
        '<style>@import "https://example.org/a.css";</style>',
    ):
        assert Page(planted).requests(), planted


def test_plotly_is_shared_by_all_pages_of_the_run_and_no_figure_has_its_cloud_button(page: Page, run: Path) -> None:
    assert (run / PLOTLY).stat().st_size > 1_000_000
    assert not any("plotly.js v" in script.text for script in page.all("script"))
    written = list((run / "figures").glob("*.html"))
    assert len(written) == len(page.plots())
    for path in written:
        assert Page(path.read_text(encoding="utf-8")).requests() == [f"../{PLOTLY}"]
        assert path.stat().st_size < 1_000_000
    plots = page.plots()
    assert len(plots) >= 9
    assert all(config["showSendToCloud"] is False for _, _, _, config in plots)


def test_hostile_token_text_stays_text(page: Page) -> None:
    assert not page.unbalanced
    scripts = page.all("script")
    layouts = [script for script in scripts if script.attributes.get("type") == "application/json"]
    assert len(layouts) == len(page.plots())
    assert len(scripts) - len(layouts) == 2 + len(page.plots())  # plotly.js, the page's own script, one per figure
    assert HOSTILE in text_of(page)


def test_every_figure_and_table_can_be_reached_without_seeing_or_a_mouse(page: Page) -> None:
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    captions = {e.attributes.get("id"): e.text for e in page.all("figcaption")}
    images = [e for e in page.elements if e.attributes.get("role") == "img"]
    assert len(images) == len(page.plots())
    for image in images:
        assert image.attributes["aria-label"]
        assert len(captions[image.attributes["aria-describedby"]]) > 20
    for region in (e for e in page.elements if e.attributes.get("role") == "region"):
        assert region.attributes["tabindex"] == "0"
        assert region.attributes["aria-label"]
    assert page.all("html")[0].attributes["lang"] == "en"


def test_the_table_of_contents_leads_to_every_section(page: Page) -> None:
    ids = {element.attributes.get("id") for element in page.elements}
    targets = [link.attributes["href"].removeprefix("#") for link in page.all("a")]
    assert set(targets) <= ids
    assert {section.attributes["id"] for section in page.all("section")} <= set(targets)


def test_light_dark_and_print_are_provided(page: Page) -> None:
    style = page.all("style")[0].text
    assert "@media (prefers-color-scheme: dark)" in style
    assert "@media print" in style


def test_the_tables_hold_every_record(page: Page) -> None:
    rows = [[cell for cell in row.text.split("\n") if cell] for row in page.all("tr")]
    assert len(rows) > 300
    captions = [caption.text for caption in page.all("caption")]
    n_tables = {caption: 0 for caption in captions}
    current = ""
    for element in page.elements:
        if element.tag == "caption":
            current = element.text
        elif element.tag == "td" and current:
            n_tables[current] += 1
        elif element.tag == "mark":
            current = ""
    by_magnitude = [dcd for dcd in fake_dcds() if dcd.selection == "magnitude"]
    assert n_tables[next(c for c in captions if "by magnitude" in c)] == 8 * len(by_magnitude)
    for metric in ("domain loss", "domain share"):
        own = [item for item in fake_contrasts() if item.metric == metric]
        against = [item for item in own if item.against == "unsteered"]
        assert n_tables[f"Every arm against the unsteered model: {metric}"] == 10 * len(against)
        assert n_tables[f"Arm against arm: {metric}"] == 10 * (len(own) - len(against))
    splits = n_tables["Documents per domain and split"]
    assert splits == 4 * len(DOMAINS)


def test_numbers_that_were_not_measured_are_never_printed_as_numbers(page: Page) -> None:
    cells = [cell.text.strip().lower() for cell in page.all("td")]
    assert not {"nan", "nan to nan", "none", "inf"} & set(cells)
    assert "nan" not in [word.strip(".,;()").lower() for word in text_of(page).split()]


def test_manifest_seeds_and_classifier_are_stated(page: Page, run: Path) -> None:
    manifest = read_json(run / "manifest.json")
    assert json.loads(page.all("pre")[0].text) == manifest
    text = text_of(page)
    assert "assigns 93% of 336 held-out passages and 80% of 56 unsteered texts" in text
    assert "guessing gives 1 in 7" in text


def test_the_report_is_small_and_the_same_each_time(run: Path) -> None:
    first = (run / "report.html").read_bytes()
    assert len(first) <= 4_000_000
    assert write_report(run).read_bytes() == first
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def test_a_wide_model_and_many_domains_still_give_a_small_report(tmp_path: Path) -> None:
    domains = tuple(f"subject {index}" for index in range(14))
    records = tmp_path / "records"
    records.mkdir()
    save_record(fake_statistics(domains, 13, 512), records / "statistics.safetensors")
    save_record(fake_rows(domains, 2, 512), records / "rows.npy")
    save_table(fake_dcds(domains, 512), records / "dcds.json")
    save_table(fake_detectors(domains, 13, 512), records / "detectors.json")
    save_table(fake_contrasts(domains), records / "contrasts.json")
    path = write_report(tmp_path)
    assert path.stat().st_size <= 4_000_000
    assert "The first 12 of 14 domains are drawn." in text_of(Page(path.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run(tmp_path_factory.mktemp("runs") / "small", DOMAINS[:2], n_layers=2, d_model=64)


@pytest.mark.parametrize("missing", [*PARTS, "manifest.json", "summary.json", "classifier.json"])
def test_a_missing_part_is_named_and_the_rest_is_shown(missing: str, small_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(small_run, folder)
    whole = text_of(Page(write_report(folder).read_text(encoding="utf-8")))
    next(folder.rglob(missing)).unlink()
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    text = text_of(page)
    assert not page.unbalanced
    assert len(page.plots()) >= 4
    if missing != "classifier.json":
        assert f"Not in this run: {missing}." in text
    is_said = text.count("This run holds no") > whole.count("This run holds no")
    assert is_said == (missing in (*PARTS, "manifest.json"))


def test_a_run_that_found_nothing_is_reported_as_such(tmp_path: Path) -> None:
    records = tmp_path / "records"
    records.mkdir()
    save_record(fake_statistics(), records / "statistics.safetensors")
    for name in ("dcds", "detectors", "contrasts"):
        save_table([], records / f"{name}.json")
    text = text_of(Page(write_report(tmp_path).read_text(encoding="utf-8")))
    for what in ("domain-critical dimensions", "detectors", "steering comparison"):
        assert f"This run holds no {what}" in text


def test_a_folder_without_records_is_refused_and_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no records"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_record_is_named(small_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(small_run, folder)
    (folder / "records" / "dcds.json").write_text("{", encoding="utf-8")
    with pytest.raises(RecordError, match=r"dcds\.json"):
        write_report(folder)


def test_the_words_follow_the_numbers(small_run: Path, tmp_path: Path, page: Page) -> None:
    folder = tmp_path / "run"
    shutil.copytree(small_run, folder)
    nothing = [item for item in fake_contrasts(DOMAINS[:2], scale=0.0) if item.against == "unsteered"]
    save_table(nothing, folder / "records" / "contrasts.json")
    text = text_of(Page(write_report(folder).read_text(encoding="utf-8")))
    assert "No arm differs from unsteered in domain loss" in text
    assert "steered arms differ detectably from unsteered in domain loss" in text
    assert "intervals exclude zero" not in text
    readings = [item for item in nothing if item.n]
    assert text.count("not detected (minimum detectable difference") == len(readings)
    assert "No arm differs" not in text_of(page)
