"""What a model folder must be before its weights are read: whole, safetensors only, with a config that can be meant.

A folder is foreign input. Nothing outside it is opened, no pickle is, and sizes are compared with the weights that are
there before memory is asked for.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from workbench.models.errors import ModelError

INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
# Counts in a config.json, under the names that the families use.
COUNTS = frozenset(
    "vocab_size hidden_size num_attention_heads num_hidden_layers max_position_embeddings n_embd n_layer n_head "
    "n_positions d_model n_layers n_heads num_key_value_heads head_dim intermediate_size".split()
)
WIDTHS = ("hidden_size", "n_embd", "d_model", "word_embed_proj_dim")
# What multiplies the width in some matrix of every model that has such a count.
LENGTHS = ("vocab_size", "intermediate_size", "n_inner", "ffn_dim", "num_local_experts", "num_experts", "head_dim")
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
# What the weights of a quantised folder need to be read: the package to import, and what to install.
QUANTISATION_PACKAGES = {
    "gptq": ("gptqmodel", "gptqmodel optimum"),
    "awq": ("gptqmodel", "gptqmodel"),
    "compressed-tensors": ("compressed_tensors", "compressed-tensors"),
    "bitsandbytes": ("bitsandbytes", "bitsandbytes accelerate"),
    "torchao": ("torchao", "torchao"),
    "hqq": ("hqq", "hqq"),
    "quanto": ("optimum.quanto", "optimum-quanto"),
    "aqlm": ("aqlm", "aqlm"),
    "mxfp4": ("transformers", "transformers"),  # dequantised while it is read
}


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder, checked as far as that needs no model class; raises `ModelError`."""
    config = _read_json(folder / "config.json")
    architectures = config.get("architectures")
    if architectures is not None and not (
        isinstance(architectures, list) and all(isinstance(item, str) for item in architectures)
    ):
        raise ModelError(f"{folder}/config.json: architectures is {str(architectures)[:60]}, not a list of names")
    for part in (config, config.get("text_config")):
        for key, value in part.items() if isinstance(part, dict) else ():
            if key in COUNTS and value is not None and not isinstance(value, list) and not _is_count(value):
                raise ModelError(f"{folder}/config.json: {key} is {str(value)[:60]!r}; it must be at least 1")
    check_quantisation(str(folder), config.get("quantization_config"))
    return config


def check_quantisation(name: str, settings: Any) -> None:
    """Raise where weights are quantised and the package that reads them is missing."""
    if not settings:
        return
    method = settings.get("quant_method") if isinstance(settings, dict) else getattr(settings, "quant_method", None)
    method = str(getattr(method, "value", method))
    package, install = QUANTISATION_PACKAGES.get(method, (None, None))
    if package is None:
        known = ", ".join(QUANTISATION_PACKAGES)
        raise ModelError(f"{name} is quantised with {method[:40]!r}, which cannot be read here; known are {known}")
    if not _is_installed(package):
        raise ModelError(f"{name} is quantised with {method}; reading it needs: pip install {install}")


def check_folder(folder: Path) -> None:
    """Raise `ModelError` unless the folder holds a config, a tokenizer and safetensors weights of its own."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is not a model folder: it has no config.json")
    config = read_config(folder)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ModelError(f"{folder} has no weights (*.safetensors); convert pickled weights to safetensors first")
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise ModelError(f"{folder} has no tokenizer (tokenizer.json); copy the model's tokenizer into the folder")
    named = config.get("transformers_weights")
    check_weight_files(folder, [path.name for path in weights] + ([named] if named else []))
    if (folder / INDEX).is_file():
        check_index(folder / INDEX)
    _check_size(folder, config, weights)


def check_index(path: Path) -> None:
    """Raise unless the index of the weights names nothing but safetensors files beside it."""
    index = _read_json(path)
    files = index.get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise ModelError(f"{path}: weight_map is not a table of file names; download the model again")
    check_weight_files(path.parent, sorted(set(files.values())))


def check_weight_files(folder: Path, names: list[str]) -> None:
    """Raise unless every name is a safetensors file in the folder; links may lead only into the same hub cache."""
    home = folder.resolve()
    if home.parent.name == "snapshots":  # a model in the cache of the hub: its files are links into ../../blobs
        home = home.parents[1]
    for name in names:
        if not isinstance(name, str) or not name.endswith(".safetensors") or Path(name).name != name:
            raise ModelError(
                f"{folder} names {str(name)[:80]!r} as weights; only *.safetensors files of the folder itself are read"
            )
        if not (folder / name).is_file():
            raise ModelError(f"{folder} lacks {name}, which its index names; download the model again")
        if not (folder / name).resolve().is_relative_to(home):
            raise ModelError(f"{folder}/{name} is a link that leaves the folder; put the file itself there")


def _check_size(folder: Path, config: dict[str, Any], weights: list[Path]) -> None:
    """Raise for more layers than stored tensors, or a matrix of more entries than all files have bits.

    Neither can be meant; building it would take hours, or more memory than there is, before anything fails.
    """
    n_tensors = sum(len(_header(path)) for path in weights)
    text = config.get("text_config")
    text = text if isinstance(text, dict) else config
    width = next((text[key] for key in WIDTHS if isinstance(text.get(key), int)), 0)
    n_bits = 8 * sum(path.stat().st_size for path in weights)
    for key in LENGTHS:
        length = text.get(key)
        if isinstance(length, int) and length * width > n_bits:
            raise ModelError(
                f"{folder}/config.json names a matrix of {width} x {length} (width and {key}), more than the weights "
                "hold; config and weights do not belong together"
            )
    n_layers = next((text[key] for key in LAYER_COUNTS if isinstance(text.get(key), int)), 0)
    if n_layers > n_tensors:
        raise ModelError(
            f"{folder}/config.json names {n_layers} layers, but the weights hold {n_tensors} tensors; config and "
            "weights do not belong together"
        )


def _header(path: Path) -> dict[str, Any]:
    """Names, types and shapes of a safetensors file, without its values."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= path.stat().st_size:
            raise ModelError(f"{path} is not a safetensors file, or is cut short; download the model again")
        try:
            header = json.loads(file.read(size))
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{path} is not a safetensors file, or is damaged; download the model again") from error
    return {key: value for key, value in header.items() if key != "__metadata__"} if isinstance(header, dict) else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise ModelError(f"{path} cannot be read as JSON ({reason}); copy it again from the model's source") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a JSON object; copy it again from the model's source")
    return content


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False
