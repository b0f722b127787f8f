"""Generation does what was asked: no setting of the model's folder leaks in, edits arrive, and values are finite."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig, StaticCache

from tests.tiny import FAMILIES, tiny_model
from workbench.models import HookedModel, ModelError, load_model
from workbench.records import Site

SETTINGS: dict[str, dict[str, Any]] = {
    "repetition penalty": {"repetition_penalty": 1.8},
    "suppressed tokens": {"suppress_tokens": list(range(4, 12))},
    "static cache": {"cache_implementation": "static"},
    "forced first token": {"forced_bos_token_id": 7},
    "forced end": {"forced_eos_token_id": 7},
    "no repeated pairs": {"no_repeat_ngram_size": 2},
    "minimal length": {"min_new_tokens": 30},
    "beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "temperature": 3.0, "top_k": 3},
    "penalty of the encoder": {"encoder_repetition_penalty": 3.0},
    "bad words": {"bad_words_ids": [[index] for index in range(4, 12)]},
    "begin suppressed": {"begin_suppress_tokens": list(range(4, 12))},
    "several sequences": {"num_return_sequences": 2, "num_beams": 2},
    "typical sampling": {"typical_p": 0.2, "do_sample": True},
    "guidance": {"guidance_scale": 3.0},
}


def _greedy(model: HookedModel, n: int = 12) -> list[list[int]]:
    """Greedy decoding written out: one full pass per token."""
    rows = model.tokenize(["the court shall", "it was"], side="left").ids.tolist()
    rows = [[token for token in row if token != 0] for row in rows]
    result = []
    for row in rows:
        ids = list(row)
        for _ in range(n):
            ids.append(int(model.logits(model.pad([ids]))[0, -1].argmax()))
        result.append(ids[len(row) :])
    return result


@pytest.mark.parametrize("kind", SETTINGS)
def test_no_setting_of_the_models_folder_changes_greedy_text(kind: str) -> None:
    model = tiny_model("llama")
    expected = _greedy(model)
    own = GenerationConfig.from_dict(model.hf_model.generation_config.to_dict() | SETTINGS[kind])
    model.hf_model.generation_config = own
    tokens = model.tokenize(["the court shall", "it was"], side="left")
    assert model.generate(tokens, max_new_tokens=12) == expected
    assert model.hf_model.generation_config is own


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edit_reaches_every_generated_token_whatever_cache_the_model_prefers(family: str) -> None:
    model = tiny_model(family)
    tokens = model.tokenize(["the court shall", "it was"], side="left")
    model.hf_model.generation_config.cache_implementation = "static"
    seen: list[tuple[int, ...]] = []
    with model.hooked({Site("resid_post", 0): lambda values, site, call: seen.append(tuple(call.positions.shape))}):
        model.generate(tokens, max_new_tokens=4)
    assert seen == [(2, 4), (2, 1), (2, 1), (2, 1)]


def test_a_static_cache_of_the_callers_own_is_refused() -> None:
    model = tiny_model("llama")
    tokens = model.tokenize(["the court shall"], side="left")
    cache = StaticCache(config=model.hf_model.config, max_cache_len=16)
    with (
        model.hooked({Site("resid_post", 0): lambda values, *_: values + 1.0}, editing=True),
        pytest.raises(ModelError, match="static cache"),
    ):
        model.hf_model.generate(tokens.ids, past_key_values=cache, max_new_tokens=3, do_sample=False)


def test_the_end_marker_of_the_folder_is_the_one_setting_that_is_kept() -> None:
    model = tiny_model("llama")
    tokens = model.tokenize(["the court shall"], side="left")
    first = model.generate(tokens, max_new_tokens=12)[0]
    model.hf_model.generation_config.eos_token_id = [first[3], 2]
    assert model.generate(tokens, max_new_tokens=12)[0] == first[: first.index(first[3])]


def _overflowing(folder: Path, layer: int) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights[f"model.layers.{layer}.mlp.down_proj.weight"] *= 1e6
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_overflow_in_half_precision_is_refused_at_load_with_its_layer(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "large"))
    _overflowing(folder, 1)
    assert load_model(str(folder)).n_layers == 2
    with pytest.raises(ModelError, match=r"NaN or infinite in float16 .*; load it with --dtype bfloat16") as caught:
        load_model(str(folder), dtype="float16")
    assert "layer 1" in str(caught.value) or "logits" in str(caught.value)


def test_an_edit_that_breaks_the_numbers_raises_and_names_the_layer() -> None:
    model = tiny_model("llama")
    tokens = model.tokenize(["the court shall"], side="left")
    with model.hooked({Site("resid_post", 1): lambda values, *_: values * float("nan")}, editing=True):
        for run in (lambda: model.generate(tokens, max_new_tokens=3), lambda: model.logits(tokens)):
            with pytest.raises(ModelError, match="NaN or infinite in float32 from layer 1 on"):
                run()


def test_settings_in_a_folder_are_read_from_it(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "penalty"))
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"repetition_penalty": 1.9, "eos_token_id": None}))
    plain, other = load_model(str(tiny_model_folder)), load_model(str(folder))
    plain.hf_model.generation_config.eos_token_id = other.hf_model.generation_config.eos_token_id
    tokens = plain.tokenize(["the court"], side="left")
    assert other.generate(tokens, max_new_tokens=16) == plain.generate(tokens, max_new_tokens=16)
    assert other.hf_model.generation_config.repetition_penalty == 1.9
