"""Setting massive activations to their mean or to zero, entry by entry, as Sun et al. (2024, arXiv 2402.17762) do.

An entry is one dimension of one hidden state. What is massive is decided where it stands, token by token, so that the
first token, delimiters and generated tokens are treated alike; the mean is over the massive entries of the same layer,
dimension and position (first or later) in a reference text. The published finding: with means the model hardly changes,
with zeros it breaks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.activations import stream
from workbench.dimensions.massive import MassiveCriterion, criterion_named
from workbench.interventions import Steering, SteeringError, SteeringHandle, steer
from workbench.models import HookedModel
from workbench.records import Prompt, Site

SetTo = Literal["mean", "zero"]


@final
@dataclass(frozen=True, eq=False)
class MassiveToValue(Steering):
    """At strength 1 every massive entry becomes `values[layer, place, d]`; place 0 is the first position, 1 the later.

    An entry without a value (NaN: none was massive there in the reference text) stays as it is. `layers` are the block
    outputs that hold massive entries.
    """

    criterion: MassiveCriterion
    layers: tuple[int, ...]
    values: Float[Tensor, "layer place d_model"]

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(Site("resid_post", layer) for layer in self.layers)

    def delta(
        self, x: Float[Tensor, "batch pos width"], site: Site, positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        of_layer = self.values[self.layers.index(site.layer)].to(x.device)
        wanted = of_layer[(positions != 0).long()]
        is_set = self.criterion.entries(x) & ~wanted.isnan()
        return torch.where(is_set, wanted - x, 0.0)


def fit_massive(
    model: HookedModel,
    reference: Sequence[Prompt],
    *,
    to: SetTo = "mean",
    criterion: str | MassiveCriterion = "Sun et al.",
    batch_size: int = 32,
    truncate: bool = False,
) -> MassiveToValue:
    """Means of the massive entries over the reference text, or zeros; raises where nothing is massive."""
    if to not in ("mean", "zero"):
        raise ValueError(f"massive entries are set to 'mean' or 'zero', not {to!r}")
    rule = criterion_named(criterion)
    total = torch.zeros(model.n_layers, 2, model.d_model, dtype=torch.float64)
    count = torch.zeros_like(total)
    for batch in stream(model, reference, model.residual_sites(), batch_size=batch_size, truncate=truncate):
        values = batch.values.cpu()
        passes = rule.entries(values)
        for place, chosen in enumerate((batch.positions.cpu() == 0, batch.positions.cpu() != 0)):
            total[:, place] += torch.where(passes, values, 0)[:, chosen].double().sum(dim=1)
            count[:, place] += passes[:, chosen].sum(dim=1)
    layers = tuple(count.sum(dim=(1, 2)).nonzero().flatten().tolist())
    if not layers:
        raise SteeringError(
            f"no entry of {model.name} is massive by {criterion!r} on this text; choose another criterion, such as "
            "'3-sigma', or a MassiveCriterion of your own"
        )
    means = (total / count)[list(layers)].float()
    return MassiveToValue(rule, layers, means if to == "mean" else torch.zeros_like(means).where(~means.isnan(), means))


def set_massive(
    model: HookedModel,
    reference: Sequence[Prompt],
    *,
    to: SetTo = "mean",
    criterion: str | MassiveCriterion = "Sun et al.",
) -> SteeringHandle:
    """Set all massive entries of a model to their mean (or to zero) in one call: `with set_massive(model, texts): ...`.

    Acts at all positions until the handle is removed; its log counts the tokens it looked at.
    """
    return steer(model, fit_massive(model, reference, to=to, criterion=criterion), 1.0, "all")
