"""Usable bands by hand, sizes of edits against their formula, and arms that are what they are called."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tests.compared import compared, neutral, question_task
from tests.tiny import tiny_model
from workbench.activations import capture
from workbench.comparison.budgets import MAX_BAND_EVALUATIONS, Band, edit_sizes, usable_band
from workbench.comparison.fitting import fit_arm, unmet
from workbench.interventions import (
    METHODS,
    ContrastiveAddition,
    CriticalDimensionSteering,
    FitContext,
    FittingData,
    Setting,
    Steering,
    StyleHeads,
    arm_named,
    every_card,
)
from workbench.models import HookedModel
from workbench.records import Site
from workbench.statistics import Interval
from workbench.tasks.metrics import passage_tokens


def searched(threshold: float, *, top: float = np.inf, limit: float = 0.5) -> tuple[Band, list[int]]:
    """KL is the square of the strength; the effect is shown between `threshold` and `top`."""
    calls = [0, 0]

    def kl(strength: float) -> float:
        calls[0] += 1
        return strength**2

    def effects(strengths: Sequence[float]) -> list[Interval]:
        calls[1] += len(strengths)
        lows = [0.1 if threshold <= strength <= top else -0.1 for strength in strengths]
        return [Interval(low + 0.2, low, low + 0.4, 9) for low in lows]

    return usable_band(kl, effects, limit=limit, higher_is_better=True, guess=0.1), calls


def test_the_band_reaches_from_the_first_shown_effect_to_the_limit() -> None:
    band, calls = searched(0.1)
    assert band.high == pytest.approx(0.5**0.5, rel=0.06)  # KL within 10 % of the limit
    assert 0.1 <= band.low <= 0.1 * 1.2
    assert band.n_evaluations == sum(calls) <= MAX_BAND_EVALUATIONS
    for point in band.points:
        assert point.kl == pytest.approx(point.strength**2, rel=1e-6)


def test_the_band_ends_where_too_much_strength_loses_the_effect() -> None:
    band, _ = searched(0.1, top=0.3)
    assert 0.1 <= band.low < band.high <= 0.3


def test_no_band_is_an_answer() -> None:
    band, calls = searched(2.0)
    assert np.isnan([band.low, band.high]).all()
    assert "no tried strength" in band.note
    assert sum(calls) <= MAX_BAND_EVALUATIONS


def test_an_unwanted_effect_is_no_band() -> None:
    def harm(strengths: Sequence[float]) -> list[Interval]:
        return [Interval(0.5, 0.4, 0.6, 9) for _ in strengths]

    band = usable_band(lambda strength: strength**2, harm, limit=0.5, higher_is_better=False)
    assert np.isnan(band.low)


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def context(model: HookedModel) -> FitContext:
    return FitContext(model, question_task().fitting(model), pooling="last", n_fit=12)


def test_size_of_an_added_direction_by_hand(model: HookedModel) -> None:
    tokens = passage_tokens(model, [prompt.text for prompt in neutral()], n_tokens=8)
    direction = torch.zeros(model.d_model)
    direction[3] = 2.0
    size = edit_sizes(model, [ContrastiveAddition(direction, 1)], tokens)[0]
    residual = capture(model, tokens, [Site("resid_post", 1)])[0][tokens.positions >= 1]
    assert size.in_norms == pytest.approx(2.0 / float(residual.norm(dim=-1).median()), rel=1e-5)
    assert size.in_sds == pytest.approx(2.0 / float(residual[:, 3].std()), rel=1e-5)
    assert size.n_coordinates == 1


def test_size_grows_with_the_edit_and_heads_count_as_what_they_write(model: HookedModel) -> None:
    tokens = passage_tokens(model, [prompt.text for prompt in neutral()], n_tokens=8)
    vectors = torch.ones(1, model.d_head)
    once = edit_sizes(model, [StyleHeads(vectors, 1, (2,), model.n_heads)], tokens)[0]
    thrice = edit_sizes(model, [StyleHeads(3 * vectors, 1, (2,), model.n_heads)], tokens)[0]
    assert thrice.in_norms == pytest.approx(3 * once.in_norms, rel=1e-5)
    z = torch.zeros(model.n_heads * model.d_head)
    z[2 * model.d_head : 3 * model.d_head] = 1.0
    residual = capture(model, tokens, [Site("resid_post", 1)])[0][tokens.positions >= 1]
    written = model.project_heads(z, 1).norm() / residual.norm(dim=-1).median()
    assert once.in_norms == pytest.approx(float(written), rel=1e-4)
    assert once.n_coordinates == model.d_head


def fitted(context: FitContext, name: str, *, layer: int = 2, k: int = 4, draw: int = 0) -> Steering:
    return fit_arm(arm_named(name), context, Setting(layer, k, draw)).steering


def on_dimensions(context: FitContext, name: str, *, draw: int = 0) -> CriticalDimensionSteering:
    steering = fitted(context, name, draw=draw)
    assert isinstance(steering, CriticalDimensionSteering)
    return steering


def whole(context: FitContext, name: str, *, layer: int = 2, draw: int = 0) -> ContrastiveAddition:
    steering = fitted(context, name, layer=layer, draw=draw)
    assert isinstance(steering, ContrastiveAddition)
    return steering


def test_controls_share_the_direction_and_differ_in_the_dimensions(context: FitContext, model: HookedModel) -> None:
    cds, complement, top = (on_dimensions(context, name) for name in ("cds", "complement", "top-k"))
    direction = whole(context, "whole-dimension").direction
    assert len(cds.dimensions) == 4
    assert sorted((*cds.dimensions, *complement.dimensions)) == list(range(model.d_model))
    torch.testing.assert_close(cds.direction[0] + complement.direction[0], direction)
    least = direction[list(top.dimensions)].abs().min()
    others = [d for d in range(model.d_model) if d not in top.dimensions]
    assert bool((direction[others].abs() <= least).all())


def test_draws_differ_and_come_again(context: FitContext) -> None:
    drawn = [on_dimensions(context, "random-k", draw=draw).dimensions for draw in range(5)]
    assert len(set(drawn)) == 5
    again = FitContext(context.model, context.data, pooling="last", n_fit=12)
    assert drawn[2] == on_dimensions(again, "random-k", draw=2).dimensions


def test_noise_has_the_norm_of_the_direction_but_not_its_way(context: FitContext) -> None:
    for layer in (0, 2):
        noise, direction = whole(context, "noise", layer=layer).direction, context.directions[layer]
        assert float(noise.norm()) == pytest.approx(float(direction.norm()), rel=1e-5)
        assert float(torch.cosine_similarity(noise, direction, dim=0)) < 0.9


def test_shuffled_labels_keep_their_number(context: FitContext) -> None:
    labels = context.draw(0).permutation(context.is_wanted)
    assert labels.sum() == context.is_wanted.sum()
    values = context.rows.pooled("last")[:, 0].astype(np.float64)
    by_hand = values[labels].mean(axis=0) - values[~labels].mean(axis=0)
    np.testing.assert_allclose(whole(context, "shuffled", layer=0).direction.numpy(), by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("name", sorted(card.name for card in every_card() if card.search != "none"))
def test_every_search_is_of_equal_size(name: str, n: int) -> None:
    settings = arm_named(name).settings(tuple(range(n)), 8, 48)
    assert len({setting.name for setting in settings}) == n


def test_numbers_of_units_are_possible() -> None:
    for n in (1, 2, 3, 5):
        assert all(1 <= (setting.k or 0) <= 48 for setting in METHODS["iti"].settings(tuple(range(n)), 16, 48))


def test_a_budget_of_coordinates_is_kept_to_the_coordinate() -> None:
    """What counts coordinates over all layers has no other count to try there."""
    for name in ("austeer", "sadi-mlp"):
        assert METHODS[name].settings((0, 1), 8, 48, exact_k=5) == [Setting(k=5)]
    assert METHODS["cds"].settings((0, 1), 8, 48, exact_k=5) == [Setting(0, 5), Setting(1, 5)]


def test_reasons_why_an_arm_cannot_run(context: FitContext) -> None:
    def reason(name: str, data: FittingData, *, has_instruction: bool = True, lengths: Sequence[int] = (5,)) -> str:
        return unmet(arm_named(name), data, has_instruction=has_instruction, lengths=lengths)

    nothing = FittingData()
    assert "no contrasting texts" in reason("cds", nothing)
    assert "no contrast pairs" in reason("sadi-mlp", nothing)
    assert "no prompt-only instruction" in reason("prompt-only", context.data, has_instruction=False)
    assert "5 to 6 tokens" in reason("steer-vec", context.data, lengths=[5, 6])
    assert reason("steer-vec", context.data, lengths=[5, 5]) == ""
    assert "no exchanges" in reason("style-heads", context.data)
    assert compared().task.name == "words"
