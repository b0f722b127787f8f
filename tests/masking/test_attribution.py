"""Estimates of masking against exact masking, finite differences and counted passes."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from tests.tiny import tiny_model
from workbench.masking import attribution
from workbench.masking.attribution import estimate_masking, screened_masking
from workbench.masking.measure import mask_dimensions
from workbench.models import HookedModel, ModelError, batches
from workbench.records import MASK_MODES, Prompt

PROMPTS = [
    Prompt("the court shall sum . the court", "law", "law/0", "identify"),
    Prompt("it was a river", "law", "law/1", "test"),
    Prompt("x is y . the sum is a cell .", "code", "code/0", "identify"),
    Prompt("a court", "code", "code/1", "test"),
]


@contextmanager
def counted_rows(model: HookedModel) -> Iterator[list[int]]:
    """The number of rows of every forward pass of the model."""
    rows: list[int] = []
    handle = model.hf_model.register_forward_pre_hook(
        lambda module, arguments, options: rows.append(len(options["input_ids"])), with_kwargs=True
    )
    try:
        yield rows
    finally:
        handle.remove()


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_one_group_per_dimension_and_many_points_give_exact_masking(family: str) -> None:
    model = tiny_model(family)
    exact = mask_dimensions(model, PROMPTS)
    estimate = estimate_masking(model, PROMPTS, n_groups=16, n_points=8)
    np.testing.assert_allclose(estimate.loss_increase, exact.loss_increase, atol=1e-3)
    np.testing.assert_allclose(estimate.baseline, exact.baseline, atol=1e-5)
    assert estimate.how == "estimated"
    assert np.abs(exact.loss_increase).max() > 0.1


@pytest.mark.parametrize("mode", MASK_MODES)
def test_every_mode_is_integrated_towards_its_own_replacement(mode) -> None:
    model = tiny_model()
    exact = mask_dimensions(model, PROMPTS, mode=mode, seed=5)
    estimate = estimate_masking(model, PROMPTS, mode=mode, n_groups=16, n_points=8, seed=5)
    np.testing.assert_allclose(estimate.loss_increase, exact.loss_increase, atol=1e-3)


def test_estimates_spare_the_tokens_that_masking_spares_and_screening_follows() -> None:
    model = tiny_model()
    prompts = [PROMPTS[0], PROMPTS[2]]
    exact = mask_dimensions(model, prompts, masked_at="after the first token", counted_at="after the first token")
    estimate = estimate_masking(
        model, prompts, n_groups=16, n_points=8, masked_at="after the first token", counted_at="after the first token"
    )
    np.testing.assert_allclose(estimate.loss_increase, exact.loss_increase, atol=1e-3)
    screened = screened_masking(model, prompts, estimate, m=16)
    np.testing.assert_allclose(screened.loss_increase, exact.loss_increase, atol=1e-5)
    assert (screened.masked_at, screened.counted_at) == (exact.masked_at, exact.counted_at)


def test_one_point_gives_the_slope_at_the_unmasked_model() -> None:
    model = tiny_model()
    estimate = estimate_masking(model, PROMPTS[:1], n_points=1)
    ids = model.tokenize([PROMPTS[0].text]).ids

    def loss(dimension: int, factor: float) -> float:
        def shrink(values: torch.Tensor, hook: object) -> torch.Tensor:
            values = values.clone()
            values[..., dimension] *= factor
            return values

        names = [f"blocks.{layer}.hook_resid_post" for layer in range(model.n_layers)]
        with torch.no_grad(), model.hooks([(name, shrink) for name in names]):
            return float(model.hf_model(input_ids=ids, labels=ids).loss)

    step = 0.02
    for dimension in range(16):
        slope = (loss(dimension, 1 - step) - loss(dimension, 1 + step)) / (2 * step)
        assert estimate.loss_increase[dimension, 0] == pytest.approx(slope, abs=2e-3)
    assert np.abs(estimate.loss_increase).max() > 0.05


def test_cost_counts_rows_of_passes_and_a_backward_pass_as_two() -> None:
    model = tiny_model()
    with counted_rows(model) as rows:
        estimate = estimate_masking(model, PROMPTS, n_groups=3, n_points=2)
    assert sum(rows) == (1 + 3) * len(PROMPTS)  # all of them keep their graph
    assert estimate.cost == 3 * sum(rows) / len(PROMPTS) == 12.0
    with counted_rows(model) as rows:
        screened = screened_masking(model, PROMPTS, estimate, m=3, largest=[0])
    measured = int(np.isfinite(screened.loss_increase).sum())
    assert sum(rows) == measured + len(PROMPTS)
    assert screened.cost == estimate.cost + 1 + measured / len(PROMPTS)
    assert estimate_masking(model, PROMPTS[:1], n_points=1).cost == 3.0


def test_estimates_do_not_depend_on_how_passes_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("qwen3")
    whole = estimate_masking(model, PROMPTS, n_groups=4)
    monkeypatch.setattr(batches, "LOGITS_BYTES", 1)
    np.testing.assert_allclose(
        estimate_masking(model, PROMPTS, n_groups=4).loss_increase, whole.loss_increase, atol=1e-5
    )


def test_screening_masks_the_estimated_top_of_each_domain_exactly() -> None:
    model = tiny_model()
    exact = mask_dimensions(model, PROMPTS)
    estimate = estimate_masking(model, PROMPTS)
    screened = screened_masking(model, PROMPTS, estimate, m=4, largest=[9])
    assert screened.how == "measured"
    for domain, prompt in (("law", 0), ("code", 2)):
        order = [d for d in np.argsort(-estimate.loss_increase[:, prompt]).tolist() if d != 9]
        top = {9, *order[:3]}
        of_domain = np.array(screened.domains) == domain
        found = np.isfinite(screened.loss_increase[:, of_domain]).all(axis=1)
        assert {d for d, known in zip(screened.dimensions, found, strict=True) if known} == top
        assert np.isnan(screened.loss_increase[~found][:, of_domain]).all()
    known = np.isfinite(screened.loss_increase)
    np.testing.assert_allclose(
        screened.loss_increase[known], exact.loss_increase[list(screened.dimensions)][known], atol=1e-5
    )


@pytest.mark.parametrize("n_points", [1, 2, 3, 5])
def test_the_rule_starts_at_the_unmasked_model_and_integrates_polynomials_exactly(n_points: int) -> None:
    points, weights = (np.array(values) for values in attribution.radau_rule(n_points))
    assert points[0] == 0.0
    for degree in range(2 * n_points - 1):
        assert (weights * points**degree).sum() == pytest.approx(1 / (degree + 1), rel=1e-10)


def test_groups_share_the_dimensions_evenly() -> None:
    groups = attribution._assign_groups(11, 4, [7], 0)
    assert groups[7] == attribution.UNGROUPED
    assert sorted(np.bincount(np.delete(groups, 7)).tolist()) == [2, 2, 3, 3]
    assert (groups != attribution._assign_groups(11, 4, [7], 1)).any()


def test_ungrouped_dimensions_do_not_move_and_get_the_plain_gradient() -> None:
    model, moving = tiny_model("llama"), [1, 2, 5, 8, 11, 14]
    ungrouped = [dimension for dimension in range(16) if dimension not in moving]
    estimate = estimate_masking(model, PROMPTS[:1], n_groups=1, n_points=8, ungrouped=ungrouped)
    plain = estimate_masking(model, PROMPTS[:1], n_points=1)
    np.testing.assert_allclose(estimate.loss_increase[ungrouped], plain.loss_increase[ungrouped], atol=1e-6)
    ids = model.tokenize([PROMPTS[0].text]).ids

    def mask(values: torch.Tensor, hook: object) -> torch.Tensor:
        return values.index_fill(-1, torch.tensor(moving), 0.0)

    names = [f"blocks.{layer}.hook_resid_post" for layer in range(model.n_layers)]
    with torch.no_grad(), model.hooks([(name, mask) for name in names]):
        together = float(model.hf_model(input_ids=ids, labels=ids).loss)
    # integrated gradients along the path of several gates sum to what masking them together costs
    assert estimate.loss_increase[moving].sum() == pytest.approx(together - estimate.baseline[0], abs=5e-4)
    assert abs(plain.loss_increase[moving].sum() - (together - estimate.baseline[0])) > 2e-3


def test_a_model_without_gradients_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    logits = model.logits
    monkeypatch.setattr(model, "logits", lambda tokens, **options: logits(tokens))
    with pytest.raises(ModelError, match="gives no gradients"):
        estimate_masking(model, PROMPTS)


def test_wrong_arguments_are_named() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match="choose 1 to 16 groups"):
        estimate_masking(model, PROMPTS, n_groups=17)
    with pytest.raises(ValueError, match="ungrouped are out of range"):
        estimate_masking(model, PROMPTS, ungrouped=[16])
    estimate = estimate_masking(model, PROMPTS)
    with pytest.raises(ValueError, match="m is 17, but 16 dimensions"):
        screened_masking(model, PROMPTS, estimate, m=17)
