"""Figures of verdicts and stability: what is drawn is what the records hold, and captions are true to the numbers."""

import dataclasses

import numpy as np
import pandas as pd

from workbench.figures import (
    agreement_caption,
    agreement_figure,
    basis_caption,
    basis_figure,
    label_curve_caption,
    label_curve_figure,
    rank_caption,
    rank_figure,
    verdict_caption,
    verdict_figure,
)
from workbench.records import BasisScore, ReadingAgreement, Rule, SelectionStability, Verdict, VerdictName

NAN = float("nan")


def verdict(name: VerdictName, dimension: int, auroc: float, *, zero: float = NAN, mean: float = NAN) -> Verdict:
    return Verdict(
        domain="<law>",
        dimension=dimension,
        verdict=name,
        is_dcd=True,
        massive=("3-sigma",),
        share_first=0.5,
        share_delimiter=0.25,
        constancy=1.0,
        layer=0,
        reading="high",
        auroc=auroc,
        low=auroc - 0.1,
        high=min(1.0, auroc + 0.05),
        control_share=0.02,
        n_passages=8,
        cost_zero=zero,
        cost_mean=mean,
        label="legal <terms>",
        note="",
        rule=Rule(min_share=0.8, min_auroc=0.65),
    )


def test_the_map_shows_every_verdict_where_its_evidence_is() -> None:
    found = [verdict("sink", 3, 0.6, zero=2.0, mean=0.01), verdict("detector", 4, 0.9), verdict("sink", 5, 0.5)]
    figure = verdict_figure(found)
    points = {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data}
    assert points == {"sink (2)": ([0.75, 0.75], [0.6, 0.5]), "detector (1)": ([0.75], [0.9])}
    whiskers = figure.data[0].error_y
    np.testing.assert_allclose(whiskers.arrayminus, 0.1)
    assert "<law>" not in figure.to_json().replace("\\u003c", "<")
    caption = verdict_caption(found)
    assert "2 sink, 1 detector, 0 both and 0 neither" in caption
    assert "2 nats per token at zero and 0.01 at the mean" in caption
    assert "was not measured" in verdict_caption(found[1:])
    assert verdict_figure([]) is None


def test_the_dotted_lines_are_the_thresholds_of_the_rule_that_judged() -> None:
    strict = dataclasses.replace(verdict("neither", 6, 0.9), rule=Rule(min_share=0.95, min_auroc=0.99))
    for found, shares, aurocs in (
        ([verdict("sink", 3, 0.6)], [0.8], [0.65]),
        ([strict], [0.95], [0.99]),
        ([verdict("sink", 3, 0.6), strict], [0.8, 0.95], [0.65, 0.99]),
    ):
        lines = verdict_figure(found).to_dict()["layout"]["shapes"]
        assert sorted(line["x0"] for line in lines if line["x0"] == line["x1"]) == shares
        assert sorted(line["y0"] for line in lines if line["y0"] == line["y1"]) == aurocs


def test_ranks_have_their_intervals_by_domain() -> None:
    items = [
        SelectionStability("law", 9, 1, "magnitude", 1.0, 1, 1, 0.01, 500),
        SelectionStability("law", 7, 2, "magnitude", 0.7, 2, 6, 0.6, 500),
        SelectionStability("code", 9, 1, "magnitude", 0.96, 1, 3, 0.02, 500),
    ]
    figure = rank_figure(items)
    marks = [trace for trace in figure.data if trace.mode == "markers"]
    (second,) = [trace for trace in marks if list(trace.y) == [2]]
    assert (list(second.x), list(second.error_x.array), list(second.error_x.arrayminus)) == ([2], [4], [0])
    names = [(list(trace.y), [text.strip() for text in trace.text]) for trace in figure.data if trace.mode == "text"]
    assert names == [([1, 2], ["9", "7"]), ([1], ["9"])]
    assert sum(bool(trace.showlegend) for trace in marks) == 2
    symbols = {trace.name: trace.marker.symbol for trace in marks}
    assert len(set(symbols.values())) == len(symbols) == 2  # told apart in grey too
    assert rank_caption(items).startswith("2 of 3 selected dimensions")
    assert "2 are larger in" in rank_caption(items)


def test_agreement_is_the_mean_over_domains() -> None:
    items = [
        ReadingAgreement("law", "default", "last token", 8, 0.2),
        ReadingAgreement("code", "default", "last token", 8, 0.6),
        ReadingAgreement("law", "default", "scaled", 8, 1.0),
        ReadingAgreement("code", "default", "scaled", 8, NAN),
    ]
    values = np.array(agreement_figure(items).data[0].z, dtype=float)
    np.testing.assert_allclose(values[0], [1.0, 0.4, 1.0])
    np.testing.assert_allclose(values, values.T)
    assert "“scaled” shares most (1) and “last token” least (0.4)" in agreement_caption(items)


def test_label_curves_and_bases() -> None:
    rows = [
        [group, score, share, mean, mean - 0.1, mean + 0.05, round(4 * share)]
        for group, mean in (("DCDs", 0.9), ("other dimensions", 0.6))
        for score in ("within", "across")
        for share in (0.5, 1.0)
    ]
    curve = pd.DataFrame(rows, columns=["group", "score", "share", "mean", "low", "high", "n"])
    figure = label_curve_figure(curve)
    lines = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert [list(trace.y) for trace in lines] == [[0.9, 0.9], [0.9, 0.9], [0.6, 0.6], [0.6, 0.6]]
    assert figure.layout.yaxis.range[0] < 0.5
    assert "0.9 [0.8, 0.95] for DCDs and 0.6 [0.5, 0.65] for other dimensions" in label_curve_caption(curve)
    scores = [
        BasisScore(basis, domain, measure, value)
        for measure in ("labelled", "CDS")
        for basis, value in (("coordinate", 0.5), ("rotation 0", 0.4), ("rotation 1", 0.6))
        for domain in ("law", "code")
    ]
    assert "labelled in 1 of 2 and CDS in 1 of 2" in basis_caption(scores)
    diamonds = [trace for trace in basis_figure(scores).data if trace.marker.symbol == "diamond"]
    assert [list(trace.y) for trace in diamonds] == [[0.5], [0.5]]
