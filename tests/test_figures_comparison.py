"""Figures of a comparison: what is drawn is what was measured, and hollow where nothing was shown."""

import dataclasses
import math

import plotly.graph_objects as go
import pytest

from workbench.figures.comparison import (
    arm_forest_figure,
    domain_forest_figure,
    front_figure,
    strength_figure,
    trade_off_figure,
)
from workbench.records import Contrast, StrengthCurve

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
        least=0.02,
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
