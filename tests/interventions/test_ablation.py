"""Directional ablation: nothing of the direction is left; the selection rule; the direction added."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.interventions.plain import blocks_of, plain_ids, plain_model, random_texts
from tests.tiny import FAMILIES, VOCABULARY, tiny_model
from workbench.activations import capture
from workbench.interventions import (
    CandidateScore,
    ContrastiveAddition,
    DirectionalAblation,
    SteeringError,
    candidate_directions,
    refusal_scores,
    score_candidates,
    select_direction,
    steer,
)
from workbench.records import Site

DIRECTION = torch.randn(16, generator=torch.Generator().manual_seed(5))
TEXTS = ["the court shall sum the cell .", "it was a river", "x is y and the court's sum is a river of the cell ."]
REFUSAL = (VOCABULARY["shall"], VOCABULARY["is"])


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_of_the_direction_is_left_at_any_block(family: str) -> None:
    model = tiny_model(family)
    unit = DIRECTION / DIRECTION.norm()
    tokens = model.tokenize(TEXTS)
    sites = [Site(kind, layer) for layer in range(3) for kind in ("resid_pre", "resid_post")]

    def share() -> torch.Tensor:
        values = capture(model, tokens, sites)[:, tokens.mask]
        return (values @ unit).abs() / values.norm(dim=-1)

    assert share().amax(dim=1).min() > 0.1
    with steer(model, DirectionalAblation(DIRECTION, 3), 1.0, "all"):
        assert share().max() < 1e-3


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_ablation_equals_weights_that_cannot_write_the_direction(family: str) -> None:
    model, plain = tiny_model(family, scale=2.0), plain_model(family, scale=2.0)
    unit = DIRECTION / DIRECTION.norm()

    def cut(weight: torch.Tensor) -> None:  # [..., d_model]
        weight -= (weight @ unit)[..., None] * unit

    base = plain.base_model
    for embedding in (base.wte, base.wpe) if family == "gpt2" else (base.embed_tokens,):
        if embedding.weight is plain.lm_head.weight:  # tied: the output embedding must stay as it is
            plain.lm_head.weight = torch.nn.Parameter(plain.lm_head.weight.clone(), requires_grad=False)
        cut(embedding.weight)
    for block in blocks_of(plain):
        if family == "gpt2":
            for module in (block.attn.c_proj, block.mlp.c_proj):
                cut(module.weight)
                cut(module.bias)
        else:
            for module in (block.self_attn.o_proj, block.mlp.down_proj):
                cut(module.weight.T)
    ids = plain_ids(TEXTS[0])
    with steer(model, DirectionalAblation(3.0 * DIRECTION, 3), 1.0, "all"):
        steered = model.logits(model.tokenize(TEXTS[:1]))
    assert (steered - model.logits(model.tokenize(TEXTS[:1]))).abs().max() > 1e-2
    torch.testing.assert_close(steered, plain(ids).logits, atol=1e-4, rtol=1e-4)


def test_fitted_direction_is_the_difference_in_means_at_the_chosen_token() -> None:
    model = tiny_model("llama")
    positive, negative = random_texts(5, seed=1), random_texts(4, seed=2)

    def mean(texts: list[str]) -> torch.Tensor:
        return torch.stack([capture(model, model.tokenize([t]), [Site("resid_pre", 2)])[0, 0, -2] for t in texts]).mean(
            0
        )

    expected = mean(positive) - mean(negative)
    candidates = candidate_directions(model, positive, negative, n_positions=2)
    torch.testing.assert_close(candidates[2, 0].float(), expected, atol=1e-4, rtol=1e-4)
    last = candidates[2, 1].float()
    found = DirectionalAblation.fit(model, positive, negative, layer=2).direction
    torch.testing.assert_close(found, last / last.norm(), atol=1e-5, rtol=1e-4)


def test_added_direction_moves_its_block_input_and_no_earlier_one() -> None:
    model, tokens = tiny_model("llama"), tiny_model("llama").tokenize(TEXTS[:1])
    sites = [Site("resid_pre", layer) for layer in range(3)]
    before = capture(model, tokens, sites)
    with steer(model, ContrastiveAddition(DIRECTION, 1, "resid_pre"), -1.0, "all"):
        change = capture(model, tokens, sites) - before
    assert not change[0].any()
    torch.testing.assert_close(change[1, 0], -DIRECTION.expand(tokens.ids.shape[1], -1), atol=1e-5, rtol=1e-4)


# --- which direction --------------------------------------------------------------------------------------------------


def test_refusal_score_is_the_log_odds_of_the_refusal_tokens() -> None:
    probabilities = plain_model("llama")(plain_ids(TEXTS[1])).logits[0, -1].double().softmax(-1)
    refusal = float(probabilities[list(REFUSAL)].sum())
    found = refusal_scores(tiny_model("llama"), TEXTS, REFUSAL)
    assert found[1] == pytest.approx(np.log(refusal / (1 - refusal)), abs=1e-3)


def test_candidates_are_scored_by_what_they_do() -> None:
    model = tiny_model("llama")
    harmful, harmless = random_texts(4, seed=3), random_texts(3, seed=4)
    candidates = candidate_directions(model, harmful, harmless, n_positions=2)
    scores = score_candidates(model, candidates, harmful, harmless, refusal_tokens=REFUSAL)
    assert [(score.layer, score.position) for score in scores] == [(i, p) for i in range(3) for p in (-2, -1)]
    chosen = scores[3]
    direction = candidates[1, 1].float()
    log_p = [model.logits(model.tokenize([text]))[0, -1].double().log_softmax(-1) for text in harmless]
    with steer(model, DirectionalAblation(direction, 3), 1.0, "all"):
        assert chosen.refusal_ablated == pytest.approx(refusal_scores(model, harmful, REFUSAL).mean(), abs=1e-3)
        log_q = [model.logits(model.tokenize([text]))[0, -1].double().log_softmax(-1) for text in harmless]
    with steer(model, ContrastiveAddition(direction, 1, "resid_pre"), 1.0, "all"):
        assert chosen.refusal_added == pytest.approx(refusal_scores(model, harmless, REFUSAL).mean(), abs=1e-3)
    kl = [torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum") for p, q in zip(log_p, log_q, strict=True)]
    assert chosen.kl == pytest.approx(float(torch.stack(kl).mean()), abs=1e-3)
    assert chosen.kl > 1e-2


def test_a_token_that_all_texts_share_gives_no_candidate_at_the_first_layer() -> None:
    """As behind a chat template: the last token is always the same, so its embedding does not differ."""
    model = tiny_model("llama")
    harmful, harmless = ["the court .", "a cell ."], ["it was .", "x is ."]
    candidates = candidate_directions(model, harmful, harmless)
    assert not candidates[0].any()
    scores = score_candidates(model, candidates, harmful, harmless, refusal_tokens=REFUSAL)
    assert [score.layer for score in scores] == [1, 2]


def test_selection_rule_by_hand() -> None:
    scores = (
        CandidateScore(layer=8, position=-1, refusal_ablated=-9.0, refusal_added=1.0, kl=0.01),  # too late
        CandidateScore(layer=3, position=-1, refusal_ablated=-8.0, refusal_added=1.0, kl=0.10),  # changes too much
        CandidateScore(layer=4, position=-2, refusal_ablated=-7.0, refusal_added=0.0, kl=0.01),  # does not induce
        CandidateScore(layer=7, position=-1, refusal_ablated=-5.0, refusal_added=0.1, kl=0.09),
        CandidateScore(layer=2, position=-1, refusal_ablated=-4.0, refusal_added=2.0, kl=0.00),
    )
    assert select_direction(scores, n_layers=10) == scores[3]
    with pytest.raises(SteeringError, match=r"none of 3 .*1 fail layer < 0.8 \* 10; 1 fail KL < 0.1; 1 fail refusal"):
        select_direction(scores[:3], n_layers=10)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda model: DirectionalAblation(torch.zeros(16), 3), "is zero"),
        (lambda model: DirectionalAblation(torch.full((16,), torch.inf), 3), "NaN or infinite"),
        (lambda model: DirectionalAblation.fit(model, ["it"], [], layer=1), "no texts"),
        (lambda model: candidate_directions(model, ["it"], ["x"], n_positions=3), "has 2 tokens, fewer"),
        (lambda model: candidate_directions(model, ["it"], ["x"], n_positions=0), "at least 1"),
        (lambda model: refusal_scores(model, ["it"], []), "refusal_tokens"),
        (lambda model: refusal_scores(model, ["it"], [-1]), "refusal_tokens"),
        (lambda model: steer(model, DirectionalAblation(torch.ones(17), 3)), "does not fit"),
    ],
)
def test_mistakes_are_named(mistake: Any, message: str) -> None:
    with pytest.raises(SteeringError, match=message):
        mistake(tiny_model("llama"))
