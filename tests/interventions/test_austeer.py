"""AUSteer against a transcription of the published formula and against baked weights."""

from typing import Any

import pytest
import torch

from tests.interventions.plain import answer_pairs, blocks_of, module_of, plain_last, plain_model, random_texts
from tests.tiny import FAMILIES, tiny_model
from workbench.activations import capture
from workbench.interventions import (
    AUSteer,
    SteeringError,
    rms_ratios,
    select_units,
    sign_consistency,
    steer,
)
from workbench.records import Pair, Site

PROBE = ["the court shall sum the cell .", "it was a river"]


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


def test_rms_ratio_is_what_a_post_norm_takes_from_the_units_left_alone() -> None:
    model = tiny_model("gemma2")
    gain = torch.zeros(1, model.d_model)
    gain[0, 3] = 1.0
    steering, site, tokens = AUSteer(gain, "mlp_raw", (0,)), Site("mlp_raw", 0), model.tokenize(PROBE)
    before = capture(model, tokens, [Site("mlp_out", 0)])[0]
    with steer(model, steering, 20.0, "all"):
        after = capture(model, tokens, [Site("mlp_out", 0)])[0]
    expected = float((before / after)[tokens.mask][:, 5].mean())
    assert expected > 2
    assert rms_ratios(model, steering, PROBE, 20.0) == {site: pytest.approx(expected, rel=1e-3)}
    assert rms_ratios(model, steering, PROBE, 0.0) == {site: 1.0}


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda model: AUSteer.fit(model, answer_pairs(2), k=0), "cannot choose 0 of 48 units"),
        (lambda model: AUSteer.fit(model, answer_pairs(2), k=49), "cannot choose 49 of 48 units"),
        (lambda model: AUSteer.fit(model, []), "no pairs"),
        (lambda model: AUSteer.fit(model, answer_pairs(2), batch_size=0), "batch_size"),
        (lambda model: AUSteer(torch.zeros(1, 16), "z", (0,)), "all gains are 0"),
        (lambda model: AUSteer(torch.ones(2, 16), "z", (0,)), "one per distinct layer"),
        (lambda model: steer(model, AUSteer(torch.ones(1, 17), "z", (0,))), "does not fit"),
    ],
)
def test_mistakes_are_named(mistake: Any, message: str) -> None:
    with pytest.raises(SteeringError, match=message):
        mistake(tiny_model("llama"))
