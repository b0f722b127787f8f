"""Damaged and hostile model folders: each is refused in one line, and nothing outside the folder is opened."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from workbench.models import ModelError, load_model

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "copy"))


def _change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _index(folder: Path, file: str) -> None:
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    keys = load_file(folder / "other.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(keys, file)}))


def _pickle(folder: Path) -> None:
    _index(folder, "pytorch_model.bin")
    torch.save(load_file(folder / "other.safetensors"), folder / "pytorch_model.bin")


def _outside(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "outside.safetensors")
    _index(folder, "../outside.safetensors")


def _absolute(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "outside.safetensors")
    _index(folder, str(folder.parent / "outside.safetensors"))


def _link(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    (folder / "model.safetensors").symlink_to("../outside.safetensors")


def _linked_index(folder: Path) -> None:
    _index(folder, "other.safetensors")
    (folder / "other.safetensors").rename(folder.parent / "outside.safetensors")
    (folder / "other.safetensors").symlink_to(folder.parent / "outside.safetensors")


def _config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: _change(folder / "config.json", **values)


def _text(file: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_text(text) and None


def _more_weights(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        save_file(weights | {name: torch.ones(16)}, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def _long_tokenizer(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["qqq"] = len(vocabulary) + 50
    (folder / "tokenizer.json").write_text(json.dumps(content))


DAMAGE = {
    "an index that names a pickle": (_pickle, r"names 'pytorch_model\.bin' as weights"),
    "an index that leaves the folder": (_outside, r"names '\.\./outside\.safetensors' as weights"),
    "an index with an absolute path": (_absolute, "only .*safetensors files of the folder itself"),
    "weights that are a link out of the folder": (_link, "is a link that leaves the folder"),
    "an index that names a link out of the folder": (_linked_index, "is a link that leaves the folder"),
    "weights named in the config": (_config(transformers_weights="../x.safetensors"), "as weights"),
    "an index without its file": (lambda folder: _index(folder, "gone.safetensors"), "lacks gone.safetensors"),
    "an index that is a list": (_text(INDEX, "[]"), "is not a JSON object"),
    "an index of numbers": (_text(INDEX, '{"weight_map": {"a": 5}}'), "weight_map is not a table of file names"),
    "zero heads": (_config(num_attention_heads=0), "num_attention_heads is '0'; it must be at least 1"),
    "layers that are text": (_config(num_hidden_layers="two"), "num_hidden_layers is 'two'"),
    "a width below zero": (_config(hidden_size=-16), "hidden_size is '-16'"),
    "a billion layers": (_config(num_hidden_layers=10**9), "names 1000000000 layers, but the weights hold"),
    "a width of a billion": (_config(hidden_size=10**9), "a matrix of 1000000000 x 343 .width and vocab_size., more"),
    "a billion tokens": (_config(vocab_size=10**9), "16 x 1000000000 .width and vocab_size., more than the weights"),
    "a billion neurons": (_config(intermediate_size=10**9), "width and intermediate_size., more than the weights hold"),
    "a billion dimensions per head": (_config(head_dim=10**9), "width and head_dim., more than the weights hold"),
    "fewer layers than weights": (_config(num_hidden_layers=1), "hold 9 parameters that its config.json has no place"),
    "a context of one": (_config(max_position_embeddings=1), "a context of 1"),
    "an unknown activation": (_config(hidden_act="x"), "cannot load the model"),
    "a norm that is text": (_config(rms_norm_eps="x"), "cannot load the config"),
    "a number as architecture": (_config(architectures=[5]), "not a list of names"),
    "an unknown dtype": (_config(dtype="x"), "cannot load the config"),
    "deep nesting": (_text("config.json", "[" * 200_000), "cannot be read as JSON"),
    "an empty config": (_text("config.json", ""), "cannot be read as JSON"),
    "a config that is null": (_text("config.json", "null"), "is not a JSON object"),
    "an empty tokenizer": (_text("tokenizer.json", "{}"), "cannot load the tokenizer"),
    "a tokenizer that is no JSON": (_text("tokenizer.json", "[["), "cannot load the tokenizer"),
    "a tokenizer beyond the embedding": (_long_tokenizer, r"ids up to \d+ \('qqq'\), but the embedding has"),
    "GPTQ without its package": (_config(quantization_config={"quant_method": "gptq", "bits": 4}), "pip install gptq"),
    "unknown quantisation": (_config(quantization_config={"quant_method": "zip"}), "cannot be read here"),
    "a bias that the config does not have": (_more_weights("model.layers.0.self_attn.q_proj.bias"), "has no place for"),
    "weights that are text": (_text("model.safetensors", "no weights at all"), "is not a safetensors file"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_folder_is_refused_in_one_line(kind: str, folder: Path) -> None:
    damage, message = DAMAGE[kind]
    damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_weights_in_two_files_and_in_a_hub_cache_load(folder: Path, tmp_path: Path) -> None:
    plain = load_model(str(folder))
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    (folder / "model.safetensors").unlink()
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, keys in files.items():
        save_file({key: weights[key] for key in keys}, folder / file, metadata={"format": "pt"})
    table = {key: file for file, keys in files.items() for key in keys}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": table}))
    assert load_model(str(folder)).fingerprint == plain.fingerprint

    cache = tmp_path / "models--some--body"
    (cache / "blobs").mkdir(parents=True)
    snapshot = Path(shutil.copytree(folder, cache / "snapshots" / "abc"))
    for file in files:
        shutil.move(snapshot / file, cache / "blobs" / file)
        (snapshot / file).symlink_to(f"../../blobs/{file}")
    assert load_model(str(snapshot)).fingerprint == plain.fingerprint


def test_an_added_token_beyond_the_embedding_is_met_only_where_it_is_used(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    token = {"id": 5000, "content": "<image>", "special": True, "single_word": False, "lstrip": False, "rstrip": False}
    content["added_tokens"].append(token | {"normalized": False})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    model = load_model(str(folder))
    assert model.tokenize(["the court"]).ids.shape[0] == 1
    with pytest.raises(ModelError, match=r"'<image>' has id 343, but the embedding has"):
        model.tokenize(["the <image> court"])


def test_a_folder_whose_name_says_nothing_is_shown_by_the_name_in_its_config(folder: Path) -> None:
    _change(folder / "config.json", _name_or_path="somebody/tiny-law")
    assert load_model(str(folder)).name == "copy"
    assert load_model(str(folder.rename(folder.parent / "checkpoint-500"))).name == "tiny-law"
