"""What tells one model from another, and what its numbers depend on: kept with runs and artefacts."""

import hashlib
from importlib.metadata import version
from typing import Any

import torch

from workbench.models.hooked import HookedModel

N_PROBES = 4  # logits that are kept
PROBE_TOLERANCE = 0.02  # relative to the largest of them; other devices and attention stay far below it


def tokenizer_hash(model: HookedModel) -> str:
    """Hash of all tokens with their ids."""
    return hashlib.sha256(repr(sorted(model.tokenizer.get_vocab().items())).encode()).hexdigest()[:16]


def provenance(model: HookedModel) -> dict[str, Any]:
    """Everything beside weights and text that numbers made with a model depend on, and a few of its logits."""
    template = model.tokenizer.chat_template
    return {
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.attention,
        "bos": model.text.bos,
        "first_tokens": model.token_texts(model.text.prefix),
        "chat_template": hashlib.sha256(str(template).encode()).hexdigest()[:16] if template else "",
        "tokenizer": tokenizer_hash(model),
        "layers": model.n_layers,
        "d_model": model.d_model,
        "origin": dict(model.origin),
        "libraries": {name: version(name) for name in ("torch", "transformers", "transformer-lens")},
        "probe_logits": probe_logits(model),
    }


def probe_logits(model: HookedModel) -> list[float]:
    """The first logits after a fixed row of token ids; they move with what weights do not show, such as RoPE."""
    row = [index * 7 % model.vocabulary_size for index in range(1, min(24, model.context_length))]
    return [round(value, 4) for value in model.logits(model.pad([row]))[0, -1, :N_PROBES].float().tolist()]


def differences(found: dict[str, Any], model: HookedModel, *, is_same_model: bool) -> list[str]:
    """What differs between the model of a record and this one, in words; shapes, tokenizer and probe logits."""
    now = provenance(model)
    names = ("layers", "d_model", "tokenizer", *(("chat_template",) if is_same_model else ()))
    listed = [f"{name} {found.get(name)!r} there, {now[name]!r} here" for name in names if found.get(name) != now[name]]
    there, here = torch.tensor(found.get("probe_logits", [])), torch.tensor(now["probe_logits"])
    if is_same_model and there.shape != here.shape:
        listed.append(f"{len(there)} probe logits there, {len(here)} here")
    elif is_same_model and found.get("dtype") == now["dtype"]:
        gap = float((there - here).abs().max() / there.abs().max().clamp(min=1e-6))
        listed += [f"probe logits differ by {gap:.2g} of their size"] if gap > PROBE_TOLERANCE else []
    return listed
