"""AUSteer against a transcription of the published formula, against baked weights, and under its null."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.steering.plain import answer_pairs, blocks_of, module_of, plain_last, plain_model, random_texts
from tests.tiny import FAMILIES, tiny_model
from workbench.activations import capture
from workbench.records import Pair, Site
from workbench.steering import (
    AUSteer,
    SignScores,
    SteeringError,
    null_threshold,
    select_units,
    sign_consistency,
    steer,
    unit_frame,
)

PROBE = ["the court shall sum the cell .", "it was a river"]


def counted(n_positive: Any, n_negative: Any, n_pairs: int, flipped_maxima: Any = ()) -> SignScores:
    """Hand-made counts, one row per layer of MLP outputs."""
    up, down = np.array(n_positive, dtype=np.int64), np.array(n_negative, dtype=np.int64)
    sites = tuple(Site("mlp_raw", layer) for layer in range(len(up)))
    return SignScores(sites, n_pairs, up, down, up, down, np.array(flipped_maxima, dtype=np.int64))


# --- the published formula --------------------------------------------------------------------------------------------


def published_gains(family: str, kind: str, pairs: list[Pair], k: int) -> dict[tuple[int, int], float]:
    """(layer, unit) -> gamma at alpha = 1, unit by unit with sorted lists, on the plain model, one text at a time."""
    model = plain_model(family)
    momentum = [
        [
            up - down
            for up, down in zip(*(plain_last(model, text, kind) for text in (p.positive, p.negative)), strict=True)
        ]
        for p in pairs
    ]
    scored = []
    for layer in range(len(momentum[0])):
        for unit in range(len(momentum[0][layer])):
            values = [float(of_pair[layer][unit]) for of_pair in momentum]
            up = sum(value > 0 for value in values) / len(pairs)
            down = sum(value < 0 for value in values) / len(pairs)
            scored.append(((layer, unit), up if up > down else -down))
    return dict(sorted(scored, key=lambda item: abs(item[1]), reverse=True)[:k])


def gains_of(steering: AUSteer) -> dict[tuple[int, int], float]:
    rows = zip(steering.layers, steering.gain, strict=True)
    return {(layer, int(unit)): float(row[unit]) for layer, row in rows for unit in row.nonzero().flatten()}


@pytest.mark.parametrize("kind", ["z", "mlp_raw", "resid_post"])
@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_units_and_gains_are_those_of_the_published_formula(family: str, kind: str) -> None:
    pairs = [Pair(*texts) for texts in zip(random_texts(12, seed=1), random_texts(12, seed=2), strict=True)]
    expected = published_gains(family, kind, pairs, k=30)
    found = gains_of(AUSteer.fit(tiny_model(family), pairs, kind=kind, k=30, batch_size=5))
    assert found == pytest.approx(expected, abs=1e-6)
    assert min(map(abs, found.values())) < 1, "all units agree in all pairs, so their order was not put to the test"


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


# --- the edit ---------------------------------------------------------------------------------------------------------


def bake(model: Any, steering: AUSteer, alpha: float) -> None:
    """Scale the inputs of the attention's output projection (z) or the outputs of the MLP's last one (mlp_raw)."""
    for gain, layer in zip(steering.gain, steering.layers, strict=True):
        module = module_of(blocks_of(model)[layer], steering.kind)
        if steering.kind == "mlp_raw":
            module = module.c_proj if hasattr(module, "c_proj") else module.down_proj
        # GPT-2 keeps [input, output], the others [output, input].
        factor = 1 + alpha * gain
        is_row = (steering.kind == "z") == (type(module).__name__ == "Conv1D")
        module.weight.mul_(factor[:, None] if is_row else factor)
        if steering.kind == "mlp_raw" and module.bias is not None:
            module.bias.mul_(factor)


@pytest.mark.parametrize("kind", ["z", "mlp_raw"])
@pytest.mark.parametrize("family", FAMILIES)
def test_hook_equals_baked_weights(family: str, kind: Any) -> None:
    model, plain = tiny_model(family, scale=2.0), plain_model(family, scale=2.0)
    steering = AUSteer.fit(model, answer_pairs(8), kind=kind, k=12)
    tokens = model.tokenize(PROBE[:1])
    before = model.logits(tokens)
    bake(plain, steering, 3.0)
    with steer(model, steering, 3.0, "all"), torch.no_grad():
        hooked = model.logits(tokens)
        baked = plain(tokens.ids).logits
    assert (hooked - before).abs().max() > 1e-2
    assert (hooked - baked).abs().max() < 1e-4


def test_momentum_consistent_mode_moves_every_unit_along_its_momentum() -> None:
    model, pairs = tiny_model("llama"), answer_pairs(10)
    tokens, site = model.tokenize(PROBE), Site("mlp_raw", 1)
    units = select_units(sign_consistency(model, pairs, [site]), 10)
    before = capture(model, tokens, [site])[0]
    moved = {}
    for mode in ("published", "momentum_consistent"):
        with steer(model, AUSteer.from_units(units, mode), 2.0, "all"):
            moved[mode] = (capture(model, tokens, [site])[0] - before)[tokens.mask][:, units.units]
    direction = torch.sign(torch.tensor(units.gains))
    assert bool((moved["momentum_consistent"] * direction > 0).all())
    assert not bool((moved["published"] * direction > 0).all())
    torch.testing.assert_close(moved["published"].abs(), moved["momentum_consistent"].abs())


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda model: AUSteer.fit(model, answer_pairs(2), k=0), "cannot choose 0 of 48 units"),
        (lambda model: AUSteer.fit(model, answer_pairs(2), k=49), "cannot choose 49 of 48 units"),
        (lambda model: AUSteer.fit(model, []), "no pairs"),
        (lambda model: AUSteer.fit(model, answer_pairs(2), batch_size=0), "batch_size"),
        (lambda model: sign_consistency(model, answer_pairs(2), []), "no sites"),
        (lambda model: sign_consistency(model, answer_pairs(2), [Site("attn_out", 0)]), "does not act at 'attn_out'"),
        (lambda model: sign_consistency(model, answer_pairs(2), [Site("z", 0), Site("mlp_raw", 0)]), "one kind"),
        (lambda model: sign_consistency(model, answer_pairs(2), [Site("z", 0)] * 2), "distinct sites"),
        (lambda model: AUSteer(torch.zeros(1, 16), "z", (0,)), "all gains are 0"),
        (lambda model: AUSteer(torch.ones(2, 16), "z", (0,)), "one per distinct layer"),
        (lambda model: steer(model, AUSteer(torch.ones(1, 17), "z", (0,))), "does not fit"),
    ],
)
def test_mistakes_are_named(mistake: Any, message: str) -> None:
    with pytest.raises(SteeringError, match=message):
        mistake(tiny_model("llama"))
