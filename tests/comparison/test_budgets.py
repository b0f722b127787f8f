"""The search for a budget hits its target on lawful curves and says so when there is no lawful answer."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import tiny_model
from workbench.comparison import NeutralText, find_strength, find_strengths, kl_budget, passage_tokens
from workbench.interventions import ContrastiveAddition, steer


@given(
    scale=st.floats(1e-5, 1e5),
    power=st.floats(0.5, 4),
    target=st.sampled_from([0.03, 0.1, 0.3, 2.0]),
    guess=st.floats(0.1, 10),
)
def test_target_is_hit_on_power_laws(scale: float, power: float, target: float, guess: float) -> None:
    root = (target / scale) ** (1 / power)
    budget = find_strength(lambda strength: scale * strength**power, target, guess=guess)
    if guess / 9e3 < root < guess * 9e3:
        assert budget.reached
        assert budget.monotone
        assert not budget.problem
        assert scale * budget.strength**power == pytest.approx(target, rel=0.1)
        assert len(budget.points) <= 10


def test_small_edits_take_two_tries() -> None:
    budget = find_strength(lambda strength: 0.002 * strength**2, 0.1)
    assert [point[0] for point in budget.points] == pytest.approx([1.0, math.sqrt(50)])


def test_saturation_below_the_target_is_unreachable() -> None:
    budget = find_strength(lambda strength: 0.05 * (1 - math.exp(-strength)), 0.1)
    assert not budget.reached
    assert budget.monotone
    assert "KL 0.1 not reached" in budget.problem
    assert budget.kl == pytest.approx(0.05)


def test_jump_over_the_target_is_unreachable() -> None:
    budget = find_strength(lambda strength: 0.0 if strength < 3.7 else 1.0, 0.1)
    assert not budget.reached
    assert len(budget.points) <= 16


def test_no_effect_and_endless_effect_are_unreachable() -> None:
    assert not find_strength(lambda strength: 0.0, 0.1).reached
    assert not find_strength(lambda strength: 5.0, 0.1).reached
    assert not find_strength(lambda strength: math.nan, 0.1).reached
    assert find_strength(lambda strength: math.nan if strength > 0.5 else strength, 0.1).reached


def test_curve_that_falls_is_called_non_monotone() -> None:
    # a line with a bump around 0.5: three strengths have the target KL, the lowest near 0.3
    bump = find_strength(lambda strength: 0.2 * strength + 0.6 * math.exp(-8 * (math.log2(strength) + 1) ** 2), 0.1)
    assert bump.reached
    assert bump.strength < 0.5
    assert not bump.monotone
    assert bump.problem == "KL is not monotone in the strength"

    hump = find_strength(lambda strength: 0.05 * math.exp(-(math.log10(strength) ** 2)), 0.1, guess=0.1)
    assert not hump.reached
    assert not hump.monotone
    assert "not reached" in hump.problem
    assert "not monotone" in hump.problem


def test_lowest_bracket_is_searched() -> None:
    # 0.02 up to 1, a peak at 2, back to 0.02, and high from 32 on: the crossing below 2 is the answer
    def curve(strength: float) -> float:
        if strength >= 32:
            return 5.0
        return 0.02 + math.exp(-((math.log2(strength) - 1) ** 2) * 8)

    budget = find_strength(curve, 0.1, guess=2.0)
    assert budget.reached
    assert budget.strength < 2


def test_searches_in_step_are_those_one_by_one() -> None:
    curves = [lambda s: 0.01 * s, lambda s: s**2, lambda s: 0.05 * (1 - math.exp(-s)), lambda s: 3 * s**3]
    guesses = [1.0, 2.0, 1.0, 0.1]
    calls: list[list[int]] = []

    def measure(indices: list[int], strengths: list[float]) -> list[float]:
        calls.append(list(indices))
        return [curves[index](strength) for index, strength in zip(indices, strengths, strict=True)]

    together = find_strengths(measure, 0.1, guesses)
    alone = [find_strength(curve, 0.1, guess=guess) for curve, guess in zip(curves, guesses, strict=True)]
    assert together == alone
    assert calls[0] == [0, 1, 2, 3]
    assert calls[-1] == [2]  # those that are done are not measured again


def test_budget_on_a_model_is_its_kl() -> None:
    model = tiny_model()
    texts = ["the court shall sum the cell .", "it was a river and a cell", "x is y"]
    steering = ContrastiveAddition(torch.randn(16, generator=torch.Generator().manual_seed(0)), 1)
    budget = kl_budget(model, steering, NeutralText(model, texts, n_tokens=8), 0.1)
    assert budget.reached
    total, n_tokens = 0.0, 0
    for text in texts:
        tokens = passage_tokens(model, [text], n_tokens=8)
        before = model.logits(tokens)[0].double().log_softmax(1)
        with steer(model, steering, budget.strength):
            after = model.logits(tokens)[0].double().log_softmax(1)
        total += float((before.exp() * (before - after)).sum())
        n_tokens += len(before)
    assert total / n_tokens == pytest.approx(0.1, rel=0.1)
    assert total / n_tokens == pytest.approx(budget.kl, rel=1e-3)


def test_errors() -> None:
    for target in (0.0, -0.1, math.inf):
        with pytest.raises(ValueError, match="KL level must be a positive number"):
            find_strength(lambda strength: strength, target)
    with pytest.raises(ValueError, match="positive strengths"):
        find_strength(lambda strength: strength, 0.1, guess=-1.0)
    with pytest.raises(ValueError, match="tolerance"):
        find_strength(lambda strength: strength, 0.1, tolerance=10.0)
