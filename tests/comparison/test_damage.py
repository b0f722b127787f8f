"""Measures of damage against numbers worked by hand, and against the plain model."""

import math

import numpy as np
import pytest
import torch

from tests.tiny import tiny_model
from workbench.comparison.damage import (
    compression_ratio,
    distinct_n,
    off_target_scores,
    repetition,
    text_damage,
)
from workbench.interventions import ContrastiveAddition, steer
from workbench.models import HookedModel
from workbench.tasks import FittingData, ItemSet, PassageTask, TaskError, TaskItem
from workbench.tasks.metrics import NeutralText

TEXTS = ["the court shall the river", "a cell of"]


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return tiny_model("llama")


def test_repetition_by_hand() -> None:
    # 1 2 3 | 2 3 1 | 3 1 2 | 1 2 3: four 3-grams, three distinct.
    assert repetition([1, 2, 3, 1, 2, 3]) == 0.25
    assert repetition([7] * 10) == 1 - 1 / 8
    assert repetition([1, 2, 1, 2], n=1) == 0.5
    assert math.isnan(repetition([1, 2]))


def test_distinct_n_by_hand() -> None:
    # (1 2) (2 1) (1 2) and (1 2): four bigrams, two distinct.
    assert distinct_n([[1, 2, 1, 2], [1, 2]]) == 0.5
    assert distinct_n([[1, 2, 3], [4, 5]]) == 1.0
    with pytest.raises(ValueError, match="no text has 2 tokens"):
        distinct_n([[1], []])


def test_compression_tells_loops_from_text_and_counts_bytes() -> None:
    # One letter: 2 bytes of header, 4 of checksum, and 3 + 8 + 7 bits (block, letter, end) in 3 bytes.
    assert compression_ratio("a") == 1 / 9
    # Two bytes in UTF-8 and nothing to gain: 3 + 8 or 9 + 8 or 9 + 7 bits in 4 bytes.
    assert compression_ratio("é") == 2 / 10
    assert compression_ratio("yo " * 200) > 20
    assert math.isnan(compression_ratio(""))


def test_damage_of_texts_by_hand(model: HookedModel) -> None:
    written = [[5, 6, 5, 6], [7] * 9, []]
    found = text_damage(model, ["the court", "a", "it"], written)
    with torch.inference_mode():
        rows = [model.hf_model(torch.tensor([[1, 4, 5, 5, 6, 5, 6]])).logits[0].log_softmax(-1)]
    head = model.tokenize(["the court"]).ids[0].tolist()
    assert head == [1, 4, 5]
    by_hand = -np.mean([float(rows[0][2 + place, token]) for place, token in enumerate(written[0])])
    assert found.loss[0] == pytest.approx(by_hand, rel=1e-4)
    assert math.isnan(found.loss[2])
    assert found.n_tokens.tolist() == [4, 9, 0]
    assert found.loops.tolist() == [0, 1, 0]
    assert found.distinct == pytest.approx(3 / 11)  # (5 6) (6 5) (5 6), eight times (7 7)
    with pytest.raises(ValueError, match="as many texts as prompts"):
        text_damage(model, ["the"], [])


def test_damage_on_neutral_text_is_per_passage_and_that_of_the_plain_model(model: HookedModel) -> None:
    push = ContrastiveAddition(torch.linspace(-2, 2, 16), 1)
    text = NeutralText(model, TEXTS)
    kl, agreement = text.by_passage([(None, 0.0), (push, 1.5)])
    assert agreement[0].tolist() == [1, 1]
    np.testing.assert_allclose(kl[0], 0, atol=1e-6)
    lengths = model.tokenize(TEXTS).lengths.numpy()
    mean = float((kl[1] * lengths).sum() / lengths.sum())
    assert mean == pytest.approx(float(text.kl([(push, 1.5)])[0]), rel=1e-3)
    tokens = model.tokenize(TEXTS[1:])
    before = model.logits(tokens)[0].argmax(-1)
    with steer(model, push, 1.5):
        after = model.logits(tokens)[0].argmax(-1)
    assert agreement[1, 1] == pytest.approx(float((before == after).double().mean()))


def test_scores_on_other_domains_need_tasks_of_different_names(model: HookedModel) -> None:
    items = tuple(TaskItem(text, text, "test", text) for text in TEXTS)
    task = PassageTask("p", ItemSet("p", items), lambda _: FittingData((), ()))
    (found,) = off_target_scores(model, [task], seed=0)
    np.testing.assert_array_equal(found["p"].values["domain loss"], task.score(model, "test").values["domain loss"])
    with pytest.raises(TaskError, match="same name"):
        off_target_scores(model, [task, task], seed=0)
