"""The check at load: hooked and plain model agree, sites tell the truth, edits arrive, and every value is finite."""

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.models.errors import ModelError, is_finite, refuse_non_finite
from workbench.models.hooked import HOOK_NAMES, HookedModel
from workbench.records import Site, Tokens

# Largest accepted difference between hooked and plain model, relative to the largest value compared.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
N_CHECK_TOKENS = 12


@dataclass(frozen=True)
class PlainPass:
    """What the model gives before it is wrapped: token ids, logits, and hidden states from the embedding on."""

    ids: Tensor
    logits: Tensor
    hidden: tuple[Tensor, ...]


def plain_pass(model: object, name: str) -> PlainPass:
    """One pass of a model without hooks over random tokens; raises where a value is not finite."""
    config = model.config.get_text_config()  # pyright: ignore[reportAttributeAccessIssue]
    vocabulary, context = config.vocab_size, getattr(config, "max_position_embeddings", None) or N_CHECK_TOKENS
    if vocabulary < 2 or context < 2:
        raise ModelError(f"{name} has {vocabulary} tokens and a context of {context}; at least 2 of each are needed")
    generator = torch.Generator().manual_seed(0)
    low, length = min(10, vocabulary - 1), min(N_CHECK_TOKENS, context)
    device = next(model.parameters()).device  # pyright: ignore[reportAttributeAccessIssue]
    ids = torch.randint(low, vocabulary, (2, length), generator=generator).to(device)
    with torch.inference_mode():
        output = model(input_ids=ids, output_hidden_states=True, use_cache=False)  # pyright: ignore[reportCallIssue]
    if not is_finite(output.logits):
        refuse_non_finite(name, output.logits.dtype, output.hidden_states or ())
    return PlainPass(ids, output.logits, tuple(output.hidden_states or ()))


def self_check(model: HookedModel, plain: PlainPass) -> dict[str, str]:
    """Compare the hooked model with the plain one; wrong logits or residuals raise, a wrong site is only refused."""
    tolerance = TOLERANCE.get(model.dtype, TOLERANCE[torch.bfloat16])
    tokens = Tokens(plain.ids, torch.ones_like(plain.ids, dtype=torch.bool))
    seen: dict[Site, list[Tensor]] = {}

    def note(values: Tensor, site: Site, _: object) -> None:
        seen.setdefault(site, []).append(values.clone())

    sites = {site for site in _all_sites(model) if HOOK_NAMES[site.kind].format(site.layer) in model.bridge.hook_dict}
    with model.hooked(dict.fromkeys(sites, note)):
        logits = model.logits(tokens)
    if gap(logits, plain.logits) > tolerance:
        raise ModelError(f"{model.name}: logits with hooks differ from Hugging Face's; this model cannot be used")
    for site in model.residual_sites()[:-1]:  # the last hidden state of Hugging Face is after the final norm
        state = plain.hidden[site.layer + 1] if len(plain.hidden) == model.n_layers + 1 else None
        if len(seen.get(site, [])) != 1 or (state is not None and gap(seen[site][0], state) > tolerance):
            raise ModelError(f"{model.name}: residual at {site} differs from Hugging Face's; this model cannot be used")
    checks = {kind: _fired(model, kind, seen) for kind in HOOK_NAMES}
    for layer in range(model.n_layers):
        parts = [Site(kind, layer) for kind in ("resid_pre", "attn_out", "mlp_out", "resid_post")]
        if all(len(seen.get(part, [])) == 1 for part in parts):
            before, attention, mlp, after = (seen[part][0] for part in parts)
            if before.shape != after.shape or gap(before + attention + mlp, after) > tolerance:
                checks["attn_out"] = checks["mlp_out"] = "attention and MLP output do not add up to the block output"
    _check_edit(model, tokens, logits)
    if plain.ids.shape[1] > 3:
        checks["left padding"] = _left_padding(model, plain.ids, tolerance)
    return checks


def _all_sites(model: HookedModel) -> list[Site]:
    return [Site(kind, layer) for kind in HOOK_NAMES for layer in range(model.n_layers)]


def _fired(model: HookedModel, kind: str, seen: dict[Site, list[Tensor]]) -> str:
    """Whether a kind of site is seen once per pass and in its width, in every layer that has it."""
    found = {site.layer: values for site, values in seen.items() if site.kind == kind}
    if not found or any(len(values) != 1 for values in found.values()):
        return "its hook did not fire exactly once"
    wrong = [layer for layer, values in found.items() if values[0].shape[-1] != model.width(Site(kind, layer))]  # pyright: ignore[reportArgumentType]
    return f"its width in layer {wrong[0]} is {found[wrong[0]][0].shape[-1]}" if wrong else "ok"


def _check_edit(model: HookedModel, tokens: Tokens, logits: Tensor) -> None:
    site = Site("resid_post", model.n_layers // 2)
    with model.hooked({site: lambda values, *_: values + 1.0}, editing=True):
        if torch.equal(model.logits(tokens), logits):
            raise ModelError(f"{model.name}: an edit of the residual stream changes nothing; this model cannot be used")


def _left_padding(model: HookedModel, ids: Tensor, tolerance: float) -> str:
    starts = torch.tensor([[0], [3]], device=ids.device)
    shorter = Tokens(ids, torch.arange(ids.shape[1], device=ids.device).expand_as(ids) >= starts)
    single = Tokens(ids[1:, 3:], torch.ones_like(ids[1:, 3:], dtype=torch.bool))
    differs = gap(model.logits(shorter)[1:, 3:], model.logits(single)) > tolerance
    return "a left-padded row differs from the row alone" if differs else "ok"


def gap(first: Tensor, second: Tensor) -> float:
    """Largest difference relative to the largest value of `second`; infinite where either is not finite."""
    scale = second.abs().max().clamp(min=1e-6)
    value = float((first.float() - second.float()).abs().max() / scale)
    return value if value == value else float("inf")
