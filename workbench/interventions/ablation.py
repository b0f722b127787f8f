"""Directional ablation: take one direction out of everything that is written to the residual stream.

    x <- x - strength * (u.x) u    at every block input, attention output and MLP output, u a unit vector

Source: arXiv 2406.11717 and its released code: candidates are differences in means of block inputs (float64) at the
last few tokens of the prompt, the part that the chat template adds after the instruction; `select_direction` follows
its rule. Token scope "all". The direction itself can also be added, unnormalised, at the input of its own layer:
`ContrastiveAddition(direction, layer, "resid_pre")` at strength +1 or -1.

Block outputs need no edit of their own: at strength 1 the three sites leave nothing of u in them. At strength s each
site keeps 1 - s of it, so block after block the part that came from earlier blocks shrinks by another 1 - s.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn.functional import linear

from workbench.interventions.base import Scope, Steering, SteeringError, steer
from workbench.interventions.caa import ContrastiveAddition
from workbench.interventions.directions import BATCH, Pooling, check_finite, checked_texts, difference_in_means
from workbench.models import HookedModel
from workbench.records import NotApplicable, Site


@final
@dataclass(frozen=True, eq=False)
class DirectionalAblation(Steering):
    """Remove `direction` (made a unit vector) at block input, attention output and MLP output of all `n_layers`."""

    direction: Float[Tensor, "d_model"]
    n_layers: int

    published_scope: ClassVar[Scope] = Scope("all")

    def __post_init__(self) -> None:
        check_finite("direction", self.direction)
        norm = float(self.direction.norm())
        if norm == 0:
            raise SteeringError("the direction to ablate is zero; fit it on texts that differ")
        if abs(norm - 1) > 1e-6:
            object.__setattr__(self, "direction", self.direction / norm)

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(
            Site(kind, layer) for layer in range(self.n_layers) for kind in ("resid_pre", "attn_out", "mlp_out")
        )

    def check_model(self, model: HookedModel) -> None:
        if self.n_layers != model.n_layers:
            raise SteeringError(
                f"DirectionalAblation covers {self.n_layers} layers, but {model.name} has {model.n_layers}; a "
                "direction is gone only if every layer is covered"
            )

    @cached_property
    def _removed(self) -> Float[Tensor, "d_model"]:
        return -self.direction

    def delta(
        self, x: Float[Tensor, "batch pos width"], site: Site, positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        return linear(x, self.direction.to(x)[None]) * self._removed.to(x)

    @classmethod
    def fit(
        cls,
        model: HookedModel,
        positive: Sequence[str],
        negative: Sequence[str],
        *,
        layer: int,
        pooling: Pooling = "last",
    ) -> "DirectionalAblation":
        """Ablate the difference in means at the input of `layer`, at the last token or the mean over tokens.

        To choose layer and token by their effect use `candidate_directions`, `score_candidates`, `select_direction`.
        Raises `NotApplicable` where the means do not differ.
        """
        site = Site("resid_pre", layer)
        direction = difference_in_means(model, positive, negative, [site], pooling)[0, 0].float()
        if not bool(direction.any()):
            raise NotApplicable(f"both kinds of texts have the same mean at {site}, so there is no direction to ablate")
        return cls(direction, model.n_layers)


def candidate_directions(
    model: HookedModel,
    positive: Sequence[str],
    negative: Sequence[str],
    *,
    n_positions: int = 1,
    layers: Sequence[int] | None = None,
) -> Float64[Tensor, "layer pos d_model"]:
    """Difference in means of block inputs at the last `n_positions` tokens (index -1 = last), float64, streamed."""
    sites = [Site("resid_pre", layer) for layer in (range(model.n_layers) if layers is None else layers)]
    return difference_in_means(model, positive, negative, sites, n_positions)


# --- which direction --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CandidateScore:
    """What one candidate does, as means over held-out texts; `position` counts from the end of the prompt (-1 = last).

    `refusal_ablated`: refusal score (log odds, nats) of harmful texts under ablation. `refusal_added`: that of harmless
    texts with the direction added once. `kl`: KL(p || p ablated) of the next token of harmless texts, nats.
    """

    layer: int
    position: int
    refusal_ablated: float
    refusal_added: float
    kl: float


def refusal_scores(
    model: HookedModel, texts: Sequence[str], refusal_tokens: Sequence[int]
) -> Float64[np.ndarray, "prompt"]:
    """log P(R) - log(1 - P(R)) of the next token after each text, R the set of tokens that open a refusal.

    The paper keeps harmful texts with a score above 0 and harmless ones below 0, before fitting.
    """
    return _log_odds(_next_token(model, texts), refusal_tokens).numpy()


def score_candidates(
    model: HookedModel,
    candidates: Float[Tensor, "layer pos d_model"],
    harmful: Sequence[str],
    harmless: Sequence[str],
    *,
    refusal_tokens: Sequence[int],
) -> tuple[CandidateScore, ...]:
    """Measure every candidate of `candidate_directions` (all layers) on held-out texts; three passes over them each.

    Candidates of zero are no directions and are left out: the input of layer 0 at a token that all texts share.
    """
    if len(candidates) != model.n_layers:
        raise SteeringError(f"candidates of {len(candidates)} layers, but {model.name} has {model.n_layers}; pass all")
    plain = _next_token(model, harmless)
    scores = []
    for layer, directions in enumerate(candidates.float()):
        for place, direction in enumerate(directions):
            if not bool(direction.any()):
                continue
            ablation = DirectionalAblation(direction, model.n_layers)
            addition = ContrastiveAddition(direction, layer, "resid_pre")
            ablated = _next_token(model, harmless, ablation)
            scores.append(
                CandidateScore(
                    layer=layer,
                    position=place - len(directions),
                    refusal_ablated=_mean_score(_next_token(model, harmful, ablation), refusal_tokens),
                    refusal_added=_mean_score(_next_token(model, harmless, addition), refusal_tokens),
                    kl=float((plain.exp() * (plain - ablated)).sum(dim=1).mean()),
                )
            )
    return tuple(scores)


def select_direction(
    scores: Sequence[CandidateScore],
    *,
    n_layers: int,
    layer_share: float = 0.8,
    kl_limit: float = 0.1,
    added_minimum: float = 0.0,
) -> CandidateScore:
    """The candidate whose ablation leaves the lowest refusal score, of those that pass the paper's three rules.

    layer < `layer_share` * `n_layers`; KL on harmless texts below `kl_limit`; refusal score of harmless texts above
    `added_minimum` when the direction is added. Raises, with the count that fails each rule, if none passes.
    """
    rules = {
        f"layer < {layer_share} * {n_layers}": [score.layer < layer_share * n_layers for score in scores],
        f"KL < {kl_limit}": [score.kl < kl_limit for score in scores],
        f"refusal when added > {added_minimum}": [score.refusal_added > added_minimum for score in scores],
    }
    passing = [score for score, *passed in zip(scores, *rules.values(), strict=True) if all(passed)]
    if not passing:
        failing = "; ".join(f"{len(scores) - sum(passed)} fail {rule}" for rule, passed in rules.items())
        raise SteeringError(f"none of {len(scores)} candidate directions passes ({failing}); relax a rule or add data")
    return min(passing, key=lambda score: score.refusal_ablated)


def _next_token(
    model: HookedModel, texts: Sequence[str], steering: Steering | None = None
) -> Float64[Tensor, "prompt vocab"]:
    """Log probabilities of the token after each text, plain or steered at every position."""
    pieces = []
    with nullcontext() if steering is None else steer(model, steering, 1.0, "all"):
        for start in range(0, len(checked_texts(texts)), BATCH):
            logits = model.logits(model.tokenize(texts[start : start + BATCH], side="left"), last_only=True)
            pieces.append(logits[:, 0].double().log_softmax(dim=-1).cpu())
    return torch.cat(pieces)


def _log_odds(
    log_probabilities: Float64[Tensor, "prompt vocab"], refusal_tokens: Sequence[int]
) -> Float64[Tensor, "prompt"]:
    n_tokens = log_probabilities.shape[1]
    chosen = sorted({int(token) for token in refusal_tokens})
    if not chosen or not 0 <= chosen[0] <= chosen[-1] < n_tokens or len(chosen) == n_tokens:
        raise SteeringError(
            f"refusal_tokens must be some, not all, of the ids 0 to {n_tokens - 1}, given {list(refusal_tokens)[:5]}"
        )
    is_refusal = torch.zeros(n_tokens, dtype=torch.bool)
    is_refusal[chosen] = True
    inside, outside = log_probabilities[:, is_refusal], log_probabilities[:, ~is_refusal]
    return inside.logsumexp(dim=1) - outside.logsumexp(dim=1)


def _mean_score(log_probabilities: Float64[Tensor, "prompt vocab"], refusal_tokens: Sequence[int]) -> float:
    return float(_log_odds(log_probabilities, refusal_tokens).mean())
