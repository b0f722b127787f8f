"""Adapters and quantisation: LoRA weights put into a model, and weights made smaller while they are read."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from workbench.models.errors import ModelError

QUANTISATIONS = ("int8", "nf4")
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def quantisation_config(kind: str, dtype: torch.dtype) -> Any:
    """The settings with which bitsandbytes quantises weights while they are read; raises where it cannot."""
    from transformers import BitsAndBytesConfig

    if kind not in QUANTISATIONS:
        raise ModelError(f"unknown quantisation {kind!r}; choose one of {', '.join(QUANTISATIONS)}")
    if find_spec("bitsandbytes") is None or find_spec("accelerate") is None:
        raise ModelError(f"quantisation to {kind} needs: pip install bitsandbytes accelerate")
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model of its own."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> str:
    """The model that an adapter was trained on, as its config names it."""
    return str(_adapter_config(folder).base_model_name_or_path or "")


def merge_adapter(model: Any, folder: Path) -> Any:
    """The model with the adapter's change added to its weights; raises where a weight finds no place in it.

    Hugging Face only warns of such weights, and the model then runs without them.
    """
    from peft import PeftModel, set_peft_model_state_dict

    config = _adapter_config(folder)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(f"{folder} has no {ADAPTER_WEIGHTS}; save the adapter as safetensors")
    try:
        adapted = PeftModel(model, config)
        report = set_peft_model_state_dict(adapted, load_file(folder / ADAPTER_WEIGHTS))
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"the adapter {folder} does not fit this model: {reason}") from error
    lost = [*report.unexpected_keys, *(key for key in report.missing_keys if "lora_" in key)]
    if lost:
        raise ModelError(
            f"the adapter {folder} does not fit this model: {len(lost)} of its weights have no place ({min(lost)})"
        )
    return adapted.merge_and_unload()


def _adapter_config(folder: Path) -> Any:
    if find_spec("peft") is None:
        raise ModelError("reading an adapter needs the package peft: pip install peft")
    from peft import PeftConfig

    if not (folder / ADAPTER_CONFIG).is_file():
        raise ModelError(f"{folder} is not an adapter: it has no {ADAPTER_CONFIG}")
    try:
        return PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelError(f"{folder}/{ADAPTER_CONFIG} cannot be read: {str(error).splitlines()[0][:120]}") from error
