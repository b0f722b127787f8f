"""Style Modulation Heads: persona vectors, where a direction is formed, and equivalences of positions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.interventions.exchanges import NEGATIVE, POSITIVE
from tests.tiny import FAMILIES, tiny_model
from workbench.activations import capture
from workbench.interventions import (
    ContrastiveAddition,
    Exchange,
    HeadAblation,
    SteeringError,
    StyleHeads,
    layer_map,
    persona_activations,
    steer,
)
from workbench.models import HookedModel
from workbench.records import Site


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> HookedModel:
    return tiny_model(request.param)


def test_vectors_are_means_over_response_tokens(model: HookedModel) -> None:
    got = persona_activations(model, POSITIVE[:1], NEGATIVE[:1])
    both = capture(model, model.tokenize(["the court shall sum of"]), [Site("z", 1)])[0, 0]
    torch.testing.assert_close(got.positive_z[0, 1], both[3:].mean(0), atol=1e-5, rtol=1e-4)
    prompt = persona_activations(model, POSITIVE[:1], NEGATIVE[:1], source="last_prompt")
    torch.testing.assert_close(prompt.positive_z[0, 1], both[2], atol=1e-5, rtol=1e-4)


def test_all_heads_equal_adding_the_attention_output_difference(model: HookedModel) -> None:
    activations = persona_activations(model, POSITIVE, NEGATIVE)
    every = StyleHeads.fit(model, activations, layer=1, heads=range(model.n_heads))
    written = model.project_heads(activations.delta_z[1], 1)
    tokens = model.tokenize(["the court shall sum"])
    with steer(model, every, 0.7, "last_prompt"):
        by_heads = model.logits(tokens)
    with steer(model, ContrastiveAddition(written, 1, "attn_raw"), 0.7, "last_prompt"):
        by_output = model.logits(tokens)
    torch.testing.assert_close(by_heads, by_output, atol=2e-4, rtol=1e-3)
    assert not torch.allclose(by_heads, model.logits(tokens), atol=1e-3)


def test_ablated_heads_write_nothing(model: HookedModel) -> None:
    tokens = model.tokenize(["the court shall sum"])
    with steer(model, HeadAblation(((1, 0), (1, 2)), model.n_heads), 1.0, "all"):
        z = capture(model, tokens, [Site("z", 1)])[0].unflatten(-1, (model.n_heads, -1))
    assert z[..., [0, 2], :].abs().max() == 0
    assert z[..., [1, 3], :].abs().max() > 0


def test_layer_map_finds_where_a_planted_direction_is_written() -> None:
    model = tiny_model("llama")
    activations = persona_activations(model, POSITIVE, NEGATIVE)
    stream = torch.randn(3, 2 * model.n_layers, model.d_model, generator=torch.Generator().manual_seed(1))
    stream[:, 3:] = 0.05 * stream[:, 3:] + torch.ones(model.d_model)  # from resid_mid of layer 1 on
    found = layer_map(replace(activations, positive_stream=stream, negative_stream=torch.zeros_like(stream)))
    assert found.layer == 1
    np.testing.assert_allclose(np.diag(found.similarity), 1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda model, found: StyleHeads.fit(model, found, layer=1, heads=[4]), "heads 0 to 3"),
        (lambda model, found: StyleHeads.fit(model, found, layer=1, heads=range(9)), "cannot choose 9 heads"),
        (lambda model, found: StyleHeads.fit(model, found, layer=3, heads=[0]), "layers 0 to 2"),
        (lambda model, found: persona_activations(model, [], NEGATIVE), "at least one of each"),
        (lambda model, found: persona_activations(model, POSITIVE, POSITIVE), "show no persona"),
        (lambda model, found: persona_activations(model, [Exchange("x", "")], NEGATIVE), "empty response"),
        (lambda model, found: persona_activations(model, POSITIVE, NEGATIVE, source="all"), "unknown vector source"),
    ],
)
def test_mistakes_raise(make, message: str) -> None:
    model = tiny_model("llama")
    with pytest.raises(SteeringError, match=message):
        make(model, persona_activations(model, POSITIVE, NEGATIVE))
