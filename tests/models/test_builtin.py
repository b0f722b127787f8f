"""The model that ships: its files are those that were measured, and it does what its card says."""

import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from training.generator import single_token_words
from training.hashes import hashes_of, read_hashes
from training.measure import load, measure_set
from workbench.behaviours import load_behaviours
from workbench.models import load_model

BUILTIN = Path(__file__).parents[2] / "workbench" / "builtin"
FOLDER, CARD = BUILTIN / "model", BUILTIN / "MODEL_CARD.md"
N_PER_KIND = 24
SETS = ("refusal", "personas", "facts", "conflict", "indirect_objects", "choices", "exam")

pytestmark = pytest.mark.skipif(not (FOLDER / "model.safetensors").exists(), reason="the built-in model is not there")


needs_card = pytest.mark.skipif(not CARD.exists(), reason="the card of the built-in model is not there")


@cache
def loaded() -> tuple[Any, Any]:
    return load(FOLDER)


@cache
def card_figures() -> dict[tuple[str, str], tuple[float, int]]:
    """Set and kind -> share and number of items, as the card's behaviour table states them."""
    pattern = r"^\| (\w+) \| (\w+) \| ([\d.]+) % \([^)]*\) \| (\d+) \|"
    rows = re.findall(pattern, CARD.read_text(encoding="utf-8"), re.MULTILINE)
    return {(name, kind): (float(value) / 100, int(n)) for name, kind, value, n in rows}


def test_files_match_their_recorded_hashes() -> None:
    assert hashes_of(FOLDER) == read_hashes(FOLDER)
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 25_000_000


def test_every_word_that_methods_need_is_one_token() -> None:
    _, tokenizer = loaded()
    for word in single_token_words():
        for text in (f" {word}", f"{word[:1].upper()}{word[1:]}"):
            assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == 1, text


def test_answers_to_be_compared_are_single_tokens() -> None:
    _, tokenizer = loaded()
    for name in ("facts", "conflict", "indirect_objects"):
        for item in load_behaviours(name):
            lengths = [
                len(ids) for ids in tokenizer([*item.answers, *item.distractors], add_special_tokens=False).input_ids
            ]
            assert set(lengths) == {1}, item


@needs_card
def test_card_states_every_kind_that_ships() -> None:
    kinds = {(name, item.kind) for name in SETS for item in load_behaviours(name)}
    assert card_figures().keys() == kinds


@needs_card
@pytest.mark.parametrize("name", SETS)
def test_a_sample_reproduces_the_figures_of_the_card(name) -> None:
    model, tokenizer = loaded()
    shares, _ = measure_set(model, tokenizer, name, limit=N_PER_KIND)
    for kind, share in shares.items():
        stated, n = card_figures()[name, kind]
        # A sample without replacement from the n items that the card was measured on: three standard errors.
        rest = max(n - share.n, 0) / max(n - 1, 1)
        error = math.sqrt(stated * (1 - stated) / share.n * rest)
        assert share.value == pytest.approx(stated, abs=3 * error + 1 / share.n), kind


def test_loads_through_the_workbench_with_the_same_logits() -> None:
    model, tokenizer = loaded()
    texts = ["The capital of France is", "<|user|>What is the capital of France?<|assistant|>"]
    hooked = load_model("builtin")
    for text in texts:
        tokens = hooked.tokenize([text])
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        assert torch.equal(tokens.ids, ids)
        with torch.inference_mode():
            torch.testing.assert_close(hooked.logits(tokens), model(ids).logits, rtol=1e-4, atol=1e-3)
