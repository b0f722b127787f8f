"""Figures of a comparison: what is drawn is what was measured, and hollow where nothing was shown."""

import dataclasses
import math

import plotly.graph_objects as go
import pytest

from tests.fake_records import fake_damages
from workbench.figures.comparison import front_figure, strength_figure, trade_off_figure
from workbench.figures.contrasts import arm_forest_figure, domain_forest_figure
from workbench.figures.damage import damage_caption, damage_figure
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
            found += list(zip(trace["x"], trace["y"], marks, strict=True))
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


def test_domains_are_counted_in_words() -> None:
    figure = domain_forest_figure(example(), "cds", "whole-dimension", metric="loss", budget="kl", level=0.1)
    subtitle = figure.to_dict()["layout"]["title"]["subtitle"]["text"]
    # effects 0.03, 0.01 and -0.01 of a loss: ahead where negative
    assert "ahead in 1 of 3 domains" in subtitle
    assert "worse in 1" in subtitle
    assert len(points(figure)) == 3


def test_arms_beside_each_other_with_the_prompt() -> None:
    figure = arm_forest_figure(example(), "domain-loss/law", metric="loss", budget="kl", level=0.1)
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


def test_nothing_measured_is_said_and_not_drawn() -> None:
    with pytest.raises(ValueError, match="nothing was measured on 'accuracy'; there is loss"):
        trade_off_figure(example(), "accuracy")
    with pytest.raises(ValueError, match="no strength curve"):
        strength_figure([], "domain-loss/law")
    with pytest.raises(ValueError, match="not compared"):
        domain_forest_figure(example(), "noise", "cds", metric="loss", budget="kl", level=0.1)


def test_names_are_text_not_markup() -> None:
    rows = [dataclasses.replace(one, note="<script>alert(1)</script>") for one in example()]
    for figure in (trade_off_figure(rows, "loss"), front_figure(rows, "loss")):
        assert "<script>" not in str(figure.to_json())


# --- damage -----------------------------------------------------------------------------------------------------------

PLACE = {"budget": "kl", "level": 0.1}


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


def test_damage_that_was_not_measured_is_an_error_not_an_empty_figure() -> None:
    gone: list[Damage] = [dataclasses.replace(one, difference=NAN, low=NAN, high=NAN) for one in fake_damages()]
    for draw in (damage_figure, damage_caption):
        with pytest.raises(ValueError, match=r"no damage was measured on 'domain-loss/law' at kl 0\.1"):
            draw(gone, "domain-loss/law", **PLACE)
