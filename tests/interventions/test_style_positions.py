"""Five places to steer a persona from, their controls, and exchanges from files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import FAMILIES, tiny_model
from workbench.interventions import (
    Exchange,
    HeadScores,
    SteeringError,
    cumulative_ablations,
    heads_by_role,
    persona_activations,
    random_heads,
    read_exchanges,
    steer,
    steering_positions,
)

POSITIVE = [Exchange("the court", " shall sum of"), Exchange("x is", " river and river")]
NEGATIVE = [Exchange("the court", " is a"), Exchange("x is", " the cell .")]


@pytest.mark.parametrize("family", FAMILIES)
def test_all_heads_equal_the_attention_output_and_the_residual_places_add_their_own_difference(family: str) -> None:
    model = tiny_model(family)
    found = persona_activations(model, POSITIVE, NEGATIVE)
    places = steering_positions(model, found, layer=1, correlated=(0, 1), anti_correlated=(2, 3))
    tokens = model.tokenize(["the court shall sum"])
    logits = {}
    for name, steering in places.items():
        with steer(model, steering, 0.7, "last_prompt"):
            logits[name] = model.logits(tokens)
    torch.testing.assert_close(logits["both kinds"], logits["attention output"], atol=2e-4, rtol=1e-3)
    assert not torch.allclose(logits["correlated heads"], logits["both kinds"], atol=1e-3)
    x, positions = torch.zeros(1, 1, model.d_model), torch.zeros(1, 1, dtype=torch.long)
    for name, stage in (("residual after attention", 3), ("residual after MLP", 4)):
        added = places[name].delta(x, places[name].sites[0], positions)[0, 0]
        torch.testing.assert_close(added, found.delta_stream[stage])


def scores_of(share: list[float], low: list[float], high: list[float]) -> HeadScores:
    row = [np.array([values]) for values in (share, [0.0] * len(share), share, low, high, share)]
    return HeadScores(*row)


def test_roles_follow_the_intervals() -> None:
    scores = scores_of([0.5, 0.1, -0.3, 0.7], [0.2, -0.1, -0.5, 0.4], [0.8, 0.3, -0.1, 0.9])
    assert heads_by_role(scores, 0) == ((3, 0), (2,))
    assert heads_by_role(scores, 0, n=1) == ((3,), (2,))
    unclear = replace(scores, low=np.full((1, 4), -1.0))
    assert heads_by_role(unclear, 0)[0] == (3,)  # the largest share, where no interval is above zero


def test_ablations_grow_by_one_head() -> None:
    first, second = cumulative_ablations([(1, 3), (0, 2)], 4)
    assert (first.heads, second.heads) == (((1, 3),), ((1, 3), (0, 2)))


def test_random_heads_are_other_heads() -> None:
    draws = {random_heads(8, 3, without=(0, 1), seed=seed) for seed in range(20)}
    assert len(draws) > 5
    assert all(len(set(heads)) == 3 and not set(heads) & {0, 1} for heads in draws)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda model, found: steering_positions(model, found, layer=2, correlated=(0,)), "no block input after it"),
        (lambda model, found: steering_positions(model, found, layer=0, correlated=range(5)), "cannot choose 5 heads"),
        (lambda model, found: random_heads(4, 4, without=(1,)), "cannot draw 4 heads from the 3"),
        (lambda model, found: cumulative_ablations([(0, 1), (0, 1)], 4), "distinct heads"),
    ],
)
def test_mistakes_raise(mistake, message: str) -> None:
    model = tiny_model("llama")
    with pytest.raises(SteeringError, match=message):
        mistake(model, persona_activations(model, POSITIVE, NEGATIVE))


def test_exchanges_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "exchanges.jsonl"
    path.write_text(
        '{"prompt": "a", "positive": " b", "negative": " c"}\n'
        '{"prompt": "d", "plain_prompt": "e", "positive": " f", "negative": " f"}\n'
    )
    found = read_exchanges(path)
    assert found.positive == (Exchange("a", " b"), Exchange("d", " f"))
    assert found.negative == (Exchange("a", " c"), Exchange("e", " f"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "holds no exchanges"),
        ("x", "line 1 of .* is not valid JSON"),
        ("[" * 200_000, "nested too deeply"),
        ('{"prompt": "a", "positive": " b"}', "line 1 of .* has no negative"),
        ('{"prompt": "a", "positive": " b", "negative": " b"}', "no contrast"),
    ],
)
def test_files_that_cannot_be_read(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "exchanges.jsonl"
    path.write_text(line)
    with pytest.raises(ValueError, match=message):
        read_exchanges(path)
