"""SADI: the elements of largest positive mean difference, scaled by the paper's formula."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.interventions.plain import answer_pairs, plain_last, plain_model
from tests.tiny import tiny_model
from workbench.activations import capture
from workbench.interventions import SADI, Scope, SteeringError, pairs_of, steer
from workbench.records import NotApplicable, Pair, Site


def mean_difference(family: str, kind: str, pairs: list[Pair]) -> np.ndarray:
    """Mean difference on the plain model, [layer, width]."""
    plain = plain_model(family)
    both = [[np.stack(plain_last(plain, text, kind)) for text in (p.positive, p.negative)] for p in pairs]
    return np.mean([up - down for up, down in both], axis=0)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_coordinates_are_those_of_largest_signed_difference(family: str) -> None:
    pairs = answer_pairs(5)
    difference = mean_difference(family, "mlp_raw", pairs)
    expected = sorted(divmod(int(index), 16) for index in np.argsort(-difference.ravel())[:7])
    steering = SADI.fit(tiny_model(family), pairs, kind="mlp_raw", k=7, batch_size=2)
    rows, units = steering.mask.nonzero(as_tuple=True)
    assert sorted((steering.layers[row], int(unit)) for row, unit in zip(rows, units, strict=True)) == expected


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_heads_are_those_of_largest_mean_over_d_head(family: str) -> None:
    model, pairs = tiny_model(family), answer_pairs(5)
    difference = mean_difference(family, "z", pairs).reshape(3, 4, model.d_head).mean(-1)
    expected = sorted(divmod(int(index), 4) for index in np.argsort(-difference.ravel())[:3])
    steering = SADI.fit(model, pairs, k=3)
    by_head = steering.mask.unflatten(-1, (4, model.d_head))
    assert torch.equal(by_head.amin(-1), by_head.amax(-1)), "a head is chosen whole or not at all"
    rows, heads = by_head.amax(-1).nonzero(as_tuple=True)
    assert sorted((steering.layers[row], int(head)) for row, head in zip(rows, heads, strict=True)) == expected


def test_strength_is_one_less_than_the_factor_of_the_released_code() -> None:
    model, site = tiny_model("llama"), Site("mlp_raw", 1)
    mask = torch.zeros(1, 16)
    mask[0, [2, 5]] = 1
    tokens = model.tokenize(["the court shall sum", "it was"], side="left")
    before = capture(model, tokens, [site])[0]
    with steer(model, SADI(mask, "mlp_raw", (1,)), 9.0):
        after = capture(model, tokens, [site])[0]
    expected = before.clone()
    expected[:, -1, [2, 5]] *= 10.0
    torch.testing.assert_close(after, expected)
    assert SADI.published_scope == Scope("last_prompt")


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda model: SADI.fit(model, answer_pairs(3), k=0), "cannot choose 0 of 12 heads"),
        (lambda model: SADI.fit(model, answer_pairs(3), kind="mlp_raw", k=49), "cannot choose 49 of 48 coordinates"),
        (lambda model: SADI.fit(model, answer_pairs(3), kind="mlp_raw", k=48), "only .* have a positive difference"),
        (lambda model: SADI.fit(model, [], k=1), "no pairs"),
        (lambda model: SADI.fit(model, pairs_of(["it", "x"], ["y"])), "2 positive and 1 negative"),
        (lambda model: SADI(torch.full((1, 16), 0.5), "mlp_raw", (0,)), "holds 0 and 1"),
        (lambda model: SADI(torch.zeros(1, 16), "mlp_raw", (0,)), "at least one 1"),
        (lambda model: SADI(torch.ones(1, 16), "mlp_raw", (0, 1)), "one per distinct layer"),
        (lambda model: steer(model, SADI(torch.ones(1, 17), "mlp_raw", (0,))), "does not fit"),
    ],
)
def test_mistakes_are_named(mistake: Any, message: str) -> None:
    with pytest.raises((SteeringError, NotApplicable), match=message):
        mistake(tiny_model("llama"))
