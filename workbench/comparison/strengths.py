"""How large an edit is: its norm beside the residual stream, and in natural standard deviations of what it moves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.interventions import Scope, Steering, Where
from workbench.models import Call, HookedModel
from workbench.records import Site, Tokens


@dataclass(frozen=True)
class EditSize:
    """An edit at strength 1, on neutral text, from unedited activations; every size grows linearly with the strength.

    `in_norms`: norm of what is written to the residual stream, mean over edited tokens, as a share of the median
    residual norm at that layer; several sites as the root of the sum of squares. `in_sds`: mean |delta| of every edited
    coordinate in its own standard deviation over neutral tokens, root mean square over coordinates. `n_coordinates`:
    coordinates that are moved at all, over all sites.
    """

    in_norms: float
    in_sds: float
    n_coordinates: int


def edit_size(
    model: HookedModel, steering: Steering, tokens: Tokens, scope: Scope | Where = "all_but_first"
) -> EditSize:
    """The size of a steering's edit on a batch of neutral text.

    Head outputs count as what they write through the output projection. Raises if the scope edits no token.
    """
    return edit_sizes(model, [steering], tokens, scope)[0]


def edit_sizes(
    model: HookedModel, steerings: Sequence[Steering], tokens: Tokens, scope: Scope | Where = "all_but_first"
) -> list[EditSize]:
    """The sizes of several edits from one pass over the text; as `edit_size`."""
    scope = scope if isinstance(scope, Scope) else Scope(scope)
    sites = sorted({site for steering in steerings for site in steering.sites})
    layers = sorted({site.layer for site in sites})
    edited = scope.mask(Call(tokens.positions, tokens.lengths))
    if not bool(edited.any()):
        raise ValueError("the scope edits no token of the neutral text, so the edit has no size; use another scope")
    values = _captured(model, tokens, list(dict.fromkeys([*sites, *model.residual_sites(layers)])))
    return [_size(model, steering, values, tokens, edited) for steering in steerings]


def _size(
    model: HookedModel,
    steering: Steering,
    values: Mapping[Site, Float[Tensor, "batch pos width"]],
    tokens: Tokens,
    edited: Bool[Tensor, "batch pos"],
) -> EditSize:
    real = tokens.positions >= 1
    squares, moved, n_coordinates = 0.0, [], 0
    for site in steering.sites:
        x = values[site]
        delta = steering.delta(x, site, tokens.positions)[edited]
        written = model.project_heads(delta, site.layer).float() if site.kind == "z" else delta
        residual = values[model.residual_sites([site.layer])[0]][real].norm(dim=-1).median()
        squares += float(written.norm(dim=-1).mean() / residual) ** 2
        share = _in_deviations(delta, x[real])
        moved.append(share)
        n_coordinates += len(share)
    return EditSize(squares**0.5, float(np.sqrt(np.mean(np.concatenate(moved) ** 2))), n_coordinates)


def _in_deviations(delta: Float[Tensor, "edited width"], x: Float[Tensor, "token width"]) -> Float[np.ndarray, "moved"]:
    """Mean |delta| of every moved coordinate over its standard deviation; constant coordinates are left out."""
    size, deviation = delta.abs().mean(dim=0), x.std(dim=0)
    chosen = (size > 0) & (deviation > 0)
    return (size[chosen] / deviation[chosen]).double().cpu().numpy()


def _captured(
    model: HookedModel, tokens: Tokens, sites: Sequence[Site]
) -> Mapping[Site, Float[Tensor, "batch pos width"]]:
    kept: dict[Site, Tensor] = {}

    def keep(values: Tensor, site: Site, call: Call) -> None:
        kept[site] = values.float().clone()

    with model.hooked(dict.fromkeys(sites, keep)):
        model.run(tokens)
    return kept
