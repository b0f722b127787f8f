"""The wrapper against plain Hugging Face, on four families, and its errors."""

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM

from tests.hub import offline_hub
from tests.tiny import FAMILIES, tiny_config, tiny_model, tiny_tokenizer
from workbench.activations import capture
from workbench.comparison.api import open_model
from workbench.comparison.spec import ModelSpec
from workbench.models import ModelError, load_model, wrap
from workbench.records import Site

TEXTS = ["the court shall sum the cell", "it was a river"]
STORIES = Path(__file__).parents[3] / "shared" / "models" / "stories260K"


@pytest.fixture(scope="module", params=FAMILIES)
def plain_and_hooked(request: pytest.FixtureRequest):
    torch.manual_seed(1)
    plain = AutoModelForCausalLM.from_config(tiny_config(request.param), attn_implementation="eager").eval()
    return copy.deepcopy(plain), wrap(plain, tiny_tokenizer(), name=request.param)


def test_logits_and_residuals_equal_hugging_face(plain_and_hooked) -> None:
    plain, model = plain_and_hooked
    tokens = model.tokenize(TEXTS[:1])
    with torch.inference_mode():
        output = plain(tokens.ids, output_hidden_states=True)
    torch.testing.assert_close(model.logits(tokens), output.logits, atol=1e-5, rtol=1e-4)
    captured = capture(model, tokens, model.residual_sites())
    for layer in range(model.n_layers - 1):  # the last hidden state is after the final norm
        torch.testing.assert_close(captured[layer], output.hidden_states[layer + 1], atol=1e-5, rtol=1e-4)


def test_block_outputs_add_up(plain_and_hooked) -> None:
    _, model = plain_and_hooked
    kinds = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
    before, attention, middle, mlp, after = capture(model, model.tokenize(TEXTS), [Site(kind, 1) for kind in kinds])
    torch.testing.assert_close(before + attention, middle, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(middle + mlp, after, atol=1e-5, rtol=1e-4)


def test_raw_mlp_output_differs_only_behind_a_post_norm(plain_and_hooked) -> None:
    _, model = plain_and_hooked
    raw, added = capture(model, model.tokenize(TEXTS), [Site("mlp_raw", 1), Site("mlp_out", 1)])
    assert torch.equal(raw, added) == (model.name != "gemma2")


def test_z_times_output_projection_is_attention_output() -> None:
    model = tiny_model("qwen3")
    tokens = model.tokenize(TEXTS)
    z = capture(model, tokens, [Site("z", 1)])[0]
    assert z.shape[-1] == 24 != model.d_model  # head_dim is not d_model / n_heads here
    attention = capture(model, tokens, [Site("attn_out", 1)])[0]
    weight = model.hf_model.state_dict()
    name = next(key for key in weight if "layers.1." in key and ".o_proj." in key)
    torch.testing.assert_close(z @ weight[name].T, attention, atol=1e-4, rtol=1e-4)


def test_greedy_generation_equals_hugging_face(plain_and_hooked) -> None:
    plain, model = plain_and_hooked
    tokens = model.tokenize(TEXTS[:1], side="left")
    ours = model.generate(tokens, max_new_tokens=6)[0]
    with torch.inference_mode():
        theirs = plain.generate(tokens.ids, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    expected = theirs[0, tokens.ids.shape[1] :].tolist()
    ends = model.hf_model.generation_config.eos_token_id
    stop = next((i for i, token in enumerate(ours) if token == ends), len(ours))
    assert ours[:stop] == expected[: len(ours)][:stop]
    assert len(ours) > 0 or expected[0] == ends


def test_sampling_is_seeded_and_leaves_the_global_random_state() -> None:
    model = tiny_model("llama")
    tokens = model.tokenize(TEXTS, side="left")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = model.generate(tokens, max_new_tokens=8, temperature=1.5, seed=1)
    assert torch.equal(torch.rand(1), expected)
    assert first == model.generate(tokens, max_new_tokens=8, temperature=1.5, seed=1)
    assert first != model.generate(tokens, max_new_tokens=8, temperature=1.5, seed=2)


def test_bos_stands_once_and_absent_where_the_family_has_none() -> None:
    model = tiny_model("llama")
    assert model.tokenize(["the court", "<s> the court"]).ids[:, 0].tolist() == [1, 1]
    assert model.tokenize(["<s> the court"]).ids.tolist() == model.tokenize(["the court"]).ids.tolist()
    assert tiny_model("qwen3", bos=False).tokenize(["the court"]).ids.tolist() == [[4, 5]]


def test_positions_are_absolute_on_both_padding_sides() -> None:
    model = tiny_model("llama")
    assert model.tokenize(TEXTS, side="left").positions.tolist()[1] == [-1, -1, 0, 1, 2, 3, 4]
    assert model.tokenize(TEXTS, side="right").positions.tolist()[1] == [0, 1, 2, 3, 4, -1, -1]


def test_hooks_see_absolute_positions_and_prompt_lengths_in_cached_generation() -> None:
    model = tiny_model("gpt2")
    tokens = model.tokenize(TEXTS, side="left")
    seen = []
    with model.hooked({Site("resid_post", 0): lambda values, site, call: seen.append(call)}):
        model.generate(tokens, max_new_tokens=3)
    assert [call.positions.tolist() for call in seen[1:]] == [[[7], [5]], [[8], [6]]]
    assert all(call.prompt_lengths.tolist() == [7, 5] for call in seen)


def test_transformerlens_verbs_work_in_raw_coordinates() -> None:
    model = tiny_model("gpt2")
    tokens = model.tokenize(TEXTS)
    logits, cache = model.run_with_cache(tokens, names_filter="blocks.1.hook_resid_post")
    assert torch.equal(logits, model.logits(tokens))
    assert torch.equal(cache["blocks.1.hook_resid_post"], capture(model, tokens, [Site("resid_post", 1)])[0])
    with model.hooks([("blocks.1.hook_resid_post", lambda tensor, hook: tensor * 0)]):
        assert not torch.equal(model.logits(tokens), logits)
    assert torch.equal(model.logits(tokens), logits)


def test_promoted_tokens_are_the_largest_entries_of_the_unembedding_row() -> None:
    model = tiny_model("llama")
    row = model.hf_model.state_dict()
    name = next(key for key in row if "lm_head" in key or "unembed" in key)
    order = row[name][:, 3].argsort(descending=True).tolist()
    promoted, suppressed = model.promoted_tokens(3, n=3)
    assert list(promoted) == model.token_texts(order[:3])
    assert list(suppressed) == model.token_texts(order[::-1][:3])


def test_promoted_tokens_that_are_parts_of_characters_are_named_by_their_bytes() -> None:
    model = load_model()
    promoted, _ = model.promoted_tokens(0, n=model.hf_model.config.vocab_size)
    assert not any("\ufffd" in text for text in promoted)
    parts = {bytes.fromhex(text[1:-1]) for text in promoted if text.startswith("⟨")}
    assert bytes([0xE2]) in parts
    for part in parts:
        with pytest.raises(UnicodeDecodeError):
            part.decode()


def test_fingerprint_follows_weights_and_ignores_loading_dtype(tmp_path: Path) -> None:
    tiny_model("llama").hf_model.config.save_pretrained(tmp_path)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(tiny_config("llama"), dtype=torch.bfloat16).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    full, half = load_model(str(tmp_path)), load_model(str(tmp_path), dtype="bfloat16")
    assert full.fingerprint == half.fingerprint
    assert full.fingerprint != tiny_model("llama", seed=7).fingerprint
    assert full.name == tmp_path.name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda model: model.tokenize([]), "at least one text"),
        (lambda model: model.tokenize(["x " * 60]), "61 tokens but the context holds 48"),
        (lambda model: model.hook_name(Site("resid_post", 9)), "layers 0 to 2"),
        (lambda model: model.hook_name(Site("resid_mid", 0), editing=True), "read but not edited"),
        (
            lambda model: model.run_with_cache(model.tokenize(["x"]), names_filter=["blocks.0.nope"]),
            "unknown hook names",
        ),
        (lambda model: model.hooks([("nope", print)]), "unknown hook names"),
        (lambda model: model.generate(model.tokenize(TEXTS), max_new_tokens=2), "left-padded"),
        (lambda model: model.generate(model.tokenize(["x"], side="left"), max_new_tokens=99), "do not fit the context"),
        (lambda model: model.tokenize_chat("hello"), "no chat template"),
        (lambda model: model.promoted_tokens(16), "0 to 15"),
        (lambda model: load_model("builtin", dtype="int3"), "unknown dtype"),
        (lambda model: load_model("./no/such/folder"), "does not exist"),
        (lambda model: load_model("nobody/nothing"), "allow the download"),
    ],
)
def test_mistakes_raise_one_clear_line(make, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        make(tiny_model("llama"))
    assert "\n" not in str(caught.value)


def test_truncation_only_when_asked() -> None:
    assert tiny_model("llama").tokenize(["x " * 60], truncate=True).ids.shape == (1, 48)


def test_unusable_folders_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(str(tmp_path))
    config = tiny_config("llama")
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no weights"):
        load_model(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="no tokenizer"):
        load_model(str(tmp_path))


def test_weights_that_do_not_fit_their_config_are_refused(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(tiny_config("llama")).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole, content = weights.read_bytes(), json.loads(config.read_text())
    for change, problem in (
        ({"intermediate_size": 2 * content["intermediate_size"]}, "have another shape for"),
        ({"num_hidden_layers": content["num_hidden_layers"] + 1}, "lack"),
    ):
        config.write_text(json.dumps(content | change | {"layer_types": None}))
        with pytest.raises(ModelError, match=problem):
            load_model(str(tmp_path))
    config.write_text(json.dumps(content))
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"cannot load|cut short"):
        load_model(str(tmp_path))


def test_encoder_and_unsupported_architectures_are_refused(tmp_path: Path) -> None:
    small = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertForMaskedLM(small).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="not a causal language model"):
        load_model(str(tmp_path))
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"architectures": ["MadeUpForCausalLM"]}))
    with pytest.raises(ModelError, match="does not support"):
        load_model(str(tmp_path))


def test_self_check_refuses_a_model_whose_hooks_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.models import checking

    honest = checking.plain_pass

    def lie(model, name):
        passed = honest(model, name)
        return dataclasses.replace(passed, logits=passed.logits + 0.1)

    monkeypatch.setattr(checking, "plain_pass", lie)
    with pytest.raises(ModelError, match="logits with hooks differ"):
        tiny_model("llama")


def test_a_site_that_fails_its_check_raises_only_when_used() -> None:
    model = tiny_model("llama")
    model.checks["z"] = "it lies"
    assert model.hook_name(Site("resid_post", 0))
    with pytest.raises(ModelError, match="failed the self-check"):
        model.hook_name(Site("z", 0))


@pytest.mark.skipif(not STORIES.exists(), reason="the reference model is not beside this checkout")
def test_a_real_pretrained_model_tells_a_story() -> None:
    model = load_model(str(STORIES))
    tokens = model.tokenize(["Once upon a time"], side="left")
    assert "".join(model.token_texts(tokens.ids[0, 1:].tolist())).strip() == "Once upon a time"
    new = model.generate(tokens, max_new_tokens=8)[0]
    assert "there was" in model.decode(new)


def test_a_model_of_the_hub_is_read_from_the_cache_without_network(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_model_folder, offline_hub(tmp_path, monkeypatch)("models--somebody--tiny"), dirs_exist_ok=True)
    cached, local = load_model("somebody/tiny"), load_model(str(tiny_model_folder))
    tokens = local.tokenize(["the court"])
    assert torch.equal(cached.logits(tokens), local.logits(tokens))
    assert (cached.name, cached.fingerprint) == ("somebody/tiny", local.fingerprint)
    with pytest.raises(ModelError, match="'somebody/large' is not in the local cache; allow the download"):
        load_model("somebody/large")


def test_a_device_map_of_one_device_changes_nothing(tiny_model_folder: Path) -> None:
    spec = ModelSpec(name=str(tiny_model_folder))
    plain, spread = open_model(spec), open_model(dataclasses.replace(spec, device_map="cpu"))
    tokens = plain.tokenize(["the court", "a law of the old river"])
    assert torch.equal(plain.logits(tokens), spread.logits(tokens))
    site = Site("resid_post", 1)
    assert torch.equal(capture(plain, tokens, [site])[0], capture(spread, tokens, [site])[0])
    assert plain.fingerprint == spread.fingerprint


def test_a_device_map_without_accelerate_is_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.models.loading.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="device_map needs the package accelerate; install it, or leave"):
        open_model(ModelSpec(name="nobody/nothing", device_map="auto"))
