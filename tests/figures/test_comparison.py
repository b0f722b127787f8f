"""Figures of a comparison: what is drawn is what was measured, and hollow where nothing was shown."""

import dataclasses
import math

import numpy as np
import plotly.graph_objects as go
import pytest

from tests.fake_records import DOMAINS, LEVELS, fake_contrasts, fake_damages
from workbench.figures import (
    damage_caption,
    damage_figure,
    difference_caption,
    difference_figure,
    domain_forest_caption,
    domain_forest_figure,
    forest_caption,
    forest_figure,
    front_figure,
    strength_caption,
    strength_figure,
    trade_off_caption,
    trade_off_figure,
)
from workbench.figures.comparison import excludes_zero, is_measured, is_shown, middle_budget, reading
from workbench.figures.style import PALETTE, SYMBOLS
from workbench.records import Contrast, Damage, StrengthCurve

NAN = math.nan


def contrast(arm: str, kl: float, effect: float, **changes: object) -> Contrast:
    one = Contrast(
        task="domain-loss/law",
        domain="law",
        arm=arm,
        role="control" if arm in ("random-k", "noise", "prompt-only") else "method",
        metric="loss",
        unit="nats per token",
        higher_is_better=False,
        is_primary=True,
        budget="kl",
        level=0.1,
        against="unsteered",
        setting="layer 2",
        strength=3.0,
        in_norms=0.2,
        in_sds=1.1,
        kl=kl,
        effect=effect,
        low=effect - 0.02,
        high=effect + 0.02,
        p=0.01,
        q=0.02,
        n=40,
        n_missing=0,
        verdict="no difference shown" if abs(effect) <= 0.02 else "better" if effect < 0 else "worse",
        minimum_detectable_effect=0.02,
    )
    return dataclasses.replace(one, **changes)


def example() -> list[Contrast]:
    rows = []
    for index, domain in enumerate(("law", "code", "art")):
        place = {"task": f"domain-loss/{domain}", "domain": domain}
        for level, scale in ((0.03, 0.6), (0.1, 1.0)):
            for arm, effect in (("cds", -0.05 + 0.03 * index), ("whole-dimension", -0.08), ("random-k", 0.01)):
                rows.append(contrast(arm, level * 1.02, effect * scale, level=level, **place))
            rows.append(contrast("cds", level, 0.03 - 0.02 * index, level=level, against="whole-dimension", **place))
        rows.append(contrast("prompt-only", NAN, -0.03, budget="none", level=0.0, **place))
        rows.append(contrast("noise", NAN, NAN, low=NAN, high=NAN, verdict="not measured", **place))
    return rows


def points(figure: go.Figure) -> list[tuple[float, float, str]]:
    """Every drawn point with its mark."""
    found = []
    for trace in figure.to_dict()["data"]:
        marks = trace.get("marker", {}).get("symbol")
        if "error_y" in trace or "error_x" in trace or isinstance(marks, list | tuple):
            x = (trace.get("meta") or {}).get("x", trace["x"])
            found += list(zip(x, trace["y"], marks, strict=True))
    return found


def test_every_measured_arm_is_a_point_hollow_where_nothing_was_shown() -> None:
    rows = example()
    drawn = points(trade_off_figure(rows, "loss"))
    wanted = [one for one in rows if one.against == "unsteered" and one.kl > 0]
    assert sorted((x, y) for x, y, _ in drawn) == sorted((one.kl, one.effect) for one in wanted)
    hollow = [y for _, y, mark in drawn if mark.endswith("-open")]
    assert hollow
    assert max(map(abs, hollow)) <= 0.02


def test_the_front_holds_no_beaten_point() -> None:
    rows = example()
    figure = front_figure(rows, "loss")
    kept = [(x, y) for x, y, mark in points(figure) if not mark.endswith("-open")]
    assert kept
    for task in {one.task for one in rows}:
        own = [(one.kl, -one.effect) for one in rows if one.task == task and one.against == "unsteered" and one.kl > 0]
        best = [p for p in own if not any(q[0] <= p[0] and q[1] >= p[1] and q != p for q in own)]
        assert set(best) <= set(kept)


PLACE = {"budget": "kl", "level": 0.1}
BY_DOMAIN = {"arm": "cds", "against": "whole-dimension", "kind": "domain-loss", **PLACE}


def test_domains_are_counted_in_words() -> None:
    assert len(points(domain_forest_figure(example(), "loss", **BY_DOMAIN))) == 3
    # effects 0.03, 0.01 and -0.01 of a loss: ahead where negative
    text = domain_forest_caption(example(), "loss", **BY_DOMAIN)
    assert "ahead of whole-dimension in 1 of 3 domains" in text
    assert "worse in 1" in text


def test_arms_beside_each_other_with_the_prompt() -> None:
    figure = forest_figure(example(), "loss", tasks=["domain-loss/law"], **PLACE)
    assert {y for _, y, _ in points(figure)} == {"cds", "whole-dimension", "random-k", "prompt-only"}


def curve(**changes: object) -> StrengthCurve:
    one = StrengthCurve(
        task="domain-loss/law",
        domain="law",
        arm="cds",
        setting="layer 2",
        metric="loss",
        unit="nats per token",
        higher_is_better=False,
        strengths=(1.0, 2.0, 4.0),
        effect=(-0.01, -0.05, -0.1),
        effect_low=(-0.03, -0.07, -0.15),
        effect_high=(0.01, -0.03, -0.05),
        kl=(0.01, 0.04, 0.2),
        in_norms=(0.1, 0.2, 0.4),
        limit=0.5,
        low=2.0,
        high=4.0,
        n_evaluations=14,
    )
    return dataclasses.replace(one, **changes)


def test_the_band_is_shaded_in_the_units_of_the_axis() -> None:
    figure = strength_figure([curve(), curve(arm="noise", low=NAN, high=NAN)], "domain-loss/law").to_dict()
    shaded = [shape for shape in figure["layout"]["shapes"] if shape["type"] == "rect"]
    assert [(shape["x0"], shape["x1"]) for shape in shaded] == [(0.2, 0.4)]
    assert any(note["text"] == "no usable band" for note in figure["layout"]["annotations"])


def test_where_there_is_nothing_to_draw_there_is_no_figure_and_an_unknown_metric_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="nothing was measured on 'accuracy'; there is loss"):
        trade_off_figure(example(), "accuracy")
    assert strength_figure([], "domain-loss/law") is None
    assert domain_forest_figure(example(), "loss", **{**BY_DOMAIN, "arm": "noise"}) is None
    assert difference_figure(example(), "loss", budget="edit", level=0.5) is None
    gone = [dataclasses.replace(one, effect=NAN, low=NAN, high=NAN, verdict="not measured") for one in example()]
    assert trade_off_figure(gone, "loss") is front_figure(gone, "loss") is forest_figure(gone, "loss", **PLACE) is None
    assert trade_off_caption(gone, "loss").startswith("No arm could be run")
    assert strength_caption([curve(), curve(arm="noise", low=NAN)], "domain-loss/law").startswith("1 of 2 arms")


def test_names_are_text_not_markup() -> None:
    rows = [dataclasses.replace(one, note="<script>alert(1)</script>") for one in example()]
    for figure in (trade_off_figure(rows, "loss"), front_figure(rows, "loss")):
        assert "<script>" not in str(figure.to_json())


# --- effects of a study ----------------------------------------------------------------------------------------------

LOSS = "domain loss"


def unsteered(metric: str = LOSS) -> list[Contrast]:
    return [one for one in fake_contrasts() if one.against == "unsteered" and one.metric == metric]


def marks_of(figure: go.Figure, axis: str) -> list[tuple[float, float, float, bool]]:
    """(effect, low, high, is hollow) of every mark of a figure that has an interval."""
    found = []
    for trace in figure.data:
        error = trace[f"error_{axis}"]
        if error.array is None:
            continue
        bars = zip(trace[axis], error.array, error.arrayminus, trace.marker.symbol, strict=True)
        found += [(x, x - less, x + more, symbol.endswith("-open")) for x, more, less, symbol in bars]
    return sorted(found)


def expected_marks(contrasts: list[Contrast]) -> list[tuple[float, float, float, bool]]:
    return sorted((one.effect, one.low, one.high, one.low <= 0 <= one.high) for one in contrasts if is_measured(one))


@pytest.mark.parametrize("metric", [LOSS, "domain share"])
def test_every_effect_is_drawn_with_its_interval_and_hollow_where_it_covers_zero(metric: str) -> None:
    figure = trade_off_figure(fake_contrasts(), metric)
    np.testing.assert_allclose(marks_of(figure, "y"), expected_marks(unsteered(metric)))
    bottom, top = figure.layout.yaxis.range
    assert bottom < min(low for _, low, _, _ in marks_of(figure, "y"))
    assert top > max(high for _, _, high, _ in marks_of(figure, "y"))
    assert bottom < 0 < top


def test_arms_are_set_beside_each_other_near_their_measured_kl() -> None:
    measured = {one.effect: one.kl for one in unsteered() if is_measured(one)}
    for trace in trade_off_figure(fake_contrasts(), LOSS).data:
        if trace.hoverinfo != "skip":
            for x, effect in zip(trace.x, trace.y, strict=True):
                assert abs(math.log10(x / measured[effect])) < 0.101


def test_arms_differ_in_colour_or_symbol() -> None:
    legend = [trace for trace in trade_off_figure(fake_contrasts(), LOSS).data if trace.showlegend is None]
    assert len({(trace.marker.color, trace.marker.symbol) for trace in legend}) == len(legend) == 6
    assert len({(PALETTE[index % len(PALETTE)], SYMBOLS[index % len(SYMBOLS)]) for index in range(57)}) == 57


def test_a_forest_holds_the_arms_of_one_level_and_names_those_not_run() -> None:
    figure = forest_figure(fake_contrasts(), LOSS, **PLACE)
    np.testing.assert_allclose(marks_of(figure, "x"), expected_marks([c for c in unsteered() if c.level == 0.1]))
    highest = forest_figure(fake_contrasts(), LOSS, budget="kl", level=0.3)
    lost = [text for trace in highest.data if trace.mode == "text" for text in trace.hovertext]
    assert len(lost) == len(DOMAINS)
    assert all(text.startswith("random-k: not measured: level not reached") for text in lost)
    assert all("&lt;breaks&gt;" in text for text in lost)


def test_differences_between_arms_stay_out_of_the_effects_and_have_their_own_forest() -> None:
    pairs = [c for c in fake_contrasts() if c.against != "unsteered" and c.metric == LOSS and c.level == 0.1]
    np.testing.assert_allclose(marks_of(difference_figure(fake_contrasts(), LOSS, **PLACE), "x"), expected_marks(pairs))


def test_a_panel_in_which_nothing_ran_is_marked() -> None:
    missing = [
        dataclasses.replace(c, effect=NAN, low=NAN, high=NAN, n=0) if c.domain == "law" else c for c in unsteered()
    ]
    figure = trade_off_figure(missing, LOSS)
    assert sum(note.text == "no arm could be run" for note in figure.layout.annotations) == 1
    assert np.isfinite(figure.layout.yaxis.range).all()


def test_the_effect_captions_can_say_that_nothing_differs() -> None:
    nothing = fake_contrasts(scale=0.0)
    caption = trade_off_caption(nothing, LOSS)
    assert caption.startswith("No arm differs from unsteered in domain loss: all 119 intervals cover zero")
    assert difference_caption(nothing, LOSS, **PLACE).startswith("No two arms differ")
    different = [one for one in unsteered() if is_measured(one) and excludes_zero(one)]
    better = sum(one.effect < 0 for one in different)
    caption = trade_off_caption(fake_contrasts(), LOSS)
    counts = f"{better} better and {len(different) - better} worse than unsteered"
    assert f"{len(different)} of 119 intervals exclude zero: {counts}" in caption
    assert "7 of 126 could not be run" in caption
    assert "adjustment" not in caption
    adjusted = [dataclasses.replace(one, q=0.2, verdict="no difference shown") for one in unsteered()]
    assert "; 0 remain after adjustment for their number" in trade_off_caption(adjusted, LOSS)


def test_captions_read_the_sign_as_the_record_says() -> None:
    for higher, word, other in ((False, "7, 0, 0", "better"), (True, "0, 7, 0", "worse")):
        down = [
            dataclasses.replace(one, effect=-1.0, low=-1.5, high=-0.5, note="", higher_is_better=higher, verdict=other)
            for one in unsteered()
        ]
        assert {reading(one) for one in down} == {other}
        assert f"cds (magnitude) {word}" in forest_caption(down, LOSS, budget="kl", level=LEVELS[0])
        assert ("no arm improves" in trade_off_caption(down, LOSS)) == higher


def test_no_difference_is_printed_with_the_minimum_detectable_one() -> None:
    item = dataclasses.replace(unsteered()[0], effect=0.01, low=-0.02, high=0.04, n=48, note="")
    item = dataclasses.replace(item, verdict="no difference shown", minimum_detectable_effect=0.03)
    assert not is_shown(item)
    assert reading(item) == "not detected (minimum detectable difference 0.03)"
    equal = dataclasses.replace(item, effect=0.0, low=0.0, high=0.0)
    assert "all 48 pairs are equal" in reading(equal)


def test_the_middle_budget_is_that_of_kl_where_there_is_one() -> None:
    assert middle_budget(fake_contrasts()) == ("kl", 0.1)
    assert middle_budget([contrast("cds", 0.1, 0.2, budget="edit", level=0.4)]) == ("edit", 0.4)
    assert middle_budget([contrast("prompt-only", NAN, 0.2, budget="none", level=0.0)]) is None


# --- damage -----------------------------------------------------------------------------------------------------------


def test_every_measure_of_damage_is_drawn_in_its_panel_with_its_interval() -> None:
    rows = fake_damages()
    figure = damage_figure([*rows, *fake_damages(level=0.3), *fake_damages("other")], "domain-loss/law", **PLACE)
    layout = figure.to_dict()["layout"]
    panels = [note["text"] for note in layout["annotations"]]
    found = []
    for trace in figure.to_dict()["data"]:
        measure = panels[int(trace["xaxis"][1:] or 1) - 1].removeprefix("<b>").removesuffix("</b>")
        bars = trace["error_x"]
        columns = (trace["y"], trace["x"], bars["arrayminus"], bars["array"], trace["marker"]["symbol"])
        for arm, x, below, above, mark in zip(*columns, strict=True):
            found.append((measure, arm, x, x - below, x + above, mark))
    assert {(measure, arm, x) for measure, arm, x, *_ in found} == {(o.measure, o.arm, o.difference) for o in rows}
    assert len(found) == len(rows)
    for measure, _, x, low, high, mark in found:
        if measure == "distinct bigrams":
            assert (low, high, mark) == (x, x, "diamond-open")
        else:
            assert high - low == pytest.approx(1.0 if high > 1 else 0.04)
            assert mark == ("circle-open" if low <= 0 <= high else "circle")
    units = [layout[name]["title"]["text"] for name in ("xaxis", "xaxis2", "xaxis3")]
    assert units == ["nats per token (damage →)", "fraction (← damage)", "tokens"]


def test_the_words_on_damage_count_what_is_shown_and_can_say_that_nothing_is() -> None:
    rows = fake_damages()
    said = damage_caption(rows, "domain-loss/law", **PLACE)
    # KL and agreement change by 0.04 and 0.08 with bars of 0.02; bigrams have no interval, and length counts nowhere
    assert "most is broken by austeer and noise, shown to be worse in 2 of 3 measures" in said
    assert "least by cds and random-k, in 0" in said
    better = [dataclasses.replace(one, low=-one.high, high=-one.low) for one in rows]
    assert "no arm is shown to be worse" in damage_caption(better, "domain-loss/law", **PLACE)
    same = [one for one in rows if one.arm in ("austeer", "noise")]
    assert "every arm is shown to be worse in 2 of 3" in damage_caption(same, "domain-loss/law", **PLACE)


def test_damage_that_was_not_measured_has_no_figure() -> None:
    gone: list[Damage] = [dataclasses.replace(one, difference=NAN, low=NAN, high=NAN) for one in fake_damages()]
    assert damage_figure(gone, "domain-loss/law", **PLACE) is None
