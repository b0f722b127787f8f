"""The table of claims from made-up tables: counts, verdicts and intervals by hand."""

from dataclasses import replace

import pandas as pd
import pytest

from experiments.claims import CLAIMS, rows_of, table
from workbench.comparison.tables import Outcomes
from workbench.records import Contrast, describe

COUNTS = ["task", "metric", "budget", "level", "arm", "against", "n_domains", "ahead", "behind", "better", "worse", "p"]


def contrast(arm: str, against: str, task: str, effect: float, verdict: str, *, is_primary: bool = True) -> Contrast:
    place = {"task": task, "domain": "", "arm": arm, "role": "method", "metric": "accuracy", "unit": "fraction"}
    budget = {"budget": "kl", "level": 0.1, "against": against, "setting": "layer 1", "strength": 1.0, "in_norms": 0.1}
    numbers = {
        "in_sds": 0.1,
        "kl": 0.1,
        "effect": effect,
        "low": effect - 0.1,
        "high": effect + 0.1,
        "p": 0.01,
        "q": 0.02,
    }
    rest = {
        "n": 30,
        "n_missing": 0,
        "verdict": verdict,
        "minimum_detectable_effect": 0.1,
        "higher_is_better": True,
        "is_primary": is_primary,
    }
    return Contrast(**(place | budget | numbers | rest))  # pyright: ignore[reportArgumentType]


def outcomes(contrasts: tuple[Contrast, ...], counts: list[list[object]]) -> Outcomes:
    return Outcomes(contrasts, (), {"domains": pd.DataFrame(counts, columns=pd.Index(COUNTS))})


def row_about(found: Outcomes, statement: str) -> dict[str, object]:
    (row,) = (vars(row) for row in rows_of(found, "command") if statement in row.statement)
    return row


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ("better", "shown"),
        ("worse", "not shown: the opposite is"),
        ("no difference shown", "not shown (minimum detectable difference"),
    ],
)
def test_the_verdict_is_that_of_the_primary_metric(verdict: str, expected: str) -> None:
    where = ("austeer", "sadi-mlp", "choices/yes_no+two_way")
    other = contrast(*where, 0.9, "better", is_primary=False)
    row = row_about(outcomes((other, contrast(*where, 0.2, verdict)), []), "Sign consistency")
    assert str(row["verdict"]).startswith(expected)
    assert "+0.2" in str(row["measured"])
    assert row["interval"] == "+0.1 to +0.3"
    assert row["n"] == 30


def test_no_difference_does_not_show_equality() -> None:
    found = contrast("dyn-scalar", "whole-dimension", "facts/ccc-context", 0.05, "no difference shown")
    verdict = str(row_about(outcomes((found,), []), "about as well as vectors")["verdict"])
    assert verdict == "not shown (equal to within 0.15 at best)"


def test_no_item_that_differs_is_said_so() -> None:
    where = ("austeer", "sadi-mlp", "choices/yes_no+two_way")
    equal = replace(contrast(*where, 0.0, "no difference shown"), low=0.0, high=0.0, minimum_detectable_effect=0.0)
    assert row_about(outcomes((equal,), []), "Sign consistency")["verdict"] == "not shown (no item differs)"
    assert describe(equal).endswith("(all 30 pairs are equal)")


def test_a_count_of_domains_is_judged_by_its_sign_test() -> None:
    # 7 of 7: p = 2 / 2^7 = 0.016; 6 of 7: 2 * 8 / 2^7 = 0.125
    head = ["domain-loss", "loss", "kl", 0.1, "cds"]
    every, most = (
        outcomes((), [[*head, against, 7, ahead, 7 - ahead, 0, 0, p]])
        for against, ahead, p in (("random-k", 7, 0.0156), ("random-k", 6, 0.125))
    )
    assert row_about(every, "beat random ones")["verdict"] == "shown"
    assert row_about(most, "beat random ones")["verdict"] == "not shown (7 of 7 would show it)"
    opposite = outcomes((), [[*head, "random-k", 7, 0, 7, 0, 0, 0.0156]])
    assert row_about(opposite, "beat random ones")["verdict"] == "not shown: the opposite is"


def test_what_is_not_there_is_not_measured_and_every_claim_has_a_row() -> None:
    rows = rows_of(outcomes((), []), "the command")
    assert len(rows) == len(CLAIMS)
    assert all(row.verdict.startswith("not measured") for row in rows)
    lines = table(rows).splitlines()
    assert len(lines) == len(CLAIMS) + 2
    assert all("`the command`" in line for line in lines[2:])
