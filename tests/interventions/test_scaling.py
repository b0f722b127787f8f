"""Activation Scaling, SteerVec and DynScalar: identities, what training must reach, and mistakes."""

import pytest
import torch

from tests.tiny import tiny_model
from workbench.activations import capture
from workbench.interventions import (
    ActivationScaling,
    ContrastPrompt,
    DynScalar,
    Objective,
    SteeringError,
    SteerVec,
    steer,
)
from workbench.interventions.scaling import evaluate_scaling, prompt_batch
from workbench.models import HookedModel
from workbench.records import Site

ITEMS = [
    ContrastPrompt("the court shall", " river", " cell"),
    ContrastPrompt("a sum is", " court", " x"),
    ContrastPrompt("it was the", " y", " of"),
]


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return tiny_model("llama", scale=3.0)


def test_alpha_minus_one_is_zero_ablation_of_the_site(model: HookedModel) -> None:
    tokens = model.tokenize(["the court shall sum"])
    scaling = ActivationScaling(-torch.ones(1, 5), ("mlp_out.1",))
    with steer(model, scaling, 1.0, "all"):
        steered = model.logits(tokens)
    with model.hooked({Site("mlp_out", 1): lambda values, *_: torch.zeros_like(values)}, editing=True):
        ablated = model.logits(tokens)
    assert torch.equal(steered, ablated)
    assert not torch.equal(steered, model.logits(tokens))


def test_alpha_zero_is_the_identity(model: HookedModel) -> None:
    tokens = model.tokenize(["the court shall sum"])
    before = model.logits(tokens)
    with steer(model, ActivationScaling(torch.zeros(2, 5), ("attn_out.0", "mlp_out.2")), 1.0, "all"):
        assert torch.equal(model.logits(tokens), before)


def test_positions_beyond_the_table_are_left_alone(model: HookedModel) -> None:
    scaling = ActivationScaling(torch.tensor([[0.0, 2.0]]), ("mlp_out.0",))
    x = torch.ones(1, 4, model.d_model)
    delta = scaling.delta(x, Site("mlp_out", 0), torch.tensor([[0, 1, 2, -1]]))
    assert delta[0, :, 0].tolist() == [0.0, 2.0, 0.0, 0.0]


def test_dyn_scalar_by_hand(model: HookedModel) -> None:
    probe = torch.zeros(1, model.d_model)
    probe[0, 0] = 0.5
    x = torch.zeros(1, 1, model.d_model)
    x[..., 0], x[..., 1] = 4.0, 4.0  # root mean square sqrt(32 / 16) = sqrt(2); 0.5 * 4 / sqrt(2) = sqrt(2)
    delta = DynScalar(probe, ("attn_out.0",)).delta(x, Site("attn_out", 0), torch.zeros(1, 1, dtype=torch.long))
    torch.testing.assert_close(delta, 2**0.5 * x)


def test_steer_vec_flips_every_training_item_both_ways(model: HookedModel) -> None:
    fitted = SteerVec.fit(model, ITEMS, objective=Objective(rate=0.05, minimality=0.0, steps=150))
    report = evaluate_scaling(model, fitted, ITEMS)
    assert (report.flips_up, report.flips_down) == (1.0, 1.0)
    assert report.difference_down < 0 < report.difference_up


@pytest.mark.parametrize("method", [ActivationScaling, DynScalar])
def test_training_moves_the_difference_both_ways(model: HookedModel, method: type) -> None:
    fitted = method.fit(model, ITEMS, objective=Objective(rate=0.03, minimality=0.0, faithfulness=0.0, steps=60))
    report = evaluate_scaling(model, fitted, ITEMS)
    assert report.difference_down < report.difference_zero < report.difference_up
    assert 0 < fitted.fraction_nonzero <= 1
    # the model itself is untouched, and so are its gradients
    assert all(parameter.grad is None for parameter in model.hf_model.parameters())


def test_minimality_makes_scalars_smaller(model: HookedModel) -> None:
    free = ActivationScaling.fit(model, ITEMS, objective=Objective(minimality=0.0, steps=40))
    bound = ActivationScaling.fit(model, ITEMS, objective=Objective(minimality=1.0, steps=40))
    assert bound.alpha.abs().sum() < 0.5 * free.alpha.abs().sum()


def test_keep_top_keeps_the_largest(model: HookedModel) -> None:
    scaling = ActivationScaling(torch.tensor([[0.1, -3.0], [2.0, 0.5]]), ("attn_out.0", "mlp_out.0"))
    assert scaling.keep_top(2).alpha.tolist() == [[0.0, -3.0], [2.0, 0.0]]
    with pytest.raises(SteeringError, match="from 1 to"):
        scaling.keep_top(5)


def test_report_by_hand(model: HookedModel) -> None:
    """At alpha 0 both ends are the unsteered model: no divergence, and one direction of every item is right."""
    report = evaluate_scaling(model, ActivationScaling(torch.zeros(1, 4), ("mlp_out.0",)), ITEMS)
    assert report.kl == pytest.approx(0, abs=1e-6)
    assert report.top_kept == 1.0
    assert report.flips_up + report.flips_down == pytest.approx(1.0)


def test_gradients_reach_through_hooks(model: HookedModel) -> None:
    """The learned gradient of one scalar equals the finite difference of the logit difference."""
    batch = prompt_batch(model, ITEMS, equal_length=True)
    rows = torch.arange(len(ITEMS))

    def gap(alpha: torch.Tensor, with_gradients: bool) -> torch.Tensor:
        with steer(model, ActivationScaling(alpha, ("mlp_out.1",)), 1.0, "all"):
            logits = model.logits(batch.tokens, last_only=True, with_gradients=with_gradients)[:, 0]
        return (logits[rows, batch.correct] - logits[rows, batch.wrong]).sum()

    alpha = torch.zeros(1, 4, requires_grad=True)
    gap(alpha, True).backward()
    step = torch.zeros(1, 4)
    step[0, 2] = 1e-2
    difference = (gap(step, False) - gap(-step, False)) / 2e-2
    torch.testing.assert_close(alpha.grad[0, 2], difference, rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "no prompts"),
        ([*ITEMS, ContrastPrompt("x", " y", " of")], "tied to positions"),
        ([ContrastPrompt("the court shall", " river cell", " x")], "single tokens"),
    ],
)
def test_mistakes_raise(model: HookedModel, items: list[ContrastPrompt], message: str) -> None:
    with pytest.raises(SteeringError, match=message):
        ActivationScaling.fit(model, items)


def test_an_item_needs_two_answers() -> None:
    with pytest.raises(ValueError, match="are the same"):
        ContrastPrompt("the", " x", " x")


def test_unequal_prompts_are_fine_for_dyn_scalar(model: HookedModel) -> None:
    items = [*ITEMS, ContrastPrompt("x", " y", " of")]
    fitted = DynScalar.fit(model, items, objective=Objective(steps=2))
    assert capture(model, model.tokenize(["x"]), [fitted.sites[0]]).shape[-1] == fitted.probes.shape[-1]
