"""The tiny models as plain Hugging Face ones, and random texts: independent references for the steering methods."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.tiny import WORDS, tiny_config, tiny_tokenizer
from workbench.records import Pair


def plain_model(family: str, *, scale: float = 6.0) -> Any:
    """The weights of `tiny_model(family, scale=scale)`, not wrapped."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(tiny_config(family), attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    return model.requires_grad_(False)


def blocks_of(model: Any) -> Any:
    base = model.base_model
    return base.h if hasattr(base, "h") else base.layers


def module_of(block: Any, kind: str) -> Any:
    """The output projection whose input is z, the MLP, or the block itself."""
    attention = block.attn.c_proj if hasattr(block, "attn") else block.self_attn.o_proj
    return {"z": attention, "mlp_raw": block.mlp, "resid_post": block}[kind]


def plain_ids(text: str) -> Tensor:
    return torch.tensor([[1, *tiny_tokenizer()(text, add_special_tokens=False)["input_ids"]]])


def plain_last(model: Any, text: str, kind: str) -> list[Tensor]:
    """Activations at the last token of one text, per layer, by PyTorch's own hooks."""
    seen: list[Tensor] = []
    handles = []
    for block in blocks_of(model):
        module = module_of(block, kind)
        if kind == "z":
            handles.append(module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][0, -1])))
        else:
            handles.append(
                module.register_forward_hook(
                    lambda module, inputs, out: seen.append((out[0] if isinstance(out, tuple) else out)[0, -1])
                )
            )
    with torch.no_grad():
        model(plain_ids(text))
    for handle in handles:
        handle.remove()
    return seen


def random_texts(n_texts: int, *, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(2, 8))) for _ in range(n_texts)]


def answer_pairs(n_pairs: int, *, seed: int = 0) -> list[Pair]:
    """Random prompts, each continued by one of two words."""
    return [Pair(f"{prompt} court", f"{prompt} river") for prompt in random_texts(n_pairs, seed=seed)]
