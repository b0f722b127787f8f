"""ITI: the heads that tell best, shifted by sigma along their mass mean difference."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tests.interventions.plain import answer_pairs, plain_last, plain_model, random_texts
from tests.tiny import tiny_model
from workbench.activations import capture
from workbench.interventions import ITI, HeadProbes, Scope, SteeringError, probe_heads, steer
from workbench.records import NotApplicable, Pair, Site


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_shift_is_sigma_times_the_unit_mass_mean_difference(family: str) -> None:
    model, plain = tiny_model(family), plain_model(family)
    pairs = answer_pairs(6)
    found = probe_heads(model, pairs, batch_size=4).shifts[1, 2]
    own = slice(2 * model.d_head, 3 * model.d_head)
    positive, negative = (
        np.stack([plain_last(plain, text, "z")[1][own].numpy() for text in texts])
        for texts in ([pair.positive for pair in pairs], [pair.negative for pair in pairs])
    )
    theta = positive.mean(0) - negative.mean(0)
    theta /= np.linalg.norm(theta)
    sigma = np.std(np.concatenate([positive, negative]) @ theta)
    np.testing.assert_allclose(found, sigma * theta, rtol=1e-3, atol=1e-5)


def test_probe_weights_give_the_direction_and_the_texts_its_length() -> None:
    """The probe is fitted again on the plain model's outputs, by another solver, on the same training pairs."""
    model, plain, pairs = tiny_model("llama"), plain_model("llama"), answer_pairs(8)
    found = probe_heads(model, pairs, direction="probe_weight", seed=1).shifts[1, 2]
    own = slice(2 * model.d_head, 3 * model.d_head)
    sides = [[plain_last(plain, text, "z")[1][own].numpy() for text in (p.positive, p.negative)] for p in pairs]
    z, train = np.array(sides, dtype=np.float64), np.random.default_rng(1).permutation(8)[2:]
    rows, labels = z[train].reshape(-1, model.d_head), np.tile([1, 0], len(train))
    probe = LogisticRegression(solver="newton-cholesky", max_iter=1000, tol=1e-8).fit(rows, labels)
    theta = probe.coef_[0] / np.linalg.norm(probe.coef_)
    np.testing.assert_allclose(found, (z.reshape(-1, model.d_head) @ theta).std() * theta, rtol=5e-2, atol=1e-3)
    other = probe_heads(model, pairs, seed=1).shifts[1, 2]
    assert np.abs(found - other).max() > 1e-2 * np.abs(other).max()


def test_accuracy_is_that_of_held_out_pairs() -> None:
    model = tiny_model("llama")
    real = probe_heads(model, answer_pairs(20), validation_share=0.25)
    assert (real.n_train, real.n_validation) == (15, 5)
    assert real.accuracy.max() >= 0.8
    # Random texts on both sides: in training nearly separable, held out near a half.
    nothing = [Pair(*both) for both in zip(random_texts(12, seed=1), random_texts(12, seed=2), strict=True)]
    accuracies = [probe_heads(model, nothing, validation_share=0.5, seed=seed).accuracy for seed in range(3)]
    assert 0.35 < np.mean(accuracies) < 0.65


def test_probes_repeat_with_the_seed_and_not_with_the_batch() -> None:
    model, pairs = tiny_model("llama"), answer_pairs(10)
    one, other = (probe_heads(model, pairs, seed=3, batch_size=size) for size in (2, 7))
    np.testing.assert_array_equal(one.accuracy, other.accuracy)
    np.testing.assert_allclose(one.shifts, other.shifts, rtol=1e-3, atol=1e-5)


def test_best_heads_over_all_layers_and_ties_in_order() -> None:
    shifts = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    accuracy = np.array([[0.5, 0.9, 0.7], [0.9, 0.6, 1.0]])
    steering = ITI.from_probes(HeadProbes(accuracy, shifts, 8, 2), k=3)
    assert steering.heads == ((1, 2), (0, 1), (1, 0))
    assert steering.vectors.tolist() == [[10, 11], [2, 3], [6, 7]]


def test_only_the_chosen_heads_move_and_only_from_the_last_prompt_token_on() -> None:
    model = tiny_model("qwen3")  # head_dim 6, d_model / n_heads 4
    vectors = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    steering = ITI(vectors, ((0, 3), (0, 1)), 4)
    assert ITI.published_scope == Scope("from_last_prompt")
    tokens, site = model.tokenize(["the court shall sum", "it was"], side="left"), Site("z", 0)
    before = capture(model, tokens, [site])[0]
    with steer(model, steering, 15.0) as handle:
        change = (capture(model, tokens, [site])[0] - before).unflatten(-1, (4, 6))
        model.generate(tokens, max_new_tokens=3)
    assert not change[:, :-1].any()
    assert not change[:, :, (0, 2)].any()
    for head, vector in ((3, vectors[0]), (1, vectors[1])):
        torch.testing.assert_close(change[:, -1, head], 15.0 * vector.expand(2, 6), atol=1e-4, rtol=1e-4)
    # Two rows: one token each in the pass above, then the last prompt token and two generated ones that are fed back.
    assert handle.log.edited[site] == 2 + 2 * 3


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda model: ITI.fit(model, answer_pairs(10), k=13), "cannot choose 13 of 12 heads"),
        (lambda model: ITI.fit(model, answer_pairs(10), k=0), "cannot choose 0 of 12 heads"),
        (lambda model: ITI.fit(model, answer_pairs(1), k=1), "leave 0 to validate and 1 to train"),
        (lambda model: probe_heads(model, answer_pairs(4), validation_share=1.0), "leave 4 to validate and 0 to train"),
        (lambda model: ITI(torch.ones(1, 4), ((0, 4),), 4), "out of range"),
        (lambda model: ITI(torch.ones(2, 4), ((0, 1), (0, 1)), 4), "one per distinct head"),
        (lambda model: ITI(torch.full((1, 4), torch.nan), ((0, 1),), 4), "NaN"),
        (lambda model: steer(model, ITI(torch.ones(1, 4), ((0, 1),), 5)), "has 4; fit it again"),
    ],
)
def test_mistakes_are_named(mistake: Any, message: str) -> None:
    with pytest.raises((SteeringError, NotApplicable), match=message):
        mistake(tiny_model("llama"))
