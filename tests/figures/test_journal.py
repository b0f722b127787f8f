"""Figures for a paper: size, type and panels of a journal's column; data beside them that are what is drawn."""

import dataclasses
import json
import math
import re
from functools import cache

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from plotly.colors import hex_to_rgb, sample_colorscale

from tests.fake_records import DOMAINS, fake_contrasts, fake_dcds, fake_detectors, fake_statistics
from tests.figures.test_figures import FIGURES, LOSS, values
from workbench.figures import (
    PRESETS,
    Drawing,
    Preset,
    dcd_figure,
    detector_figure,
    export_figures,
    export_obstacle,
    figure_frame,
    forest_figure,
    journal_figure,
    magnitude_figure,
    profile_figure,
    token_figure,
    trade_off_figure,
)
from workbench.figures.journal import narrow_layout, wrap
from workbench.figures.style import DIVERGING, PALETTE, layer_colours
from workbench.records import TokenColumns

POINT = 96 / 72
KINDS = ("html", "csv", "tex", "md")  # without a browser


def fake_columns() -> TokenColumns:
    rng = np.random.default_rng(4)
    sink = np.concatenate([np.full((1, 2), 500.0), rng.normal(0, 3, (19, 2))])
    plain = rng.normal(0, 3, (20, 2))
    return TokenColumns(
        columns=((1, 5), (3, 137)),
        values=np.concatenate([sink, plain]).astype(np.float32),
        token_text=(*(f" w{index}" for index in range(39)), "<b>"),
        prompt_index=np.repeat([0, 1], 20),
        positions=np.tile(np.arange(20), 2),
        prompts=("law/0", "law/1"),
        domains=("law", "law"),
        splits=("test", "test"),
    )


DRAWN = FIGURES | {
    "dcds": lambda: dcd_figure(fake_dcds(), "magnitude"),
    "tokens": lambda: token_figure(fake_columns(), "law/0"),
}


@cache
def drawn(name: str) -> go.Figure:
    return DRAWN[name]()


def sizes_of_type(node: object, *, under: str = "") -> list[float]:
    """Every font size that a figure's plain layout or trace states outside its template."""
    found: list[float] = []
    if isinstance(node, dict):
        for name, value in node.items():
            if name.endswith("font") and isinstance(value, dict) and "size" in value:
                found.append(float(value["size"]))
            elif name not in ("template", "title" if under == "" else ""):
                found += sizes_of_type(value, under=name)
    elif isinstance(node, list | tuple):
        for item in node:
            found += sizes_of_type(item, under=under or "list")
    return found


def rectangles(figure: go.Figure) -> list[tuple[float, float, float, float]]:
    """Left, right, bottom and top of every panel in shares of the drawing area."""
    found = []
    for x, y in zip(figure.select_xaxes(), figure.select_yaxes(), strict=True):
        found.append((*(x.domain or (0, 1)), *(y.domain or (0, 1))))
    return found


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", DRAWN)
def test_a_journal_figure_has_the_columns_width_and_one_size_of_type(name: str, preset: str) -> None:
    made = journal_figure(drawn(name), preset)
    layout = made.to_dict()["layout"]
    assert abs(layout["width"] / 96 * 25.4 - {"one-column": 85, "two-column": 175}[preset]) < 0.2
    if (name, preset) != ("difference", "one-column"):  # whose 63 rows of two lines are higher than any page
        assert 60 < layout["height"] <= 225 / 25.4 * 96 + 1
    stated = sizes_of_type(layout) + [size for trace in made.data for size in sizes_of_type(trace.to_plotly_json())]
    assert stated
    np.testing.assert_allclose(stated, 8 * POINT)
    assert not layout.get("title", {}).get("text")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", DRAWN)
def test_panels_stay_within_the_drawing_area_and_apart(name: str, preset: str) -> None:
    panels = rectangles(journal_figure(drawn(name), preset))
    assert len(panels) == len(rectangles(drawn(name)))
    for index, (left, right, bottom, top) in enumerate(panels):
        assert 0 <= left < right <= 1 + 1e-9
        assert -1e-9 <= bottom < top <= 1 + 1e-9
        for a, b, c, d in panels[index + 1 :]:
            assert right <= a + 1e-9 or b <= left + 1e-9 or top <= c + 1e-9 or d <= bottom + 1e-9


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ["detector", "difference", "forest", "damage", "dcds"])
def test_named_rows_never_overprint(name: str, preset: str) -> None:
    layout = journal_figure(drawn(name), preset).to_dict()["layout"]
    inner = layout["height"] - layout["margin"]["t"] - layout["margin"]["b"]
    rows = [axis for key, axis in layout.items() if re.fullmatch(r"yaxis\d*", key) and axis.get("type") == "category"]
    assert rows
    for axis in rows:
        labels = axis.get("ticktext") or axis.get("categoryarray") or DOMAINS
        start, stop = axis.get("domain", (0, 1))
        lines = max(str(label).count("<br>") + 1 for label in labels)
        assert (stop - start) * inner / len(labels) >= 1.2 * lines * 8 * POINT


def test_a_preset_of_ones_own_brings_its_font_and_colours() -> None:
    mine = Preset("poster", width_mm=120.0, points=10.0, font="Georgia", colours=("#111111", "#222222"))
    made = journal_figure(drawn("profile"), mine)
    assert made.layout.font.family == "Georgia"
    assert {trace.line.color for trace in made.data} == {"#111111", "#222222"}
    assert drawn("profile").data[0].line.color == PALETTE[0]


@pytest.mark.parametrize("name", DRAWN)
def test_the_figure_given_is_not_changed_and_its_data_go_along(name: str) -> None:
    figure = drawn(name)
    before = figure.to_json()
    made = journal_figure(figure, "one-column")
    assert figure.to_json() == before
    pd.testing.assert_frame_equal(
        figure_frame(made), figure_frame(figure).set_axis(figure_frame(made).columns, axis="columns")
    )


def test_panels_can_be_laid_out_in_a_chosen_number_of_columns() -> None:
    made = journal_figure(magnitude_figure(fake_statistics()), "two-column", n_columns=2)
    assert len({round(left, 6) for left, *_ in rectangles(made)}) == 2


def test_a_row_of_panels_is_stacked_where_it_would_be_too_narrow() -> None:
    figure = profile_figure(fake_statistics(), 5)
    wide, narrow = (rectangles(journal_figure(figure, preset)) for preset in ("two-column", "one-column"))
    assert wide[0][1] < wide[1][0]  # side by side
    assert narrow[0][2] > narrow[1][3]  # one above the other
    titles = [axis.title.text for axis in journal_figure(figure, "one-column").select_yaxes()]
    assert all(titles)


def test_grid_figures_keep_one_title_per_direction_with_its_unit() -> None:
    notes = journal_figure(trade_off_figure(fake_contrasts(), LOSS), "one-column").layout.annotations
    free = [note.text.replace("<br>", " ") for note in notes if note.xref == "paper"]
    assert sorted(free) == ["KL to the unsteered model (nats per token)", "steered − unsteered (nats per token)"]


def test_an_unknown_preset_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(ValueError, match="one-column, two-column"):
        journal_figure(drawn("profile"), "poster")
    with pytest.raises(ValueError, match="unknown preset"):
        Drawing("profile", drawn("profile"), "seen", "call", "poster")


def test_a_title_breaks_before_its_unit_and_words_stay_whole() -> None:
    assert wrap("magnitude of it (activation units)", 100.0, 10.0) == "magnitude of it<br>(activation units)"
    assert wrap("one two three", 40.0, 10.0) == "one two<br>three"
    assert wrap("indivisible", 5.0, 10.0) == "indivisible"
    assert wrap("short", 500.0, 10.0) == "short"


# --- colours ----------------------------------------------------------------------------------------------------------


def lightness(colour: str) -> float:
    """CIE L* (0 black to 100 white) of a colour written as #rrggbb or rgb(r, g, b)."""
    channels = hex_to_rgb(colour) if colour.startswith("#") else tuple(map(int, re.findall(r"\d+", colour)[:3]))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in channels)]
    luminance = float(np.dot(linear, [0.2126, 0.7152, 0.0722]))
    return 116 * np.cbrt(luminance) - 16 if luminance > 216 / 24389 else luminance * 24389 / 27


def test_scales_become_lighter_throughout_so_that_they_can_be_read_in_grey() -> None:
    diverging = sample_colorscale([list(step) for step in DIVERGING], np.linspace(0, 1, 21).tolist())
    cividis = sample_colorscale("Cividis", np.linspace(0, 1, 21).tolist())
    for scale in (diverging, cividis, layer_colours(6)):
        shades = np.array([lightness(colour) for colour in scale])
        assert (np.diff(shades) > 0).all()


def test_series_of_like_shade_differ_in_mark_or_line() -> None:
    shades = {colour: lightness(colour) for colour in PALETTE}
    for name in ("profile", "first position", "effect", "detector", "forest"):
        looks: dict[str, tuple] = {}
        for trace in drawn(name).data:
            if trace.mode == "text" or not trace.name:
                continue
            symbol = trace.marker.symbol
            first = symbol if isinstance(symbol, str) or symbol is None else (list(symbol) or [None])[0]
            colour = trace.marker.color or trace.line.color
            look = str(first).removesuffix("-open"), trace.line.dash, colour
            looks.setdefault(trace.name, look)
        seen = list(looks.values())
        for index, (symbol, dash, colour) in enumerate(seen):
            for other_symbol, other_dash, other in seen[index + 1 :]:
                if abs(shades.get(colour, 50) - shades.get(other, 50)) < 25:
                    assert symbol != other_symbol or dash != other_dash, name


@pytest.mark.parametrize("name", DRAWN)
def test_colours_of_signed_values_are_centred_at_zero(name: str) -> None:
    for trace in drawn(name).data:
        if trace.type == "heatmap" and np.nanmin(values(trace.z)) < 0:
            assert trace.zmid == 0
            assert trace.zmin == -trace.zmax
            assert [step[1] for step in trace.colorscale] == [step[1] for step in DIVERGING]


# --- new figures ------------------------------------------------------------------------------------------------------


def test_the_map_of_dcds_holds_every_record_of_its_selection_and_nothing_else() -> None:
    dcds = [dcd for dcd in fake_dcds() if dcd.selection == "magnitude"]
    (trace,) = dcd_figure(fake_dcds(), "magnitude").data
    cells = values(trace.z)
    assert np.isfinite(cells).sum() == len({(dcd.domain, dcd.dimension) for dcd in dcds})
    for dcd in dcds:
        row, column = list(trace.y).index(dcd.domain), list(trace.x).index(str(dcd.dimension))
        assert math.isclose(cells[row, column], dcd.frequency - dcd.frequency_elsewhere, abs_tol=1e-6)
        assert trace.text[row][column] == str(dcd.rank)
    with pytest.raises(ValueError, match="magnitude, discrimination, both"):
        dcd_figure(fake_dcds(), "guessing")


def test_activations_along_a_text_are_those_of_its_tokens_and_the_sink_does_not_set_the_scale() -> None:
    columns = fake_columns()
    (trace,) = token_figure(columns, "law/0", n_tokens=8).data
    np.testing.assert_allclose(values(trace.z), columns.values[:8].T)
    assert trace.zmax == np.abs(columns.values[1:8]).max()
    (last,) = token_figure(columns, "law/1", start=12).data
    np.testing.assert_allclose(values(last.z), columns.values[32:].T)
    assert last.customdata[0][-1].startswith("&lt;b&gt;<br>position 19")
    with pytest.raises(ValueError, match=r"law/0, law/1"):
        token_figure(columns, "law/9")
    with pytest.raises(ValueError, match="20 tokens"):
        token_figure(columns, "law/0", start=20)


# --- data and files ---------------------------------------------------------------------------------------------------


def test_the_data_of_an_effect_figure_are_the_contrasts_at_their_measured_cost() -> None:
    chosen = [c for c in fake_contrasts() if (c.metric, c.against) == (LOSS, "unsteered") and c.n]
    frame = figure_frame(trade_off_figure(fake_contrasts(), LOSS))
    expected = sorted((c.domain, round(c.kl, 6), round(c.effect, 6), round(c.low, 6), round(c.high, 6)) for c in chosen)
    columns = ["panel", "KL to the unsteered model (nats per token)", "steered − unsteered (nats per token)"]
    found = [
        (row[0], *(round(float(item), 6) for item in row[1:]))
        for row in frame[[*columns, "low", "high"]].to_numpy().tolist()
    ]
    assert sorted(found) == expected


def test_the_data_of_a_forest_name_the_arm_and_bound_the_effect() -> None:
    chosen = [c for c in fake_contrasts() if (c.metric, c.against, c.level) == (LOSS, "unsteered", 0.1) and c.n]
    frame = figure_frame(forest_figure(chosen, LOSS, budget="kl", level=0.1))
    np.testing.assert_allclose(sorted(frame["low"]), sorted(c.low for c in chosen))
    np.testing.assert_allclose(sorted(frame["high"]), sorted(c.high for c in chosen))
    assert set(frame["panel"]) == set(DOMAINS)


def test_the_data_of_magnitudes_hold_every_value_with_domain_and_layer() -> None:
    statistics = fake_statistics()
    frame = figure_frame(magnitude_figure(statistics))
    assert len(frame) == statistics.mean_magnitude.size
    row = frame[(frame["panel"] == "law") & (frame["series"] == "layer 3") & (frame["dimension"] == 137)]
    expected = statistics.mean_magnitude[DOMAINS.index("law"), 3, 137]
    np.testing.assert_allclose(row["mean |activation| (activation units)"], expected, rtol=1e-6)


def test_the_data_of_a_map_have_one_row_per_cell() -> None:
    frame = figure_frame(drawn("frequency"))
    (trace,) = drawn("frequency").data
    assert len(frame) == np.size(values(trace.z))
    assert list(frame.columns) == ["domain", "dimension", "fraction of prompts"]


@pytest.fixture
def drawings() -> list[Drawing]:
    return [
        Drawing("profile", drawn("profile"), "seen", "profile_figure(run.statistics, 137)", "one-column"),
        Drawing("detectors", drawn("detector"), "seen <b>", "detector_figure(run.detectors, 6)"),
    ]


def test_without_a_browser_html_and_data_are_written_and_one_line_says_what_to_install(
    drawings: list[Drawing], tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("kaleido", reason="needs the extra export")
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "absent"))
    paths, obstacle = export_figures(drawings, tmp_path / "figures", {"run": {}})
    assert obstacle is not None
    assert obstacle.count("\n") == 0
    assert "install Chrome or Chromium" in obstacle
    assert "pip install" not in obstacle
    names = {*(f"profile.{kind}" for kind in KINDS), *(f"detectors.{kind}" for kind in KINDS), "manifest.json"}
    assert {path.name for path in paths} == names == {p.name for p in (tmp_path / "figures").iterdir()} - {"assets"}
    listed = json.loads((tmp_path / "figures" / "manifest.json").read_text(encoding="utf-8"))["figures"]
    assert [item["files"] for item in listed] == [[f"{n}.{kind}" for kind in KINDS] for n in ("profile", "detectors")]


def test_without_kaleido_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.figures.export.find_spec", lambda name: None)
    assert "pip install 'dcd-workbench[export]'" in (export_obstacle() or "")


def test_two_figures_of_one_name_and_names_that_are_no_file_names_are_refused(drawings, tmp_path) -> None:
    twice = dataclasses.replace(drawings[1], name="profile")
    with pytest.raises(ValueError, match="several figures have the name profile"):
        export_figures([drawings[0], twice], tmp_path / "figures", {})
    assert not (tmp_path / "figures").exists()
    for name in ("../up", "A b", "", "a--b"):
        with pytest.raises(ValueError, match="no file name"):
            dataclasses.replace(drawings[0], name=name)


def test_a_narrow_page_gets_the_same_axes_below_each_other_and_every_row_its_height() -> None:
    detectors = fake_detectors()
    layout = narrow_layout(detector_figure(detectors))
    assert not {"width", "title", "template"} & set(layout)
    assert "color" not in layout["font"]  # the page's template gives it
    many = detector_figure([dataclasses.replace(one, dimension=at) for at in range(4) for one in detectors])
    n_rows = sum(len(trace.y) for trace in many.data)
    assert narrow_layout(many)["height"] >= n_rows * 1.3 * layout["font"]["size"]
    grid = magnitude_figure(fake_statistics())
    narrow = narrow_layout(grid)
    axes = [name for name in grid.to_dict()["layout"] if name.startswith("xaxis")]
    assert len({tuple(narrow[name]["domain"]) for name in axes}) <= 2  # columns
    assert narrow_layout(go.Figure(go.Bar(x=["a"], y=[1])))["xaxis"]["type"] == "category"
