"""Models in memory, bridges, adapters, quantised weights, and other ways to compute attention."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import AutoModelForCausalLM

from tests.tiny import FAMILIES, tiny_config, tiny_model, tiny_tokenizer
from workbench.activations import capture, collect
from workbench.interventions import CriticalDimensionSteering, steer
from workbench.models import HookedModel, ModelError, load_model, wrap
from workbench.records import Prompt, Site

TEXTS = ["the court shall sum the cell", "it was a river"]


def _plain(family: str = "llama", attention: str | None = None) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = {} if attention is None else {"attn_implementation": attention}
        return AutoModelForCausalLM.from_config(tiny_config(family), **options).eval()


def _edited_logits(model: HookedModel) -> torch.Tensor:
    """Logits under a change of one dimension of the residual stream, the same for every model of a width."""
    with model.hooked({Site("resid_post", 1): _add}, editing=True):
        return model.logits(model.tokenize(TEXTS))


def _add(values: torch.Tensor, *_: Any) -> torch.Tensor:
    change = torch.zeros_like(values)
    change[..., 3] = 0.5
    return values + change


def _torch_edited_logits(model: Any, layers: Any, tokens: Any) -> torch.Tensor:
    """The same change by a plain PyTorch hook on an unwrapped model."""

    def hook(module: Any, arguments: Any, output: Any) -> Any:
        return (_add(output[0]), *output[1:]) if isinstance(output, tuple) else _add(output)

    handle = layers[1].register_forward_hook(hook)
    with torch.inference_mode():
        logits = model(tokens.ids, attention_mask=tokens.mask.long(), use_cache=False).logits
    handle.remove()
    return logits


# --- in memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_unwrapping_gives_the_model_back_so_that_it_can_be_saved(family: str, tmp_path: Path) -> None:
    plain = _plain(family)
    names, weights = [name for name, _ in plain.named_modules()], copy.deepcopy(plain.state_dict())
    model = wrap(plain, tiny_tokenizer(), name="mine")
    tokens = model.tokenize(TEXTS)
    logits = model.logits(tokens)
    assert [name for name, _ in plain.named_modules()] != names
    given = model.unwrap()
    assert given is plain
    assert [name for name, _ in plain.named_modules()] == names
    assert plain.state_dict().keys() == weights.keys()
    with torch.inference_mode():
        real = tokens.mask
        torch.testing.assert_close(plain(tokens.ids, attention_mask=real.long()).logits[real], logits[real])
    plain.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert torch.equal(load_model(str(tmp_path)).logits(tokens), logits)
    assert wrap(plain, tiny_tokenizer(), name="again").logits(tokens).equal(logits)


def test_a_bridge_of_transformerlens_is_taken_as_it_is() -> None:
    plain = _plain()
    bridge = build_bridge_from_module(plain, "LlamaForCausalLM", hf_config=plain.config, model_name="lens")
    model = wrap(bridge, tiny_tokenizer())
    reference = wrap(_plain(), tiny_tokenizer())
    torch.testing.assert_close(_edited_logits(model), _edited_logits(reference), atol=1e-5, rtol=1e-4)
    assert model.name == "lens"
    with pytest.raises(ModelError, match="somebody else"):
        model.unwrap()
    with pytest.raises(ModelError, match="without a tokenizer"):
        wrap(bridge)
    with pytest.raises(ModelError, match="is wrapped already"):
        wrap(bridge.original_model, tiny_tokenizer())
    bridge.enable_compatibility_mode(no_processing=True)
    with pytest.raises(ModelError, match="compatibility mode"):
        wrap(bridge, tiny_tokenizer())


# --- adapters ---------------------------------------------------------------------------------------------------------


def _adapted(folder: Path, family: str = "llama") -> Any:
    """A model with a LoRA adapter whose weights are not zero, saved: base and adapter in two folders."""
    base = _plain(family)
    base.save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj", "down_proj"]))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.5)
    adapted.save_pretrained(folder / "adapter")
    return adapted.eval()


def test_an_adapter_by_path_merged_or_in_memory_attached_gives_its_own_logits(tmp_path: Path) -> None:
    adapted = _adapted(tmp_path)
    tokens = tiny_model("llama").tokenize(TEXTS)
    expected = _torch_edited_logits(adapted, adapted.get_base_model().model.layers, tokens)
    base, adapter = str(tmp_path / "base"), str(tmp_path / "adapter")
    merged = load_model(base, adapter=adapter)
    real = tokens.mask
    torch.testing.assert_close(_edited_logits(merged)[real], expected[real], atol=1e-4, rtol=1e-3)
    assert not torch.allclose(_edited_logits(load_model(base))[real], expected[real], atol=1e-2)
    assert merged.name == "base + adapter"
    assert merged.fingerprint != load_model(base).fingerprint
    attached = wrap(adapted, tiny_tokenizer(), name="attached")
    torch.testing.assert_close(_edited_logits(attached)[real], expected[real], atol=1e-4, rtol=1e-3)


def test_an_adapter_names_its_base_and_is_refused_where_its_weights_do_not_land(tmp_path: Path) -> None:
    _adapted(tmp_path)
    adapter = tmp_path / "adapter"
    config = adapter / "adapter_config.json"
    text = config.read_text().replace('"base_model_name_or_path": ""', '"base_model_name_or_path": null')
    config.write_text(text.replace('"base_model_name_or_path": null', f'"base_model_name_or_path": "{tmp_path}/base"'))
    assert load_model(str(adapter)).name == "base + adapter"
    weights = load_file(adapter / "adapter_model.safetensors")
    other = {key.replace("layers.2", "layers.7"): value for key, value in weights.items()}
    save_file(other, adapter / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"does not fit this model: \d+ of its weights have no place"):
        load_model(str(adapter))
    save_file({key: value[:, :3].contiguous() for key, value in weights.items()}, adapter / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="does not fit this model"):
        load_model(str(adapter))
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="save the adapter as safetensors"):
        load_model(str(adapter))
    assert isinstance(_adapted(tmp_path / "more"), PeftModel)


# --- quantised --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_quantised_weights_stay_near_the_full_ones_and_can_be_steered(kind: str, tmp_path: Path) -> None:
    config = tiny_config("llama")
    config.update({"hidden_size": 64, "intermediate_size": 128, "head_dim": 32})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    full, small = load_model(str(tmp_path)), load_model(str(tmp_path), quantise=kind)
    tokens = full.tokenize(TEXTS)
    assert any("bitsandbytes" in type(module).__module__ for module in small.hf_model.modules())
    plain, edited = small.logits(tokens), _edited_logits_of(small, tokens)
    correlation = torch.corrcoef(torch.stack([full.logits(tokens).flatten(), plain.float().flatten()]))[0, 1]
    assert correlation > 0.8
    assert not torch.allclose(plain, edited)
    steering = CriticalDimensionSteering(layers=(1,), dimensions=(3,), direction=torch.ones(1, 64))
    with steer(small, steering, 0.0):
        assert torch.equal(small.logits(tokens), plain)
    assert torch.equal(small.logits(tokens), plain)


def _edited_logits_of(model: HookedModel, tokens: Any) -> torch.Tensor:
    with model.hooked({Site("resid_post", 1): _add}, editing=True):
        return model.logits(tokens)


def test_quantisation_that_is_not_known_or_not_installed_is_refused(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="unknown quantisation 'int3'"):
        load_model(str(tiny_model_folder), quantise="int3")
    monkeypatch.setattr("workbench.models.adapters.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install bitsandbytes"):
        load_model(str(tiny_model_folder), quantise="nf4")


# --- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_are_the_same_whatever_computes_attention(family: str) -> None:
    if family == "gemma2":
        pytest.skip("Hugging Face has no SDPA for Gemma 2: its scores are capped")
    prompts = [Prompt(f"p{n}", text, "law", "identify") for n, text in enumerate([*TEXTS, "the sum of a cell is it"])]
    fast, slow = (wrap(_plain(family, kind), tiny_tokenizer()) for kind in ("sdpa", "eager"))
    assert (fast.attention, slow.attention) == ("sdpa", "eager")
    (first, rows), (second, other) = (collect(model, prompts, batch_size=2) for model in (fast, slow))
    for field in ("mean", "m2", "mean_magnitude", "max_magnitude", "first_mean_magnitude"):
        torch.testing.assert_close(
            torch.as_tensor(getattr(first, field)), torch.as_tensor(getattr(second, field)), atol=1e-5, rtol=1e-5
        )
    torch.testing.assert_close(
        torch.as_tensor(rows.values), torch.as_tensor(other.values), atol=1e-5, rtol=1e-5, equal_nan=True
    )
    for kind in ("z", "attn_out", "attn_raw", "mlp_out"):
        sites = [Site(kind, layer) for layer in range(3)]
        tokens = fast.tokenize(TEXTS)
        torch.testing.assert_close(
            capture(fast, tokens, sites)[:, tokens.mask],
            capture(slow, tokens, sites)[:, tokens.mask],
            atol=1e-5,
            rtol=1e-4,
        )


def test_patterns_are_seen_by_eager_attention_only() -> None:
    fast, slow = wrap(_plain(attention="sdpa"), tiny_tokenizer()), wrap(_plain(attention="eager"), tiny_tokenizer())
    tokens = slow.tokenize(TEXTS)
    _, cache = slow.run_with_cache(tokens, names_filter="blocks.1.attn.hook_pattern")
    assert cache["blocks.1.attn.hook_pattern"].shape[1] == slow.n_heads
    with pytest.raises(ModelError, match="attention='eager'"):
        fast.run_with_cache(tokens, names_filter="blocks.1.attn.hook_pattern")


def test_unknown_attention_is_refused_in_one_line(tiny_model_folder: Path) -> None:
    assert load_model(str(tiny_model_folder)).attention == "sdpa"
    assert load_model(str(tiny_model_folder), attention="eager").attention == "eager"
    with pytest.raises(ModelError, match="cannot load the model") as caught:
        load_model(str(tiny_model_folder), attention="magic")
    assert "\n" not in str(caught.value)
