"""Figures and captions of masking say what their tables say, and the opposite where the tables do."""

import pandas as pd
import pytest

from workbench.figures.masking import (
    drop_caption,
    drop_figure,
    exam_caption,
    exam_figure,
    magnitude_drop_caption,
    magnitude_drop_figure,
    overlap_caption,
    overlap_figure,
    recall_caption,
    recall_figure,
)

DOMAINS = ("law", "<b>code</b>")


def drops(zero: float, mean: float) -> pd.DataFrame:
    rows = []
    for mode, cost in (("zero", zero), ("mean", mean)):
        for rank, share in ((1, 1.0), (10, 0.1), (0, 0.01)):
            for domain in (*DOMAINS, "mean"):
                value = cost * share
                dimension = -1 if domain == "mean" or rank == 0 else 7
                row = [mode, "zero", domain, rank, dimension, rank < 10, value, value - 0.1, value + 0.2, 4, 0.1]
                rows.append(row)
    names = [
        "masked_to",
        "ranked_by",
        "domain",
        "rank",
        "dimension",
        "verified",
        "loss_increase",
        "low",
        "high",
        "n",
        "fraction",
    ]
    return pd.DataFrame(rows, columns=names)


def masked(own: float, others: float) -> pd.DataFrame:
    """Dimension 3 is largest everywhere; dimension 7 costs `own` in law, dimension 3 costs 0.5 in code."""
    rows = [
        ["zero", "law", 3, 40.0, 0.2, 0.0],
        ["zero", "law", 7, 5.0, own, own - others],
        ["zero", "<b>code</b>", 3, 40.0, 0.5, 0.3],
        ["zero", "<b>code</b>", 7, 5.0, others, others - own],
    ]
    return pd.DataFrame(rows, columns=["masked_to", "domain", "dimension", "magnitude", "test", "specificity"])


def agreement(overlap: float, p: float) -> pd.DataFrame:
    rows = [
        ["zero", tokens, domain, k, overlap, 1, k / 100, 0.0, 0.2, p, 0.25]
        for tokens in ("after the first token", "all tokens")
        for domain in DOMAINS
        for k in (1, 10, 32)
    ]
    names = ["ranked_by", "tokens", "domain", "k", "overlap", "n_common", "chance", "low", "high", "p", "spearman"]
    return pd.DataFrame(rows, columns=names)


def recall(worst: float) -> pd.DataFrame:
    rows = [
        ["4 groups", m, domain, value, fraction]
        for m, fraction in ((10, 0.1), (40, 0.3))
        for domain, value in zip(DOMAINS, (worst, 1.0), strict=True)
    ]
    return pd.DataFrame(rows, columns=["setting", "m", "domain", "recall", "fraction"])


def test_every_drop_is_drawn_with_its_interval() -> None:
    figure = drop_figure(drops(0.4, 0.1))
    law = [trace for trace in figure.data if trace.name == "law"]
    assert [list(trace.y) for trace in law] == [pytest.approx([0.4, 0.04, 0.004]), pytest.approx([0.1, 0.01, 0.001])]
    assert list(law[0].error_y.array) == pytest.approx([0.2] * 3)
    assert list(law[0].error_y.arrayminus) == pytest.approx([0.1] * 3)
    assert list(figure.layout.xaxis.ticktext) == ["1", "10", "random"]
    means = [trace for trace in figure.data if trace.name == "mean of the domains"]
    assert means[0].y[:2] == pytest.approx((0.4, 0.4))


def test_the_caption_of_drops_says_whether_a_constant_or_content_is_lost() -> None:
    constant = drop_caption(drops(0.4, 0.1), path="full")
    assert "rank 1 0.4 and rank 10 0.04 nats" in constant
    assert "25% of it: most of the cost is that of losing a constant" in constant
    assert "Random dimensions cost 0.004" in constant
    assert "screened" not in constant
    content = drop_caption(drops(0.4, 0.3), path="screened")
    assert "75% of it: most of the cost is that of losing what varies" in content
    assert "ranks further down are the estimate's" in content
    assert "% of it" not in drop_caption(drops(-0.1, 0.1), path="full")


def test_points_are_where_magnitude_and_cost_are() -> None:
    figure = magnitude_drop_figure(masked(0.6, 0.1), n_named=1)
    law, code = figure.data
    assert (list(law.x), list(law.y), list(law.customdata)) == ([40.0, 5.0], [0.2, 0.6], [3, 7])
    assert [note.text for note in figure.layout.annotations if note.text in ("3", "7")] == ["7", "3"]
    assert all("<b>code</b>" not in (note.text or "") for note in figure.layout.annotations)
    assert code.showlegend is False
    empty = masked(0.6, 0.1)
    empty.loc[0, "magnitude"] = 0.0
    assert list(magnitude_drop_figure(empty, n_named=1).data[0].x) == [5.0, 5.0]


def test_the_caption_of_magnitudes_counts_domains_and_names_what_is_specific() -> None:
    text = magnitude_drop_caption(masked(0.6, 0.1))
    assert "In 1 of 2 domains the largest" in text
    assert "2 different ones (3 and 7)" in text
    assert "in law and <b>code</b> is more than half" in text
    assert "in <b>code</b> is more than half" in magnitude_drop_caption(masked(0.45, 0.4))


def test_overlap_is_beside_chance() -> None:
    figure = overlap_figure(agreement(0.5, 0.001))
    law = [trace for trace in figure.data if trace.name == "law"]
    assert len(law) == 2
    assert (list(law[0].x), list(law[0].y)) == ([1, 10, 32], [0.5] * 3)
    chance = next(trace for trace in figure.data if trace.name == "chance")
    assert list(chance.y) == [0.01, 0.1, 0.32]
    text = overlap_caption(agreement(0.5, 0.001), path="screened")
    assert "At k = 10" in text
    assert "50%, by chance 10.0%; 2 of 2 domains are beyond chance" in text
    assert "(screened ranking)" in text
    assert "0 of 2 domains are beyond chance" in overlap_caption(agreement(0.1, 0.03))


def test_recall_draws_the_worst_domain_and_says_whether_the_goal_is_reached() -> None:
    line = next(trace for trace in recall_figure(recall(0.6)).data if trace.mode == "lines+markers")
    assert (list(line.x), list(line.y)) == ([0.1, 0.3], [0.6, 0.6])
    assert "No setting finds 90% of the top 10 in every one of 2 domains at 20%" in recall_caption(recall(0.6))
    assert "the best there is 60% (4 groups, m = 10, 10.0% of the cost)" in recall_caption(recall(0.6))
    assert "is reached from 10.0% of the exhaustive cost on (4 groups, m = 10" in recall_caption(recall(0.9))
    assert "Every setting costs more than 20%" in recall_caption(recall(1.0).query("m == 40"))


def exam() -> pd.DataFrame:
    rows = [
        ["law", "rank", 1, 7, 0.6, 0.2],
        ["<b>code</b>", "rank", 1, 9, 0.4, 0.3],
        ["law", "random", 0, 1, 0.6, 0.6],
        ["law", "random", 0, 2, 0.6, 0.5],
        ["<b>code</b>", "random", 0, 1, 0.4, 0.4],
        ["law", "named", 0, 5, 0.6, 0.7],
    ]
    return pd.DataFrame(rows, columns=["subject", "role", "rank", "dimension", "unmasked", "masked"])


def test_an_exam_shows_every_subject_and_averages_random_dimensions_within_it_first() -> None:
    figure = exam_figure(exam())
    marks = [list(trace.y) for trace in figure.data if trace.mode == "markers"]
    assert marks == [pytest.approx([-0.4, -0.1]), pytest.approx([-0.05, 0.0]), pytest.approx([0.1])]
    means = [trace.y[0] for trace in figure.data if trace.mode == "lines"]
    assert means == pytest.approx([-0.25, -0.025, 0.1])
    assert "<b>code" not in figure.to_json().replace("\\u003c", "<")
    text = exam_caption(exam())
    assert "over 2 subjects, in percentage points of 50% unmasked: rank 1 −25, random −2.5 and dimension 5 10." in text
    assert exam_figure(exam().iloc[:0]) is None
