"""The criticality experiment against masking done by hand, counted passes and numbers worked on paper."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.masking.test_attribution import counted_rows
from tests.tiny import tiny_model
from workbench.dimensions.masking import top_dimensions
from workbench.interventions.mask import make_replacement
from workbench.masking.experiment import (
    EXCLUDING_SINKS,
    _passage_magnitudes,
    fit_plan,
    measure_criticality,
    planned_costs,
    sample_prompts,
)
from workbench.masking.measure import mask_choices, mask_dimensions
from workbench.masking.tables import (
    ALL_TOKENS,
    RANDOM,
    TOKEN_SUBSETS,
    Criticality,
    CriticalityPlan,
    agreement_table,
    criticality_tables,
    exam_summary,
    jaccard_table,
    load_criticality,
    loss_increase_table,
    masked_table,
    rank_scores,
    ranking,
    recall_table,
    save_criticality,
    summarise_criticality,
    table_rows,
    token_summary,
    token_table,
)
from workbench.records import TOKEN_SETS, Activations, ChoiceItem, MaskingResult, Prompt, RecordError, Site, Split
from workbench.report.masking import token_table as report_tokens

TEXTS: dict[str, dict[Split, tuple[str, ...]]] = {
    "law": {
        "identify": ("the court shall sum . the court", "the court was a court"),
        "test": ("it was a river court", "a court shall sum x"),
    },
    "code": {
        "identify": ("x is y . the sum is a cell .", "y is a sum of x"),
        "test": ("a sum of y is x", "x and y . it is a cell"),
    },
}
PROMPTS = [
    Prompt(text, domain, f"{domain}/{split}/{number}", split)
    for domain, splits in TEXTS.items()
    for split, texts in splits.items()
    for number, text in enumerate(texts)
]
ITEMS = [
    ChoiceItem("q0", "law", "test", "the court", ("shall", "river"), 0),
    ChoiceItem("q1", "code", "test", "x is", ("y", "cell"), 1),
    ChoiceItem("q2", "code", "identify", "x is", ("x", "cell"), 1),
]
FULL = CriticalityPlan(
    "full", exhaustive=("zero",), ranks=(1, 3), k=2, m=4, n_largest=1, n_random=2, n_points=1, n_excluding_sinks=2
)


@pytest.fixture(scope="module")
def found() -> Criticality:
    return measure_criticality(tiny_model(), PROMPTS, ITEMS, plan=FULL, also=[11])


def test_the_rank_is_from_identify_and_the_drop_from_test(found: Criticality) -> None:
    model = tiny_model()
    exact = mask_dimensions(model, [prompt for prompt in PROMPTS if prompt.split == "identify"])
    order = top_dimensions(exact, 16)
    for row in table_rows(loss_increase_table(found)):
        if (row["masked_to"], row["ranked_by"]) != ("zero", "zero") or row["domain"] == "mean" or row["rank"] == RANDOM:
            continue
        assert row["dimension"] == order[row["domain"]][row["rank"] - 1]
        own = [prompt for prompt in PROMPTS if (prompt.domain, prompt.split) == (row["domain"], "test")]
        rise = mask_dimensions(model, own, [row["dimension"]]).loss_increase[0]
        assert row["loss_increase"] == pytest.approx(rise.mean(), abs=1e-5)
        assert row["n"] == 2
    assert set(loss_increase_table(found)["masked_to"]) == {"zero", "mean", "resample"}


def test_every_domain_loses_the_dimensions_of_all_and_those_named_besides(found: Criticality) -> None:
    rows = table_rows(masked_table(found))
    first = {row["domain"]: row["dimension"] for row in rows if row["masked_to"] == "zero" and row["rank"] == 1}
    for domain in ("law", "code"):
        masked = {row["dimension"] for row in rows if (row["masked_to"], row["domain"]) == ("zero", domain)}
        assert set(first.values()) | {11} | set(found.random) <= masked
    at = {(row["masked_to"], row["domain"], row["dimension"]): row for row in rows}
    law, code = (at["zero", domain, 11]["test"] for domain in ("law", "code"))
    assert at["zero", "law", 11]["specificity"] == pytest.approx(law - code)
    assert ("mean", "law", 11) in at


def test_screening_all_dimensions_gives_the_ranking_of_masking_all(found: Criticality) -> None:
    plan = replace(FULL, exhaustive=(), m=16, n_excluding_sinks=0, modes=("zero",), ranked=("zero",))
    screened = measure_criticality(tiny_model(), PROMPTS, plan=plan)
    assert ranking(screened.identify["zero"], screened.estimates["zero"]) == ranking(found.identify["zero"])
    assert screened.exam == {}
    assert not {"exam", "tokens"} & set(criticality_tables(screened))


def test_cost_is_that_of_the_passes_and_within_the_plan() -> None:
    model = tiny_model()
    plan = replace(FULL, modes=("zero",), ranked=("zero",), exhaustive=(), m=3, n_excluding_sinks=1)
    with counted_rows(model) as rows:
        result = measure_criticality(model, PROMPTS, ITEMS, plan=plan)
    n_identify = 4
    n_spared = 2 * len(EXCLUDING_SINKS)  # one passage of each of two domains, per choice of tokens
    backward = 2 * (n_identify + n_spared)  # one point: one backward pass, which costs two forward passes
    assert result.cost == sum(rows) + backward
    exam = result.exam["zero"]
    n_choices = np.isfinite(exam.masked).sum() + exam.baseline.size
    assert result.cost - n_choices <= sum(planned_costs(plan, PROMPTS, (), 16).values())


def test_the_exam_is_of_test_items_and_equals_masking_them_alone(found: Criticality) -> None:
    exam = found.exam["zero"]
    assert [item.name for item in exam.items] == ["q0", "q1"]
    alone = mask_choices(tiny_model(), [ITEMS[0]], {"law": list(exam.dimensions)})
    measured = ~np.isnan(exam.masked[:, 0]).any(axis=1)
    assert measured.sum() >= 2
    np.testing.assert_allclose(exam.masked[measured, 0], alone.masked[measured, 0], atol=1e-5)
    summary = exam_summary(found)
    assert {row["n_items"] for row in summary if row["masked_to"] == "zero" and row["rank"] == 1} == {2}


def test_saved_and_loaded_it_gives_the_same_tables(found: Criticality, tmp_path: Path) -> None:
    save_criticality(found, tmp_path / "masking")
    again = load_criticality(tmp_path / "masking")
    assert again.plan == found.plan
    tables = criticality_tables(found)
    assert set(tables) == {"loss_increases", "masked", "exam", "answers", "agreement", "tokens", "jaccard", "recall"}
    assert [pair[1].masked_at for pair in again.excluding_sinks] == [masked_at for masked_at, _ in EXCLUDING_SINKS]
    for name, table in criticality_tables(again).items():
        pd.testing.assert_frame_equal(table, tables[name])
    assert summarise_criticality(again)["path"] == "full"
    with pytest.raises(RecordError, match="was the run completed"):
        load_criticality(tmp_path)


def masking(dimensions: tuple[int, ...], rise: list[list[float]], how: str = "measured") -> MaskingResult:
    names, domains, splits = ("a", "b", "c", "d"), ("law", "law", "code", "code"), ("identify",) * 4
    return MaskingResult(
        "zero", how, 4, 5.0, dimensions, names, domains, splits, np.ones(4), np.array(rise, dtype=float)
    )  # pyright: ignore[reportArgumentType]


def test_what_was_measured_ranks_before_what_was_estimated() -> None:
    estimate = masking((0, 1, 2, 3), [[9, 9, 0, 0], [8, 8, 1, 1], [7, 7, 2, 2], [6, 6, 3, 3]], "estimated")
    measured = masking((1, 3), [[0.1, 0.1, 5, 5], [0.2, 0.2, np.nan, np.nan]])
    assert ranking(measured, estimate) == {"law": (3, 1, 0, 2), "code": (1, 3, 2, 0)}
    np.testing.assert_array_equal(rank_scores((2, 0), 4), [-1, np.nan, 0, np.nan])


def test_agreement_jaccard_and_recall_by_hand() -> None:
    exact = masking((0, 1, 2, 3), [[9, 9, 1, 1], [8, 8, 2, 2], [7, 7, 3, 3], [6, 6, 4, 4]])
    guess = masking((0, 1, 2, 3), [[9, 9, 9, 9], [7, 7, 8, 8], [8, 8, 7, 7], [6, 6, 6, 6]], "estimated")
    plan = CriticalityPlan("full", ("zero",), ("zero",), ("zero",), ranks=(1,), k=2, m=2, n_largest=1, n_random=0)
    magnitudes = {name: np.array([[4.0, 3.0, 1.0, 2.0]] * 2) for name in TOKEN_SUBSETS}
    result = Criticality(
        plan, 4, ("law", "code"), (), 9.0, magnitudes, {"zero": guess}, {"zero": exact}, {"zero": exact}, {}
    )
    agreement = {(row["tokens"], row["domain"], row["k"]): row for row in table_rows(agreement_table(result))}
    assert agreement[TOKEN_SUBSETS[0], "law", 2]["overlap"] == 1.0  # 0, 1 and 0, 1
    assert agreement[TOKEN_SUBSETS[0], "code", 2]["overlap"] == 0.0  # 0, 1 and 3, 2
    assert agreement[TOKEN_SUBSETS[0], "code", 2]["p"] == 1.0
    assert agreement[TOKEN_SUBSETS[0], "law", 2]["p"] == pytest.approx(1 / 6)  # one of the six pairs of four
    jaccard = {(row["by"], row["first"], row["second"]): row["jaccard"] for row in table_rows(jaccard_table(result))}
    assert jaccard["masking to zero", "law", "code"] == 0.0
    assert jaccard[f"magnitude {TOKEN_SUBSETS[0]}", "law", "code"] == 1.0
    # the largest dimension, 0, is a candidate in any case; law guesses 0, 2 of 0, 1 and code 0, 1 of 3, 2
    recall = recall_table(result, ms=(2,)).set_index("domain")
    assert recall["recall"].to_dict() == {"law": 0.5, "code": 0.0}
    assert recall["cost"].tolist() == [5.0 + 1 + 2] * 2
    assert recall["fraction"].tolist() == [8 / 5] * 2


def test_agreement_where_tokens_are_spared_by_hand() -> None:
    exact = masking((0, 1, 2, 3), [[9, 9, 1, 1], [8, 8, 2, 2], [7, 7, 3, 3], [6, 6, 4, 4]])
    other = masking((3, 0), [[9, 9, 1, 1], [8, 8, 2, 2]])  # law 3, 0 and code 0, 3; the rest is estimated
    guess = masking((0, 1, 2, 3), [[0, 0, 0, 0], [7, 7, 8, 8], [8, 8, 7, 7], [6, 6, 6, 6]], "estimated")
    spared = (guess, replace(other, masked_at="after the first token", counted_at="after the first token"))
    plan = CriticalityPlan("full", ("zero",), ("zero",), ("zero",), ranks=(1,), k=2, m=2, n_largest=1, n_random=0)
    magnitudes = {TOKEN_SUBSETS[0]: np.array([[4.0, 3.0, 1.0, 2.0]] * 2)}
    drops = ({"zero": exact}, {"zero": exact}, {"zero": exact})
    result = Criticality(plan, 4, ("law", "code"), (), 9.0, magnitudes, *drops, {}, (spared,))
    table = table_rows(token_table(result))
    at_all = {(row["against"], row["domain"], row["k"]): row for row in table if row["masked_at"] == "all tokens"}
    assert at_all[ALL_TOKENS, "code", 2]["overlap"] == 1.0  # the same passages with nothing left out
    assert at_all[ALL_TOKENS, "law", 2]["worst"] == 9.0
    found = {(row["against"], row["domain"], row["k"]): row for row in table if row["masked_at"] != "all tokens"}
    assert found[ALL_TOKENS, "law", 2]["overlap"] == 0.5  # 3, 0 and 0, 1
    assert found[ALL_TOKENS, "code", 2]["overlap"] == 0.5  # 0, 3 and 3, 2
    assert found[f"magnitude {TOKEN_SUBSETS[0]}", "code", 1]["overlap"] == 1.0  # 0 and 0
    assert found[ALL_TOKENS, "law", 2]["masked_at"] == "after the first token"
    (*_, of_magnitude, of_masking) = token_summary(result, 1)
    assert of_magnitude["worst"] == (9.0 + 2.0) / 2
    assert (of_magnitude["overlap"], of_magnitude["chance"]) == (0.5, 0.25)  # 0 of law 3 and of code 0
    assert of_masking["overlap"] == 0.0  # 3 and 0, 0 and 3
    assert found[ALL_TOKENS, "law", 2]["spearman"] == pytest.approx(-0.4)  # 3, 0, 2, 1 and 0, 1, 2, 3


def test_magnitudes_leave_out_the_first_token_and_tokens_of_high_norm() -> None:
    values = torch.zeros(1, 5, 2)
    values[0, :, 0] = torch.tensor([8.0, -1.0, 1.0, 30.0, 1.0])
    positions = torch.tensor([0, 1, 2, 3, 4])
    zeros = torch.zeros(5, dtype=torch.long)
    batch = Activations("law", (Site("resid_post", 0),), values, zeros, zeros, positions, zeros.bool())
    found = {name: float(magnitude[0]) for name, magnitude in _passage_magnitudes(batch, 0).items()}
    # norms 8, 1, 1, 30, 1: median 1, so that 30 alone exceeds ten times the median
    assert found == pytest.approx(dict(zip(TOKEN_SUBSETS, (33 / 4, 41 / 5, 1.0, 8.0), strict=True)))


def test_a_plan_may_leave_tokens_out_of_masks_and_losses() -> None:
    later = replace(
        FULL, modes=("zero",), ranked=("zero",), n_excluding_sinks=0, masked_at=TOKEN_SETS[1], counted_at=TOKEN_SETS[1]
    )
    result = measure_criticality(tiny_model(), PROMPTS, plan=later)
    for part, split in ((result.identify, "identify"), (result.test, "test")):
        own = [prompt for prompt in PROMPTS if prompt.split == split]
        alone = mask_dimensions(
            tiny_model(), own, part["zero"].dimensions, masked_at=TOKEN_SETS[1], counted_at=TOKEN_SETS[1]
        )
        np.testing.assert_allclose(part["zero"].loss_increase, alone.loss_increase, atol=1e-5)
    assert result.estimates["zero"].masked_at == TOKEN_SETS[1]
    with pytest.raises(ValueError, match="leave the exam out"):
        measure_criticality(tiny_model(), PROMPTS, ITEMS, plan=later)


def test_plans_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="m is 5, fewer than k = 10"):
        CriticalityPlan("x", m=5)
    with pytest.raises(ValueError, match="ranked must hold zero"):
        CriticalityPlan("x", modes=("zero",), ranked=("mean",))
    with pytest.raises(ValueError, match="n_test = 1 should be greater than or equal to 2"):
        CriticalityPlan("x", n_test=1)
    fitted = fit_plan(CriticalityPlan("x"), 16)
    assert (fitted.m, fitted.k, fitted.ranks) == (16, 10, (1, 10))


def test_a_domain_with_one_passage_has_no_interval() -> None:
    neutral = Prompt("it was", "neutral", "neutral/0", "identify")
    chosen = sample_prompts([*PROMPTS, neutral], "identify", None)
    assert {prompt.domain for prompt in chosen} == {"law", "code"}
    assert [prompt.name for prompt in sample_prompts(PROMPTS, "test", 1)] == ["law/test/0", "code/test/0"]
    with pytest.raises(ValueError, match=r"'code', split 'test': .* at least two passages, given 1"):
        sample_prompts([*PROMPTS[:7]], "test", None)


def test_a_replacement_made_before_serves_its_mode_and_domains_only() -> None:
    model, identify = tiny_model(), [prompt for prompt in PROMPTS if prompt.split == "identify"]
    made = make_replacement(model, "mean", identify, identify)
    direct = mask_dimensions(model, PROMPTS, [3], mode="mean", reference=identify)
    np.testing.assert_array_equal(
        mask_dimensions(model, PROMPTS, [3], mode="mean", reference=made).loss_increase, direct.loss_increase
    )
    with pytest.raises(ValueError, match="made for mode 'mean' or for other domains"):
        mask_dimensions(model, PROMPTS, [3], mode="zero", reference=made)


def test_the_report_sets_rankings_that_spare_tokens_beside_the_same_passages_with_nothing_left_out(
    found: Criticality,
) -> None:
    text, table = report_tokens(found)
    assert table is not None
    assert [row[:2] for row in table.rows] == [("all tokens", "all tokens"), *EXCLUDING_SINKS]
    assert f"the same {FULL.n_excluding_sinks} passages per domain" in text
    assert report_tokens(replace(found, excluding_sinks=())) == ("", None)
