"""What the arms of a comparison share: directions per domain, and layers spread over the depth."""

from jaxtyping import Float
from torch import Tensor

from workbench.interventions.directions import domain_difference
from workbench.records import PooledRows


def domain_directions(rows: PooledRows) -> dict[str, Float[Tensor, "layer d_model"]]:
    """Per domain and layer: mean over its *identify* passages minus mean over those of all other domains."""
    return {domain: domain_difference(rows, domain) for domain in dict.fromkeys(rows.domains)}


def spread_layers(n: int, n_layers: int) -> tuple[int, ...]:
    """n layers in the middle of n equal parts of the depth, all where there are fewer."""
    return tuple(int((index + 0.5) * n_layers / n) for index in range(n)) if n < n_layers else tuple(range(n_layers))
