"""Losses, KL and repetition against hand-worked numbers and the Hugging Face model's own loss."""

import math

import numpy as np
import pytest
import torch

from tests.tiny import FAMILIES, tiny_model
from workbench.comparison import (
    NeutralText,
    StackedSteering,
    generate_stacked,
    is_repetitive,
    passage_losses,
    passage_tokens,
    token_kl,
)
from workbench.interventions import ContrastiveAddition, CriticalDimensionSteering, Steering, steer
from workbench.models import batches
from workbench.records import Site
from workbench.tasks import metrics

TEXTS = [
    "the court shall sum the cell .",
    "it was a river",
    "x is y and the court's sum is a river of the cell .",
    "a court",
    "the river was x and y",
]


def direction(seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(16, generator=torch.Generator().manual_seed(seed))


def steerings() -> list[Steering]:
    return [
        ContrastiveAddition(direction(0), 1),
        CriticalDimensionSteering(direction(1)[None], (0,), (2, 5)),
        CriticalDimensionSteering(torch.stack([direction(2), direction(3)]), (1, 2), (0, 1, 9)),
    ]


def test_kl_of_two_known_distributions() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]])
    q = torch.tensor([[0.25, 0.25, 0.5], [0.5, 0.25, 0.25]])
    # 0.5 ln 2 + 0 - 0.25 ln 2;   (ln(2/3) + 2 ln(4/3)) / 3;   logits may be shifted freely
    expected = torch.tensor([0.25 * math.log(2), (math.log(2 / 3) + 2 * math.log(4 / 3)) / 3])
    torch.testing.assert_close(token_kl(p.log(), q.log() + 7.0), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_those_of_the_hugging_face_model(family: str) -> None:
    model = tiny_model(family)
    tokens = passage_tokens(model, TEXTS, n_tokens=6)
    assert tokens.ids.shape == (5, 7)
    ours = passage_losses(model, tokens, [(None, 0.0)])
    for row, (ids, mask) in enumerate(zip(tokens.ids, tokens.mask, strict=True)):
        labels = ids.masked_fill(~mask, -100)[None]
        with torch.no_grad():
            loss = model.hf_model(input_ids=ids[None], attention_mask=mask.long()[None], labels=labels).loss
        assert ours[0, row] == pytest.approx(float(loss), rel=1e-5)


def test_models_without_bos_are_scored_from_their_second_token() -> None:
    model = tiny_model("qwen3", bos=False)
    tokens = passage_tokens(model, ["the court shall", "a river"], n_tokens=32)
    with torch.no_grad():
        losses = model.hf_model(input_ids=tokens.ids[1:, :2], labels=tokens.ids[1:, :2]).loss
    assert tokens.lengths.tolist() == [3, 2]
    assert passage_losses(model, tokens, [(None, 0.0)])[0, 1] == pytest.approx(float(losses), rel=1e-5)
    with pytest.raises(ValueError, match="one token"):
        passage_losses(model, passage_tokens(model, ["the", "a river"], n_tokens=4), [(None, 0.0)])


@pytest.mark.parametrize("family", FAMILIES)
def test_stacked_steerings_act_each_on_its_own_rows(family: str) -> None:
    model = tiny_model(family)
    tokens = passage_tokens(model, TEXTS, n_tokens=20)
    parts = [(steering, strength) for steering, strength in zip(steerings(), (0.5, 3.0, -1.0), strict=True)]
    stacked = passage_losses(model, tokens, [*parts, (None, 0.0)])
    for row, (steering, strength) in enumerate(parts):
        with steer(model, steering, strength):
            alone = passage_losses(model, tokens, [(None, 0.0)])
        np.testing.assert_allclose(stacked[row], alone[0], rtol=1e-4)
        assert np.abs(stacked[row] - stacked[-1]).max() > 1e-3
    np.testing.assert_allclose(stacked[-1], passage_losses(model, tokens, [(None, 0.0)])[0], rtol=1e-5)


def test_delta_of_a_stack_is_zero_where_a_part_has_no_say() -> None:
    first, second, _ = steerings()
    stack = StackedSteering(((first, 2.0), (None, 5.0), (second, -1.0)), 2)
    x, positions = torch.zeros(6, 3, 16), torch.arange(3).expand(6, 3)
    delta = stack.delta(x, Site("resid_post", 1), positions)
    torch.testing.assert_close(delta[:2], 2 * direction(0).expand(2, 3, 16))
    assert not delta[2:].any()
    delta = stack.delta(x, Site("resid_post", 0), positions)
    assert not delta[:4].any()
    assert set(delta[4:].abs().sum((0, 1)).nonzero().flatten().tolist()) == {2, 5}
    assert stack.sites == (Site("resid_post", 0), Site("resid_post", 1))


@pytest.mark.parametrize("family", FAMILIES)
def test_kl_is_zero_without_an_edit_and_positive_with_one(family: str) -> None:
    model = tiny_model(family)
    neutral = NeutralText(model, TEXTS, n_tokens=12)
    parts = [(steering, 0.0) for steering in steerings()]
    np.testing.assert_allclose(neutral.kl([*parts, (None, 1.0)]), 0.0, atol=1e-6)
    weak, strong = neutral.kl([(steerings()[0], 0.1), (steerings()[0], 1.0)])
    assert 1e-5 < weak < strong


def test_kl_is_the_mean_over_all_real_tokens() -> None:
    model = tiny_model()
    steering = steerings()[0]
    divergences = []
    for text in TEXTS:
        tokens = passage_tokens(model, [text], n_tokens=7)
        before = model.logits(tokens)[0]
        with steer(model, steering, 0.7):
            after = model.logits(tokens)[0]
        log_p, log_q = before.double().log_softmax(1), after.double().log_softmax(1)
        divergences += torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1).tolist()
    measured = NeutralText(model, TEXTS, n_tokens=7).kl([(steering, 0.7)])
    assert measured[0] == pytest.approx(np.mean(divergences), rel=1e-4)


def test_small_memory_gives_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    parts = [(steering, 0.8) for steering in steerings()]
    tokens = passage_tokens(model, TEXTS, n_tokens=10)
    losses, kl = passage_losses(model, tokens, parts), NeutralText(model, TEXTS, n_tokens=10).kl(parts)
    row = 4 * tokens.ids.shape[1] * model.vocabulary_size
    for rows in (1, 2, 11):
        monkeypatch.setattr(batches, "LOGITS_BYTES", rows * row)
        monkeypatch.setattr(metrics, "REFERENCE_BYTES", 0)
        sizes = [logits.numel() * 4 for *_, logits in metrics.stacked_logits(model, tokens, parts, "all")]
        assert max(sizes) <= rows * row
        np.testing.assert_allclose(passage_losses(model, tokens, parts), losses, rtol=1e-5)
        np.testing.assert_allclose(NeutralText(model, TEXTS, n_tokens=10).kl(parts), kl, rtol=1e-4)


def test_stacked_generation_is_that_of_each_steering_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    prompts = model.tokenize(["the court", "a river was"], side="left")
    parts = [(None, 0.0), *((steering, 2.0) for steering in steerings())]
    monkeypatch.setattr(metrics, "GENERATION_ROWS", 5)
    options = {"max_new_tokens": 6, "seed": 0, "temperature": 0.0}
    stacked = generate_stacked(model, prompts, parts, **options)
    alone = [model.generate(prompts, max_new_tokens=6)]
    for steering, strength in parts[1:]:
        with steer(model, steering, strength):
            alone.append(model.generate(prompts, max_new_tokens=6))
    assert stacked == alone
    assert len({str(rows) for rows in stacked}) > 2


def test_repetition() -> None:
    assert is_repetitive([4, 5] * 6)  # 2 distinct of 10 3-grams
    assert is_repetitive([1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 9, 9, 9, 9, 9, 9, 9, 9])  # 8 in a row
    assert not is_repetitive([1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 9, 9, 9, 9, 9, 9, 9])  # 7 in a row
    assert not is_repetitive([1, 2, 3, 1, 2, 3])  # 3 of 4, and the 4th repeats the first
    assert not is_repetitive([1, 2, 3, 4, 1, 2, 3, 4])  # 4 of 6
    assert not is_repetitive(range(24))
    assert not is_repetitive([])
    assert not is_repetitive([3, 3])


def test_errors_say_what_to_pass() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match="neutral_prompts"):
        NeutralText(model, [])
    with pytest.raises(ValueError, match="n_tokens"):
        passage_tokens(model, TEXTS, n_tokens=0)
