"""Persona steering at five places of one layer, and the controls that belong to it.

Source: the comparison in the code of arXiv 2603.13249. All five use differences of the same responses:

    residual after attention    Delta resid_mid(l)     added at the attention output of layer l
    residual after MLP          Delta resid_pre(l+1)   added at the MLP output of layer l
    attention output            Delta o(l)             added at the raw attention output of layer l
    correlated heads            Delta z of those heads, before the output projection
    both kinds of heads         the same with the anti-correlated heads as well
"""

from collections.abc import Sequence

import numpy as np

from workbench.interventions.base import Steering, SteeringError
from workbench.interventions.caa import ContrastiveAddition
from workbench.interventions.head_scores import HeadScores
from workbench.interventions.style_heads import HeadAblation, PersonaActivations, StyleHeads
from workbench.models import HookedModel

POSITIONS = ("residual after attention", "residual after MLP", "attention output", "correlated heads", "both kinds")


def steering_positions(
    model: HookedModel,
    activations: PersonaActivations,
    *,
    layer: int,
    correlated: Sequence[int],
    anti_correlated: Sequence[int] = (),
) -> dict[str, Steering]:
    """The five steerings by name; the last needs anti-correlated heads and is left out where there are none.

    The stream of the last layer ends before a `resid_pre` could follow, so it raises there.
    """
    if not 0 <= layer < model.n_layers - 1:
        raise SteeringError(f"layer {layer} has no block input after it; choose one from 0 to {model.n_layers - 2}")
    stream = activations.delta_stream
    written = model.project_heads(activations.delta_z[layer], layer).float().cpu()
    found: dict[str, Steering] = {
        POSITIONS[0]: ContrastiveAddition(stream[2 * layer + 1], layer, "attn_out"),
        POSITIONS[1]: ContrastiveAddition(stream[2 * layer + 2], layer, "mlp_out"),
        POSITIONS[2]: ContrastiveAddition(written, layer, "attn_raw"),
        POSITIONS[3]: StyleHeads.fit(model, activations, layer=layer, heads=correlated),
    }
    if anti_correlated:
        heads = [*correlated, *anti_correlated]
        found[POSITIONS[4]] = StyleHeads.fit(model, activations, layer=layer, heads=heads)
    return found


def heads_by_role(scores: HeadScores, layer: int, *, n: int = 3) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Correlated and anti-correlated heads of one layer: intervals above or below 0, at most `n` each, best first.

    Where no interval is above 0 the head of largest share stands alone.
    """
    share, low, high = scores.share[layer], scores.low[layer], scores.high[layer]
    ranked = [int(head) for head in np.argsort(-share, kind="stable")]
    correlated = [head for head in ranked if low[head] > 0][:n] or ranked[:1]
    return tuple(correlated), tuple(head for head in reversed(ranked) if high[head] < 0)[:n]


def random_heads(n_heads: int, n: int, *, without: Sequence[int] = (), seed: int = 0) -> tuple[int, ...]:
    """`n` heads of a layer drawn from `seed`, none of them in `without`: a control for chosen heads."""
    pool = [head for head in range(n_heads) if head not in set(without)]
    if not 1 <= n <= len(pool):
        raise SteeringError(f"cannot draw {n} heads from the {len(pool)} that are left of {n_heads}; draw fewer")
    return tuple(sorted(int(head) for head in np.random.default_rng(seed).choice(pool, size=n, replace=False)))


def cumulative_ablations(heads: Sequence[tuple[int, int]], n_heads: int) -> tuple[HeadAblation, ...]:
    """Ablations of the first, the first two, ... of the (layer, head) pairs; strength 1 sets their output to zero."""
    if not heads or len(set(heads)) != len(heads):
        raise SteeringError(f"expected distinct heads as (layer, head) pairs, given {list(heads)}")
    return tuple(HeadAblation(tuple(heads[:count]), n_heads) for count in range(1, len(heads) + 1))
