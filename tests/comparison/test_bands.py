"""Usable bands by hand, sizes of edits against their formula, and arms that are what they are called."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from workbench.comparison.arm_kinds import ARM_KINDS, counts_of, settings_of, unmet

from tests.contests import contest, neutral, question_task
from tests.tiny import tiny_model
from workbench.activations import capture
from workbench.comparison.bands import MAX_EVALUATIONS, Band, usable_band
from workbench.comparison.fitting import Ground, fit_arm
from workbench.comparison.strengths import edit_size
from workbench.interventions import ContrastiveAddition, CriticalDimensionSteering, Scope, StyleHeads
from workbench.models import HookedModel
from workbench.records import Site
from workbench.statistics import Interval
from workbench.tasks.base import FittingData
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
    assert band.n_evaluations == sum(calls) <= MAX_EVALUATIONS
    for point in band.points:
        assert point.kl == pytest.approx(point.strength**2, rel=1e-6)


def test_the_band_ends_where_too_much_strength_loses_the_effect() -> None:
    band, _ = searched(0.1, top=0.3)
    assert 0.1 <= band.low < band.high <= 0.3


def test_no_band_is_an_answer() -> None:
    band, calls = searched(2.0)
    assert np.isnan([band.low, band.high]).all()
    assert "no tried strength" in band.note
    assert sum(calls) <= MAX_EVALUATIONS


def test_an_unwanted_effect_is_no_band() -> None:
    def harm(strengths: Sequence[float]) -> list[Interval]:
        return [Interval(0.5, 0.4, 0.6, 9) for _ in strengths]

    band = usable_band(lambda strength: strength**2, harm, limit=0.5, higher_is_better=False)
    assert np.isnan(band.low)


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def ground(model: HookedModel) -> Ground:
    data = question_task().fitting(model)
    return Ground(model, data, (0, 2), 4, 0, "last", Scope("all_but_first"), 12)


def test_size_of_an_added_direction_by_hand(model: HookedModel) -> None:
    tokens = passage_tokens(model, [prompt.text for prompt in neutral()], n_tokens=8)
    direction = torch.zeros(model.d_model)
    direction[3] = 2.0
    size = edit_size(model, ContrastiveAddition(direction, 1), tokens)
    residual = capture(model, tokens, [Site("resid_post", 1)])[0][tokens.positions >= 1]
    assert size.in_norms == pytest.approx(2.0 / float(residual.norm(dim=-1).median()), rel=1e-5)
    assert size.in_sds == pytest.approx(2.0 / float(residual[:, 3].std()), rel=1e-5)
    assert size.n_coordinates == 1


def test_size_grows_with_the_edit_and_heads_count_as_what_they_write(model: HookedModel) -> None:
    tokens = passage_tokens(model, [prompt.text for prompt in neutral()], n_tokens=8)
    vectors = torch.ones(1, model.d_head)
    once = edit_size(model, StyleHeads(vectors, 1, (2,), model.n_heads), tokens)
    thrice = edit_size(model, StyleHeads(3 * vectors, 1, (2,), model.n_heads), tokens)
    assert thrice.in_norms == pytest.approx(3 * once.in_norms, rel=1e-5)
    z = torch.zeros(model.n_heads * model.d_head)
    z[2 * model.d_head : 3 * model.d_head] = 1.0
    residual = capture(model, tokens, [Site("resid_post", 1)])[0][tokens.positions >= 1]
    written = model.project_heads(z, 1).norm() / residual.norm(dim=-1).median()
    assert once.in_norms == pytest.approx(float(written), rel=1e-4)
    assert once.n_coordinates == model.d_head


def at_layer(ground: Ground, name: str, *, k: int = 4, draw: int = 0) -> CriticalDimensionSteering:
    steering = fit_arm(name, ground, k=k, draw=draw)[1].steering
    assert isinstance(steering, CriticalDimensionSteering)
    return steering


def test_controls_share_the_direction_and_differ_in_the_dimensions(ground: Ground, model: HookedModel) -> None:
    cds, complement, top = (at_layer(ground, name) for name in ("cds", "complement", "top-k"))
    whole = fit_arm("whole-dimension", ground, k=4, draw=0)[1].steering
    assert isinstance(whole, ContrastiveAddition)
    assert len(cds.dimensions) == 4
    assert sorted((*cds.dimensions, *complement.dimensions)) == list(range(model.d_model))
    torch.testing.assert_close(cds.direction[0] + complement.direction[0], whole.direction)
    least = whole.direction[list(top.dimensions)].abs().min()
    others = [d for d in range(model.d_model) if d not in top.dimensions]
    assert bool((whole.direction[others].abs() <= least).all())


def test_draws_differ_and_come_again(ground: Ground) -> None:
    drawn = [at_layer(ground, "random-k", draw=draw).dimensions for draw in range(5)]
    assert len(set(drawn)) == 5
    assert drawn[2] == at_layer(ground, "random-k", draw=2).dimensions


def test_noise_has_the_norm_of_the_direction_but_not_its_way(ground: Ground) -> None:
    for layer, variant in zip(ground.layers, fit_arm("noise", ground, k=4, draw=0), strict=True):
        assert isinstance(variant.steering, ContrastiveAddition)
        noise, direction = variant.steering.direction, ground.directions[layer]
        assert float(noise.norm()) == pytest.approx(float(direction.norm()), rel=1e-5)
        assert float(torch.cosine_similarity(noise, direction, dim=0)) < 0.9


def test_shuffled_labels_keep_their_number(ground: Ground) -> None:
    """With as many positive as negative texts, the two halves of any deal average to the mean of all."""
    variant = fit_arm("shuffled", ground, k=4, draw=0)[0]
    assert isinstance(variant.steering, ContrastiveAddition)
    labels = ground.draw(0).permutation(ground.is_wanted)
    assert labels.sum() == ground.is_wanted.sum()
    values = ground.rows.pooled("last")[:, 0].astype(np.float64)
    by_hand = values[labels].mean(axis=0) - values[~labels].mean(axis=0)
    np.testing.assert_allclose(variant.steering.direction.numpy(), by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("name", sorted(name for name, kind in ARM_KINDS.items() if kind.search != "none"))
def test_every_search_is_of_equal_size(name: str, n: int) -> None:
    found = settings_of(ARM_KINDS[name], tuple(range(n)), 8, 48)
    assert len(set(found)) == len(found) == n


def test_numbers_of_units_are_possible() -> None:
    assert all(1 <= count <= 48 for n in (1, 2, 3, 5) for count in counts_of("iti", n, 16, 48))


def test_reasons_why_an_arm_cannot_run(ground: Ground) -> None:
    nothing = FittingData((), ())
    data = ground.data
    assert "0 contrasting texts" in unmet(ARM_KINDS["cds"], nothing, has_words=True, lengths=[5])
    assert "no contrast pairs" in unmet(ARM_KINDS["sadi"], nothing, has_words=True, lengths=[5])
    assert "no words" in unmet(ARM_KINDS["prompt-only"], data, has_words=False, lengths=[5])
    assert "5 to 6 tokens" in unmet(ARM_KINDS["steer-vec"], data, has_words=True, lengths=[5, 6])
    assert unmet(ARM_KINDS["steer-vec"], data, has_words=True, lengths=[5, 5]) == ""
    assert "no exchanges" in unmet(ARM_KINDS["style-heads"], data, has_words=True, lengths=[5])
    assert contest().task.name == "words"
