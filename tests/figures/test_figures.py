"""Figures state what the record says: every value, no more; the same each time; safe with any token text."""

import dataclasses
import json
import math
import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fake_records import (
    DOMAINS,
    HOSTILE,
    fake_contrasts,
    fake_damages,
    fake_detectors,
    fake_statistics,
    massive,
    own,
)
from tests.pages import Page
from workbench.figures import (
    CONFIG,
    best_per_domain,
    contexts_html,
    damage_figure,
    detector_caption,
    detector_figure,
    difference_figure,
    figure_fragment,
    first_position_caption,
    first_position_figure,
    forest_figure,
    frequency_caption,
    frequency_figure,
    magnitude_caption,
    magnitude_figure,
    profile_caption,
    profile_figure,
    token_words,
    trade_off_figure,
    write_figure,
)
from workbench.figures.magnitudes import block_order, outer_envelope
from workbench.figures.style import place_labels
from workbench.records import DimensionStatistics, TokenContext

LOSS = "domain loss"


def fake_frequency() -> pd.DataFrame:
    return pd.DataFrame(fake_statistics().frequency.max(axis=1), index=list(DOMAINS))


FIGURES: dict[str, Callable[[], go.Figure]] = {
    "magnitude": lambda: magnitude_figure(fake_statistics(), words=token_words(fake_detectors())),
    "one domain": lambda: magnitude_figure(fake_statistics(), ["law"]),
    "first position": lambda: first_position_figure(fake_statistics()),
    "profile": lambda: profile_figure(fake_statistics(), 137),
    "frequency": lambda: frequency_figure(fake_frequency()),
    "detector": lambda: detector_figure(fake_detectors()),
    "effect": lambda: trade_off_figure(fake_contrasts(), LOSS),
    "forest": lambda: forest_figure(fake_contrasts(), LOSS, budget="kl", level=0.1),
    "difference": lambda: difference_figure(fake_contrasts(), LOSS, budget="kl", level=0.1),
    "damage": lambda: damage_figure(fake_damages(), "domain-loss/law", budget="kl", level=0.1),
}
UNITS = ("activation units", "nats per token", "fraction", "AUROC")


def axis_titles(figure: go.Figure, letter: str) -> set[str]:
    layout = figure.to_dict()["layout"]
    axes = [value for name, value in layout.items() if re.fullmatch(f"{letter}axis\\d*", name)]
    return {axis["title"]["text"] for axis in axes if axis.get("title", {}).get("text")}


def values(array: object) -> np.ndarray:
    return np.asarray(array, dtype=float)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_title_axis_titles_and_a_unit(name: str) -> None:
    figure = FIGURES[name]()
    assert all(
        len(re.sub("<.*?>", "", text)) > 10 for text in (figure.layout.title.text, figure.layout.title.subtitle.text)
    )
    titles = [axis_titles(figure, letter) for letter in "xy"]
    assert all(titles)
    assert "$" not in json.dumps(figure.to_dict()["layout"]["title"])  # LaTeX needs the network
    scale = [trace.colorbar.title.text or "" for trace in figure.data if trace.type == "heatmap"]
    assert any(unit in " ".join([*titles[0], *titles[1], *scale]) for unit in UNITS)


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_record_gives_the_same_figure_whatever_the_global_theme(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pio.templates.default
    first = FIGURES[name]().to_json()
    assert pio.templates.default == before
    monkeypatch.setattr(pio.templates, "default", "ggplot2")
    assert FIGURES[name]().to_json() == first


@pytest.mark.parametrize("name", FIGURES)
def test_no_figure_offers_to_send_data_away(name: str) -> None:
    ((identifier, _, _, config),) = Page(figure_fragment(FIGURES[name](), name="seen", caption="seen")).plots()
    assert identifier == "plot-seen"
    assert config["showSendToCloud"] is False
    assert not config.get("plotlyServerURL")
    assert CONFIG["showSendToCloud"] is False


# --- magnitudes -------------------------------------------------------------------------------------------------------


def lines_of(figure: go.Figure) -> list[tuple[str, int, np.ndarray, np.ndarray]]:
    """(domain, layer, dimensions, magnitudes) of every line, read back from the figure as its JSON states them."""
    found = []
    for trace in figure.data:
        if trace.hoverinfo == "skip":  # carries the colour scale only
            continue
        domain, layer = re.findall(r"<br>(.*), layer (\d+)<br>", trace.hovertemplate)[0]
        heights = values(trace.y)
        where = np.arange(len(heights)) if trace.x is None else values(trace.x).astype(int)
        found.append((domain, int(layer), where, heights))
    return found


def test_every_magnitude_of_the_record_is_drawn() -> None:
    statistics = fake_statistics()
    lines = lines_of(magnitude_figure(statistics))
    assert {(domain, layer) for domain, layer, _, _ in lines} == {(d, n) for d in DOMAINS for n in range(6)}
    for domain, layer, where, heights in lines:
        assert len(where) == 256
        expected = statistics.mean_magnitude[DOMAINS.index(domain), layer]
        np.testing.assert_allclose(heights, expected[where], rtol=1e-6)


def test_the_names_are_the_largest_dimensions_and_bold_in_one_domain_only() -> None:
    statistics = fake_statistics()
    figure = magnitude_figure(statistics, n_named=5)
    names = [note.text for note in figure.layout.annotations if re.fullmatch(r"(<b>)?\d+(</b>)?", note.text)]
    expected = []
    for row in statistics.mean_magnitude.sum(axis=1):
        floor = np.sort(row)[-5]
        expected.append({int(item) for item in np.flatnonzero(row >= floor)})
    shown = [{int(re.sub(r"\D", "", name)) for name in names[5 * i : 5 * i + 5]} for i in range(7)]
    assert shown == expected
    for name in names:
        dimension = int(re.sub(r"\D", "", name))
        assert name.startswith("<b>") == (sum(dimension in group for group in expected) == 1)


@pytest.mark.parametrize(("n_layers", "d_model"), [(6, 256), (32, 4096)])
def test_the_magnitude_figure_stays_light(n_layers: int, d_model: int) -> None:
    statistics = fake_statistics(n_layers=n_layers, d_model=d_model)
    assert len(magnitude_figure(statistics).to_json()) < 500_000


def test_a_wide_model_is_drawn_by_true_points_that_hold_every_peak() -> None:
    statistics = fake_statistics(n_layers=32, d_model=4096)
    for domain, layer, where, heights in lines_of(magnitude_figure(statistics))[::9]:
        row = statistics.mean_magnitude[DOMAINS.index(domain), layer]
        np.testing.assert_allclose(heights, row[where], rtol=1e-6)
        assert row.argmax() in where
        assert set(massive(4096)) <= set(where.tolist())


@given(st.lists(st.floats(0, 1e3), min_size=3, max_size=60), st.integers(1, 20), st.data())
def test_the_envelope_covers_every_value_and_keeps_what_it_is_told(heights: list, n: int, data: st.DataObject) -> None:
    row = np.array(heights)
    keep = np.array(data.draw(st.lists(st.integers(0, len(row) - 1), max_size=3, unique=True)), dtype=int)
    drawn = outer_envelope(row, n, keep)
    assert set(keep.tolist()) <= set(drawn.tolist()) or len(row) <= n
    assert (np.diff(drawn) > 0).all()
    assert len(drawn) <= max(n, 0) + len(keep) or len(row) <= n
    width = math.ceil(len(row) / n)
    for index, height in enumerate(row):  # a drawn dimension at least as large is at most one neighbourhood away
        assert row[drawn[np.abs(drawn - index) <= width]].max(initial=-1.0) >= height


def test_the_axis_is_logarithmic_only_where_massive_dimensions_dwarf_the_rest() -> None:
    statistics = fake_statistics()
    assert magnitude_figure(statistics).layout.yaxis.type == "log"
    flat = np.minimum(statistics.mean_magnitude, 1.0)
    assert magnitude_figure(dataclasses.replace(statistics, mean_magnitude=flat)).layout.yaxis.type != "log"


def test_dimensions_that_are_never_active_do_not_break_the_logarithm() -> None:
    statistics = fake_statistics()
    some_dead = np.where(np.arange(256) % 5 == 1, 0.0, statistics.mean_magnitude)
    figure = magnitude_figure(dataclasses.replace(statistics, mean_magnitude=some_dead))
    assert np.isfinite(figure.layout.yaxis.range).all()
    drawn = np.concatenate([values(trace.y) for trace in figure.data])
    assert np.isnan(drawn).sum() == (some_dead == 0).sum()


def test_an_unknown_domain_and_an_unknown_dimension_are_refused() -> None:
    with pytest.raises(ValueError, match=r"alchemy.*mathematics"):
        magnitude_figure(fake_statistics(), ["alchemy"])
    with pytest.raises(ValueError, match="no domain"):
        first_position_figure(fake_statistics(), [])
    with pytest.raises(ValueError, match="0 to 255"):
        profile_figure(fake_statistics(), 256)


@given(st.lists(st.tuples(st.floats(0, 330), st.floats(0, 150)), min_size=1, max_size=6))
def test_names_do_not_overlap_and_stay_within_the_panel(points: list[tuple[float, float]]) -> None:
    x, y = np.array(points).T
    spots = place_labels(x, y, panel_width=330.0, label_width=34.0, label_height=15.0)
    places = np.column_stack([x + spots[:, 0], y - spots[:, 1]])
    for index, (a, b) in enumerate(places):
        assert spots[index, 0] == 0 or 17 <= a <= 330 - 17
        assert all(abs(a - c) >= 34 or abs(b - d) >= 15 for c, d in places[index + 1 :])


def test_the_first_position_stands_beside_the_rest_with_the_three_largest() -> None:
    statistics = fake_statistics()
    figure = first_position_figure(statistics)
    for axis, magnitudes in (("x", statistics.first_mean_magnitude), ("x2", statistics.mean_magnitude)):
        mean = magnitudes.mean(axis=0)
        shown = {trace.name: trace for trace in figure.data if trace.xaxis == axis}
        for rank, name in enumerate(("largest", "second", "third"), start=1):
            np.testing.assert_allclose(values(shown[name].y), np.sort(mean, axis=1)[:, -rank], rtol=1e-6)
            named = values(shown[name].customdata).astype(int)
            np.testing.assert_allclose(mean[np.arange(6), named], np.sort(mean, axis=1)[:, -rank])
        np.testing.assert_allclose(values(shown["median"].y), np.median(mean, axis=1), rtol=1e-6)


def test_a_profile_holds_every_layer_of_every_domain_with_the_first_position_apart() -> None:
    statistics = fake_statistics()
    figure = profile_figure(statistics, 137)
    for axis, magnitudes in (("x", statistics.mean_magnitude), ("x2", statistics.first_mean_magnitude)):
        shown = {trace.name: values(trace.y) for trace in figure.data if trace.xaxis == axis}
        assert list(shown) == list(DOMAINS)
        for index, domain in enumerate(DOMAINS):
            np.testing.assert_allclose(shown[domain], magnitudes[index, :, 137], rtol=1e-6)


# --- frequencies ------------------------------------------------------------------------------------------------------


def test_the_frequency_map_holds_every_dimension_that_is_active_somewhere() -> None:
    frequency = fake_frequency()
    (heatmap,) = frequency_figure(frequency, at_least=0.05).data
    kept = frequency.columns[(frequency.max() >= 0.05).to_numpy()]
    assert sorted(int(name) for name in heatmap.x) == sorted(kept)
    expected = frequency[[int(name) for name in heatmap.x]].to_numpy()
    np.testing.assert_allclose(values(heatmap.z), expected, atol=1e-6)
    assert list(heatmap.y) == list(DOMAINS)
    assert (heatmap.zmin, heatmap.zmax) == (0, 1)


def test_blocks_stand_in_the_order_everywhere_then_domain_by_domain() -> None:
    shares = np.array([[0.9, 0.1, 0.9, 0.0, 0.6], [0.1, 0.8, 0.8, 0.3, 0.0]])
    order, blocks = block_order(shares)
    assert order.tolist() == [2, 0, 4, 1, 3]
    assert blocks.tolist() == [0, 1, 1, 2, 2]


def test_frequencies_that_are_no_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        frequency_figure(fake_frequency() * 48)
    assert frequency_figure(fake_frequency() * 0) is None


# --- detectors --------------------------------------------------------------------------------------------------------


def test_labelled_detectors_are_drawn_with_their_intervals_and_unlabelled_ones_counted() -> None:
    detectors = fake_detectors()
    figure = detector_figure(detectors, None)
    scored = [detector for detector in detectors if not math.isnan(detector.auroc)]
    drawn = [
        (x, x - less, x + more)
        for trace in figure.data
        for x, more, less in zip(trace.x, trace.error_x.array, trace.error_x.arrayminus, strict=True)
    ]
    expected = [(detector.auroc, detector.low, detector.high) for detector in scored]
    np.testing.assert_allclose(sorted(drawn), sorted(expected))
    assert len({name for trace in figure.data for name in trace.y}) == len(scored)  # no two share a row
    n_rest = len(detectors) - len(scored)
    assert f"{n_rest} unlabelled" in figure.layout.title.subtitle.text


def test_a_detector_is_hollow_where_its_interval_reaches_chance() -> None:
    detectors = fake_detectors()
    marks = {}
    for trace in detector_figure(detectors, None).data:
        marks |= dict(zip(values(trace.x).tolist(), trace.marker.symbol, strict=True))
    scored = [detector for detector in detectors if not math.isnan(detector.auroc)]
    assert any(detector.low <= 0.5 for detector in scored)
    for detector in scored:
        assert marks[detector.auroc].endswith("-open") == (detector.low <= 0.5)


def test_a_study_without_a_labelled_detector_says_so() -> None:
    unlabelled = [detector for detector in fake_detectors() if math.isnan(detector.auroc)]
    figure = detector_figure(unlabelled)
    assert [note.text for note in figure.layout.annotations] == ["no detector carries a label"]
    assert np.isfinite(figure.layout.xaxis.range).all()
    assert detector_figure([]) is None
    assert detector_caption(unlabelled).startswith("None of the")


def test_the_best_of_a_domain_are_different_dimensions_at_their_best_layer() -> None:
    detectors = fake_detectors()
    best = best_per_domain(detectors, 4)
    assert [detector.domain for detector in best] == [domain for domain in DOMAINS for _ in range(4)]
    for detector in best:
        rivals = [d.auroc for d in detectors if (d.domain, d.dimension) == (detector.domain, detector.dimension)]
        assert detector.auroc == np.nanmax(rivals)
    assert len({(detector.domain, detector.dimension) for detector in best}) == len(best)


def test_hover_text_carries_token_text_with_visible_spaces() -> None:
    hover = str([trace.customdata for trace in detector_figure(fake_detectors()).data])
    assert "“·court”" in hover
    assert "“↵····”" in hover
    assert HOSTILE not in hover


def test_contexts_escape_token_text_and_show_spaces_and_line_breaks() -> None:
    detector = fake_detectors()[3]
    page = Page(contexts_html(detector))
    assert not page.unbalanced
    assert not page.all("script")
    assert not page.all("b")
    marks = [mark.text for mark in page.all("mark")]
    shown = [context.token.replace(" ", "·").replace("\n", "↵").replace("\t", "⇥") for context in detector.top_tokens]
    assert marks == shown
    assert HOSTILE in marks
    contexts = [cell.text for cell in page.all("td")[1::3]]
    assert all("that···the <b>old</b>↵····rule of the" in text for text in contexts)
    assert all(text.endswith(" must give way & yield to the new one.") for text in contexts)
    assert not page.requests()


@pytest.mark.parametrize(
    ("position", "before", "after", "shown"),
    [
        (3, "in a", " b", "in a[c] b"),  # from the start of the document: nothing is cut
        (40, "tence of the", " case", "… of the[c] case"),
        (40, " of the", " case", "… of the[c] case"),
        (40, "of" * 30, " " + "b" * 39, f"…{'of' * 30}[c] …"),
        (
            3,
            "w" * 52 + " a court",
            " rules that the party shall not be liabl",
            "… a court[c] rules that the party shall not be …",
        ),
    ],
)
def test_contexts_begin_and_end_with_whole_words(position: int, before: str, after: str, shown: str) -> None:
    context = TokenContext("c", before, after, 1.0, "law/1", position)
    cell = Page(contexts_html(dataclasses.replace(fake_detectors()[0], top_tokens=(context,)))).all("td")[1].text
    assert cell == shown.replace("[c]", "c")


def opacity(style: str) -> tuple[str, float]:
    red_green_blue, alpha = re.findall(r"background:rgba\((\d+,\d+,\d+),([\d.]+)\)", style)[0]
    return red_green_blue, float(alpha)


def test_highlights_grow_with_the_activation_and_mirror_its_sign() -> None:
    high = fake_detectors()[1]
    flipped = tuple(dataclasses.replace(context, value=-context.value) for context in high.top_tokens)
    low = dataclasses.replace(high, top_tokens=flipped)
    shades = [
        [opacity(mark.attributes["style"]) for mark in Page(contexts_html(detector)).all("mark")]
        for detector in (high, low)
    ]
    strengths = [alpha for _, alpha in shades[0]]
    assert strengths == sorted(strengths, reverse=True)
    assert strengths[0] > strengths[-1]
    assert [alpha for _, alpha in shades[1]] == strengths
    assert {colour for colour, _ in shades[0]}.isdisjoint({colour for colour, _ in shades[1]})


def test_contexts_without_finite_values_are_still_shown() -> None:
    detector = fake_detectors()[0]
    odd = tuple(dataclasses.replace(context, value=float("nan")) for context in detector.top_tokens)
    assert len(Page(contexts_html(dataclasses.replace(detector, top_tokens=odd))).all("mark")) == len(odd)
    assert "No token" in contexts_html(dataclasses.replace(detector, top_tokens=()))


# --- captions ---------------------------------------------------------------------------------------------------------


def with_tops(tops: list[list[int]]) -> DimensionStatistics:
    """Statistics of `len(tops)` domains in which the named dimensions are the largest, in this order."""
    statistics = fake_statistics(DOMAINS[: len(tops)])
    values = np.ones_like(statistics.mean_magnitude)
    for index, dimensions in enumerate(tops):
        for rank, dimension in enumerate(dimensions):
            values[index, :, dimension] = 10 - rank
    return dataclasses.replace(statistics, mean_magnitude=values)


def test_the_magnitude_caption_counts_domains_that_share_their_largest() -> None:
    shared = magnitude_caption(with_tops([[1, 2, 3], [3, 1, 2], [2, 3, 1], [1, 2, 9]]))
    assert shared.startswith("3 of 4 domains share the same three largest dimensions (1, 2 and 3); code differs")
    assert "10 times the median" in shared
    apart = magnitude_caption(with_tops([[1, 2, 3], [1, 5, 6], [7, 1, 9]]))
    assert apart.startswith("No two of the 3 domains")
    assert "1 is among them in every domain" in apart
    assert magnitude_caption(with_tops([[4, 2, 8]])).startswith("In mathematics the three largest")


def test_the_first_position_caption_can_deny_a_sink() -> None:
    statistics = fake_statistics()
    assert "reported separately" in first_position_caption(statistics)
    even = dataclasses.replace(statistics, first_mean_magnitude=0.8 * statistics.mean_magnitude)
    assert "no sink shows" in first_position_caption(even)


def test_the_frequency_caption_counts_discriminative_dimensions_against_the_mean_of_the_others() -> None:
    table = pd.DataFrame([[1.0, 0.9, 0.5, 0.0], [1.0, 0.9, 0.2, 0.0], [1.0, 0.0, 0.2, 0.0]], index=["a", "b", "c"])
    caption = frequency_caption(table)
    assert caption.startswith("3 of 4 dimensions are active in at least one prompt, 1 of them")
    assert "1 exceeds the mean of the other domains by over 30% in at least one domain (a 1 and b 1)" in caption
    assert "none exceeds" in frequency_caption(table[[0, 2, 3]])


def test_the_profile_caption_tells_specific_from_common() -> None:
    statistics = fake_statistics()
    assert "times the next domain" in profile_caption(statistics, own(2, 256)[0])
    assert "largest in law" in profile_caption(statistics, own(2, 256)[0])
    assert "hardly differ" in profile_caption(statistics, massive(256)[1])


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_fragment_holds_no_plotly_and_a_file_holds_it_once(tmp_path) -> None:
    figure = FIGURES["profile"]()
    fragment = figure_fragment(figure, name="profile", caption='Larger than "<b>before</b>"')
    assert len(fragment) < 100_000
    page = Page(fragment)
    assert page.all("figcaption")[0].text == 'Larger than "<b>before</b>"'
    written = Page(write_figure(figure, tmp_path / "profile.html", caption="seen").read_text(encoding="utf-8"))
    assert sum("plotly.js v" in script.text for script in written.all("script")) == 1
    assert not written.requests()
    assert [path.name for path in tmp_path.iterdir()] == ["profile.html"]


def test_token_text_cannot_leave_the_script_it_stands_in() -> None:
    fragment = figure_fragment(FIGURES["detector"](), name="detectors", caption="seen")
    assert HOSTILE not in fragment
    assert len(Page(fragment).all("script")) == 2  # what draws it, and its layout for narrow pages


def test_a_figure_name_that_cannot_be_an_id_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be an id"):
        figure_fragment(FIGURES["profile"](), name='x" onload="', caption="seen")
