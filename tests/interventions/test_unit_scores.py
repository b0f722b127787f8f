"""Scores of activation coordinates: exact counts, ranking and ties, and thresholds under meaningless labels."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.interventions.plain import answer_pairs, plain_last, plain_model
from tests.tiny import tiny_model
from workbench.interventions import (
    SignScores,
    SteeringError,
    null_threshold,
    select_units,
    sign_consistency,
    unit_frame,
)
from workbench.interventions.unit_scores import BLOCK, count_signs, first_of
from workbench.records import Pair, Site


def counted(n_positive: Any, n_negative: Any, n_pairs: int, flipped_maxima: Any = ()) -> SignScores:
    """Hand-made counts, one row per layer of MLP outputs."""
    up, down = np.array(n_positive, dtype=np.int64), np.array(n_negative, dtype=np.int64)
    sites = tuple(Site("mlp_raw", layer) for layer in range(len(up)))
    return SignScores(sites, n_pairs, up, down, up, down, np.array(flipped_maxima, dtype=np.int64))


# --- counting ---------------------------------------------------------------------------------------------------------


def test_counts_of_many_units_and_pairs_are_those_of_plain_comparison() -> None:
    """Two sites of more units than one block and a batch of more pairs than a byte can count; small integers tie."""
    generator, shape = torch.Generator().manual_seed(0), (2, BLOCK + 8)

    def drawn(n_pairs: int, always: int) -> torch.Tensor:
        values = torch.randint(-1, 2, (2, n_pairs, shape[1]), generator=generator).float()
        values[..., 5] = always
        return values

    batches = [(drawn(n, 1), drawn(n, 0)) for n in (258, 3)]
    flips = np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.float32), size=(2, 261))
    positive, negative = (np.concatenate([batch[side].numpy() for batch in batches], axis=1) for side in (0, 1))
    *counts, maxima = count_signs(iter(batches), shape, flips=flips)
    expected = [(one > other).sum(axis=1) for one, other in ((positive, negative), (negative, positive))]
    expected += [(side > 0).sum(axis=1) for side in (positive, negative)]
    for found, wanted in zip(counts, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    momentum = (positive - negative) * flips[:, None, :, None]
    np.testing.assert_array_equal(maxima, np.maximum((momentum > 0).sum(2), (momentum < 0).sum(2)).max(axis=(1, 2)))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_one_activation_that_is_not_finite_is_noticed(wrong: float) -> None:
    positive, negative = torch.zeros(1, 2, BLOCK + 8), torch.zeros(1, 2, BLOCK + 8)
    negative[0, 1, BLOCK + 2] = wrong
    with pytest.raises(SteeringError, match="the model gives NaN or infinite"):
        count_signs([(positive, negative)], (1, BLOCK + 8))


@pytest.mark.parametrize("k", [1, 7, 200])
def test_first_of_is_the_head_of_a_stable_sort(k: int) -> None:
    values = np.random.default_rng(k).integers(0, 9, size=200)
    np.testing.assert_array_equal(first_of(values, k), np.argsort(-values, kind="stable")[:k])


def test_counts_do_not_depend_on_batches() -> None:
    model, pairs = tiny_model("llama"), answer_pairs(7)
    sites = [Site("z", 2), Site("z", 0)]
    one, other = (sign_consistency(model, pairs, sites, batch_size=size, n_flips=5) for size in (1, 4))
    for name in ("n_positive", "n_negative", "n_above_zero_positive", "n_above_zero_negative"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.sites == (Site("z", 0), Site("z", 2))


def test_share_above_zero_is_counted_over_both_texts() -> None:
    pairs, plain = answer_pairs(6), plain_model("llama")
    texts = [text for pair in pairs for text in (pair.positive, pair.negative)]
    expected = np.mean([np.stack(plain_last(plain, text, "mlp_raw")) > 0 for text in texts], axis=0)
    scores = sign_consistency(tiny_model("llama"), pairs, [Site("mlp_raw", layer) for layer in range(3)])
    np.testing.assert_allclose(scores.share_above_zero, expected)


# --- which units ------------------------------------------------------------------------------------------------------


def test_ranking_and_ties_by_hand() -> None:
    #                 scores  .7  .9  .5  .5 / .9  .7  .7  0
    scores = counted([[7, 1, 5, 5], [9, 3, 7, 0]], [[3, 9, 5, 4], [1, 7, 3, 0]], n_pairs=10)
    chosen = select_units(scores, 4)
    assert list(zip(chosen.layers, chosen.units, strict=True)) == [(0, 1), (1, 0), (0, 0), (1, 1)]
    assert chosen.gains.tolist() == [-0.9, 0.9, 0.7, -0.7]
    assert chosen.n_ties_at_cut == 1
    assert select_units(scores, 5).n_ties_at_cut == 0
    # 5 against 5 is no majority for the positive: the formula's other branch.
    assert select_units(scores, 6).gains[-1] == -0.5
    worst = select_units(scores, 2, which="bottom")
    assert list(zip(worst.layers, worst.units, strict=True)) == [(1, 3), (0, 2)]
    drawn = select_units(scores, 8, which="random", seed=1)
    assert len(set(zip(drawn.layers, drawn.units, strict=True))) == 8


def test_frame_has_one_row_per_chosen_unit() -> None:
    up = np.zeros((1, 4), dtype=np.int64)
    up[0] = (100, 60, 99, 50)
    frame = unit_frame(select_units(counted(up, 100 - up, n_pairs=100), 3))
    assert frame["unit"].tolist() == [0, 2, 1]
    assert frame["above_null"].tolist() == [True, True, False]


# --- the null ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_pairs", "expected"), [(1000, 0.58), (700, 0.60), (300, 0.65), (100, 0.76)])
def test_threshold_of_131072_units_is_that_of_the_normal_approximation(n_pairs: int, expected: float) -> None:
    zeros = np.zeros((32, 4096), dtype=np.int64)
    assert null_threshold(counted(zeros, zeros, n_pairs)) == pytest.approx(expected, abs=0.006)


def test_threshold_of_one_unit_is_a_two_sided_sign_test() -> None:
    # Ten fair signs: at least 9 equal ones have probability 22/1024, at least 8 have 112/1024.
    assert null_threshold(counted([[0]], [[0]], 10)) == 0.9
    assert null_threshold(counted([[0]], [[0]], 10), level=0.02) == 1.0
    assert null_threshold(counted([[0]], [[0]], 10), level=0.001) == math.inf


def test_flip_threshold_lets_one_in_twenty_labellings_reach_it() -> None:
    # 39 flips and the observed labels are 40 labellings: the two best may reach the threshold, 20/20 of 2 was seen.
    scores = counted([[20]], [[0]], 20, flipped_maxima=[12] * 36 + [15, 17, 18])
    assert null_threshold(scores, null="flips") == 18 / 20
    with pytest.raises(SteeringError, match="n_flips >= 19"):
        null_threshold(counted([[20]], [[0]], 20, flipped_maxima=[12] * 18), null="flips")


@pytest.mark.parametrize("null", ["independent", "flips"])
def test_randomly_flipped_labels_stay_below_the_threshold_and_true_ones_pass(null: Any) -> None:
    model, pairs = tiny_model("llama"), answer_pairs(60)
    coins = np.random.default_rng(1).integers(0, 2, len(pairs))
    shuffled = [Pair(p.negative, p.positive) if coin else p for p, coin in zip(pairs, coins, strict=True)]
    sites = [Site("mlp_raw", layer) for layer in range(3)]
    nothing, real = (sign_consistency(model, data, sites, n_flips=99) for data in (shuffled, pairs))
    assert nothing.scores.max() < null_threshold(nothing, null=null)
    assert real.scores.max() >= null_threshold(real, null=null)


def test_flips_do_what_flipping_the_pairs_does() -> None:
    """A flip is a relabelling: the largest count over units, over all labellings of three pairs, is the same set."""
    model, pairs = tiny_model("llama"), answer_pairs(3)
    sites = [Site("z", 1)]
    by_hand = set()
    for code in range(8):
        relabelled = [Pair(p.negative, p.positive) if code >> i & 1 else p for i, p in enumerate(pairs)]
        scores = sign_consistency(model, relabelled, sites)
        by_hand.add(int(np.maximum(scores.n_positive, scores.n_negative).max()))
    flipped = sign_consistency(model, pairs, sites, n_flips=64).flipped_maxima
    assert set(flipped.tolist()) == by_hand


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda model: sign_consistency(model, answer_pairs(2), []), "no sites"),
        (lambda model: sign_consistency(model, answer_pairs(2), [Site("attn_out", 0)]), "does not act at 'attn_out'"),
        (lambda model: sign_consistency(model, answer_pairs(2), [Site("z", 0), Site("mlp_raw", 0)]), "one kind"),
        (lambda model: sign_consistency(model, answer_pairs(2), [Site("z", 0)] * 2), "distinct sites"),
        (lambda model: select_units(counted([[1]], [[1]], 2), 2), "cannot choose 2 of 1 units"),
    ],
)
def test_mistakes_are_named(mistake: Any, message: str) -> None:
    with pytest.raises(SteeringError, match=message):
        mistake(tiny_model("llama"))
