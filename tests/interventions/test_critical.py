"""CDS against contrastive addition: all dimensions are the same, a set and its complement add up."""

import pytest
import torch

from tests.interventions.plain import random_texts
from tests.tiny import FAMILIES, tiny_model
from workbench.interventions import ContrastiveAddition, CriticalDimensionSteering, SteeringError, steer
from workbench.records import Site

POSITIVE, NEGATIVE = random_texts(4, seed=1), random_texts(5, seed=2)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_dimensions_at_one_layer_are_contrastive_addition(family: str) -> None:
    model = tiny_model(family)
    every = CriticalDimensionSteering.fit(model, POSITIVE, NEGATIVE, layers=[1], dimensions=range(model.d_model))
    whole = ContrastiveAddition.fit(model, POSITIVE, NEGATIVE, layer=1)
    tokens = model.tokenize(POSITIVE)
    with steer(model, every, 1.7):
        by_dimensions = model.logits(tokens)
    with steer(model, whole, 1.7):
        assert torch.equal(model.logits(tokens), by_dimensions)
    assert not torch.equal(model.logits(tokens), by_dimensions)


def test_a_set_and_its_complement_add_up_and_leave_each_other_alone() -> None:
    model = tiny_model("llama")
    chosen = (1, 5, 7)
    rest = tuple(index for index in range(model.d_model) if index not in chosen)
    parts = [
        CriticalDimensionSteering.fit(model, POSITIVE, NEGATIVE, layers=[1], dimensions=dimensions)
        for dimensions in (chosen, rest)
    ]
    whole = ContrastiveAddition.fit(model, POSITIVE, NEGATIVE, layer=1)
    x, positions = torch.zeros(1, 2, model.d_model), torch.arange(2)[None]
    deltas = [part.delta(x, Site("resid_post", 1), positions) for part in parts]
    assert torch.equal(deltas[0] + deltas[1], whole.delta(x, Site("resid_post", 1), positions))
    assert not deltas[0][..., list(rest)].any()
    assert not deltas[1][..., list(chosen)].any()


@pytest.mark.parametrize(
    ("dimensions", "message"), [((), "selection is empty"), ((16,), "out of range"), ((-1,), "out of range")]
)
def test_dimensions_that_cannot_be(dimensions: tuple[int, ...], message: str) -> None:
    with pytest.raises(SteeringError, match=message):
        CriticalDimensionSteering(torch.ones(1, 16), (0,), dimensions)


def test_texts_without_a_contrast_are_refused() -> None:
    model = tiny_model("llama")
    with pytest.raises(SteeringError, match="no contrast"):
        ContrastiveAddition.fit(model, POSITIVE, POSITIVE[::-1], layer=1)
    with pytest.raises(SteeringError, match="at least one positive"):
        ContrastiveAddition.fit(model, [], POSITIVE, layer=1)
