"""Activation Scaling and its two relatives: learned edits of attention and MLP outputs, with a strength of both signs.

    ActivationScaling (ActivScalar)   h <- h + beta * alpha[site, position] * h
    SteerVec                          h <- h + beta * v[site, position]
    DynScalar                         h <- h + beta * (g[site] . h / rms(h)) h        beta in [-1, 1] is the strength

Source: arXiv 2410.04962 (Eq. 5 and 10, as cited by others; the paper's code was not seen). Known from the paper: beta
pushes towards the correct answer at +1 and towards the wrong one at -1, and the objective has three terms:
effectiveness (a margin on the logit difference, both ways), faithfulness (other tokens keep their distribution),
minimality (an L1 penalty). Ours: the exact expressions, Adam, early stopping, the form of SteerVec, and for DynScalar
no bias, no squashing, one probe per site shared by all positions, and h divided by its root mean square.

The values of the first two belong to positions, so prompts must have the length of the training prompts. A
multiplication cannot create a direction that is absent from h. SteerVec has d_model times the parameters of
ActivationScaling, and its penalty depends on the scale of the activations: compare them at equal size of the edit.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, TypeVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear, pad, relu

from workbench.interventions.base import Scope, Steering, SteeringError, at_positions, steer
from workbench.interventions.contrast_prompts import ContrastPrompt
from workbench.interventions.directions import checked_layers
from workbench.models import HookedModel
from workbench.records import Site, Tokens


@dataclass(frozen=True)
class Objective:
    """Weights of the three terms, and how long to minimise.

    `margin` is in logits. Training stops early when every prompt flips with half the margin both ways at a loss that
    has not fallen by more than 0.1 % over `patience` steps.
    """

    margin: float = 2.0
    faithfulness: float = 1.0
    minimality: float = 1e-2
    rate: float = 1e-2
    steps: int = 300
    patience: int = 20


Scaling = TypeVar("Scaling", bound="LearnedScaling")


class LearnedScaling(Steering):
    """One row of learned values per site in `site_names`; strength is the paper's beta."""

    site_names: tuple[str, ...]

    published_scope: ClassVar[Scope] = Scope("all")
    default_objective: ClassVar[Objective] = Objective()

    @property
    @abstractmethod
    def values(self) -> Float[Tensor, "site ..."]:
        """What is learned."""

    def __post_init__(self) -> None:
        if len(self.site_names) != len(self.values):
            raise SteeringError(
                f"{len(self.values)} rows of values for {len(self.site_names)} sites; give one per site"
            )

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(Site.parse(name) for name in self.site_names)

    @cached_property
    def prepared(self) -> Float[Tensor, "site ..."]:
        """The learned values in the form in which `delta` reads them, made once."""
        return self.values

    def row(self, site: Site) -> Float[Tensor, "..."]:
        """What `delta` reads at one site."""
        return self.prepared[self.site_names.index(str(site))]

    @property
    def fraction_nonzero(self) -> float:
        """Fraction of the learned values of magnitude above 1e-3: the smaller, the more localised."""
        return float((self.values.abs() > 1e-3).float().mean())

    @staticmethod
    @abstractmethod
    def start(model: HookedModel, n_sites: int, n_tokens: int) -> Float[Tensor, "site ..."]:
        """Where the learning starts: zeros, for prompts of so many tokens."""

    @classmethod
    def fit(
        cls: type[Scaling],
        model: HookedModel,
        prompts: Sequence[ContrastPrompt],
        *,
        layers: Sequence[int] | None = None,
        objective: Objective | None = None,
    ) -> Scaling:
        """Learn the values on prompts, of equal length where they belong to positions; `evaluate_scaling` reports.

        At attention and MLP output of all layers, or of those given. Without an `objective` the method's own is taken.
        """
        batch = prompt_batch(model, prompts, equal_length=issubclass(cls, PerPosition))
        names = tuple(
            str(Site(kind, layer))
            for layer in (range(model.n_layers) if layers is None else checked_layers(layers))
            for kind in ("attn_out", "mlp_out")
        )
        zeros = cls.start(model, len(names), batch.tokens.ids.shape[1])

        def build(values: Tensor) -> Scaling:
            return cls(values, names)  # pyright: ignore[reportCallIssue] (every subclass has these two fields)

        return build(_minimise(model, batch, zeros, build, cls.default_objective if objective is None else objective))


class PerPosition(LearnedScaling):
    """Values that belong to absolute positions; positions beyond them are left alone."""

    @property
    def prompt_length(self) -> int:
        return self.values.shape[1]


@final
@dataclass(frozen=True, eq=False)
class ActivationScaling(PerPosition):
    """Scale the outputs at `site_names` by 1 + strength * alpha at each of the leading positions."""

    alpha: Float[Tensor, "site pos"]
    site_names: tuple[str, ...]

    @property
    def values(self) -> Float[Tensor, "site pos"]:
        return self.alpha

    @cached_property
    def prepared(self) -> Float[Tensor, "site row 1"]:
        return pad(self.alpha, (0, 1))[..., None]

    def delta(
        self, x: Float[Tensor, "batch pos width"], site: Site, positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        return at_positions(self.row(site).to(x), positions) * x

    def keep_top(self, n: int) -> "ActivationScaling":
        """The same with all but the `n` scalars of largest magnitude set to zero."""
        if not 1 <= n <= self.alpha.numel():
            raise SteeringError(f"cannot keep {n} of {self.alpha.numel()} scalars; pass n from 1 to that number")
        kept = torch.zeros_like(self.alpha).flatten()
        top = self.alpha.flatten().abs().topk(n).indices
        kept[top] = self.alpha.flatten()[top]
        return ActivationScaling(kept.view_as(self.alpha), self.site_names)

    @staticmethod
    def start(model: HookedModel, n_sites: int, n_tokens: int) -> Float[Tensor, "site pos"]:
        return torch.zeros(n_sites, n_tokens)


@final
@dataclass(frozen=True, eq=False)
class SteerVec(PerPosition):
    """Add strength * vectors[site, position] to the outputs at `site_names`, at the leading positions."""

    vectors: Float[Tensor, "site pos d_model"]
    site_names: tuple[str, ...]

    default_objective: ClassVar[Objective] = replace(Objective(), minimality=1e-4, rate=1e-2)

    @property
    def values(self) -> Float[Tensor, "site pos d_model"]:
        return self.vectors

    @cached_property
    def prepared(self) -> Float[Tensor, "site row d_model"]:
        return pad(self.vectors, (0, 0, 0, 1))

    def delta(
        self, x: Float[Tensor, "batch pos width"], site: Site, positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        return at_positions(self.row(site).to(x), positions).expand_as(x)

    @staticmethod
    def start(model: HookedModel, n_sites: int, n_tokens: int) -> Float[Tensor, "site pos d_model"]:
        return torch.zeros(n_sites, n_tokens, model.d_model)


@final
@dataclass(frozen=True, eq=False)
class DynScalar(LearnedScaling):
    """Scale the outputs at `site_names` by 1 + strength * (probe . h / rms(h)), at every position in scope."""

    probes: Float[Tensor, "site d_model"]
    site_names: tuple[str, ...]

    default_objective: ClassVar[Objective] = replace(Objective(), minimality=1e-3, rate=1e-3)

    @property
    def values(self) -> Float[Tensor, "site d_model"]:
        return self.probes

    @cached_property
    def prepared(self) -> Float[Tensor, "site 1 d_model"]:
        """Divided by the norm of h instead of its root mean square, sqrt(d_model) goes to the probe."""
        return (self.probes * math.sqrt(self.probes.shape[1]))[:, None]

    def delta(
        self, x: Float[Tensor, "batch pos width"], site: Site, positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return linear(x, self.row(site).to(x)) / norm.clamp(min=1e-6) * x

    @staticmethod
    def start(model: HookedModel, n_sites: int, n_tokens: int) -> Float[Tensor, "site d_model"]:
        return torch.zeros(n_sites, model.d_model)


# --- learning and evaluating -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScalingReport:
    """How a fitted method does on a set of prompts, as means over prompts.

    `flips_up`, `flips_down`: fraction of prompts whose larger answer logit is the correct one at beta = +1, the wrong
    one at -1. `difference_*`: logit of correct minus wrong at beta = +1, 0, -1. `kl`: nats between the distributions
    over all other tokens, unsteered to steered, mean of both ends. `top_kept`: fraction of prompts whose most likely
    other token stays the same.
    """

    n_prompts: int
    flips_up: float
    flips_down: float
    difference_up: float
    difference_zero: float
    difference_down: float
    kl: float
    top_kept: float


@dataclass(frozen=True)
class PromptBatch:
    """Prompts as one batch of tokens with the ids of their answers."""

    tokens: Tokens
    correct: Int[Tensor, "prompt"]
    wrong: Int[Tensor, "prompt"]


def prompt_batch(model: HookedModel, prompts: Sequence[ContrastPrompt], *, equal_length: bool) -> PromptBatch:
    """Tokenise prompts; raises where an answer is not a single token or, if asked, where prompts differ in length."""
    if not prompts:
        raise SteeringError("no prompts to train on; pass at least one prompt with a correct and a wrong answer")
    tokens = model.tokenize([prompt.prompt for prompt in prompts], side="left")
    if equal_length and len(set(tokens.lengths.tolist())) > 1:
        counts = sorted(set(tokens.lengths.tolist()))
        raise SteeringError(
            f"prompts have {counts[0]} to {counts[-1]} tokens, but this method is tied to positions; choose prompts of "
            "one length, or use DynScalar"
        )
    correct, wrong = (
        torch.tensor([_single_token(model, one.prompt, getattr(one, side)) for one in prompts], device=model.device)
        for side in ("correct", "wrong")
    )
    return PromptBatch(tokens, correct, wrong)


def _single_token(model: HookedModel, prompt: str, answer: str) -> int:
    ids = model.text.after(prompt, answer)
    if len(ids) != 1:
        raise SteeringError(f"answers must be single tokens, {answer!r} has {len(ids)}; choose another")
    return ids[0]


def _minimise(
    model: HookedModel,
    batch: PromptBatch,
    parameters: Float[Tensor, "..."],
    build: Callable[[Tensor], Steering],
    objective: Objective,
) -> Float[Tensor, "..."]:
    """Adam on the parameters of `build(parameters)` through hooks on the frozen model."""
    values = parameters.clone().to(model.device).requires_grad_()
    optimiser = torch.optim.Adam([values], lr=objective.rate)
    reference = model.logits(batch.tokens, last_only=True)[:, 0].float().clone()
    best, since = float("inf"), 0
    for _ in range(objective.steps):
        up, down = (_logits(model, build(values), beta, batch, with_gradients=True) for beta in (1.0, -1.0))
        gain_up, gain_down = _difference(up, batch), -_difference(down, batch)
        effect = (relu(objective.margin - gain_up) + relu(objective.margin - gain_down)).mean()
        damage = (_other_kl(reference, up, batch) + _other_kl(reference, down, batch)).mean() / 2
        loss = effect + objective.faithfulness * damage + objective.minimality * values.abs().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        since = 0 if loss.item() < best * 0.999 else since + 1
        best = min(best, loss.item())
        is_flipped = bool((torch.minimum(gain_up, gain_down) > objective.margin / 2).all())
        if since >= objective.patience and is_flipped:
            return values.detach().cpu()
    return values.detach().cpu()


def evaluate_scaling(model: HookedModel, steering: Steering, prompts: Sequence[ContrastPrompt]) -> ScalingReport:
    """Flip rates both ways, faithfulness and logit differences of a fitted method, usually on held-out prompts."""
    batch = prompt_batch(model, prompts, equal_length=False)
    wanted = steering.prompt_length
    if wanted is not None and bool((batch.tokens.lengths != wanted).any()):
        raise SteeringError(
            f"prompts have {int(batch.tokens.lengths.min())} to {int(batch.tokens.lengths.max())} tokens, but "
            f"{type(steering).__name__} was learned on prompts of {wanted}; choose prompts of that length, or DynScalar"
        )
    reference = model.logits(batch.tokens, last_only=True)[:, 0].float()
    up, down = (_logits(model, steering, beta, batch, with_gradients=False) for beta in (1.0, -1.0))
    kl = (_other_kl(reference, up, batch) + _other_kl(reference, down, batch)) / 2
    kept = [
        (_others(logits, batch).argmax(-1) == _others(reference, batch).argmax(-1)).float() for logits in (up, down)
    ]
    return ScalingReport(
        n_prompts=len(prompts),
        flips_up=float((_difference(up, batch) > 0).float().mean()),
        flips_down=float((_difference(down, batch) < 0).float().mean()),
        difference_up=float(_difference(up, batch).mean()),
        difference_zero=float(_difference(reference, batch).mean()),
        difference_down=float(_difference(down, batch).mean()),
        kl=float(kl.mean()),
        top_kept=float(torch.stack(kept).mean()),
    )


def _logits(
    model: HookedModel, steering: Steering, beta: float, batch: PromptBatch, *, with_gradients: bool
) -> Float[Tensor, "prompt vocab"]:
    with steer(model, steering, beta, Scope("all")):
        return model.logits(batch.tokens, last_only=True, with_gradients=with_gradients)[:, 0].float()


def _difference(logits: Float[Tensor, "prompt vocab"], batch: PromptBatch) -> Float[Tensor, "prompt"]:
    rows = torch.arange(len(logits), device=logits.device)
    return logits[rows, batch.correct] - logits[rows, batch.wrong]


def _others(logits: Float[Tensor, "prompt vocab"], batch: PromptBatch) -> Float[Tensor, "prompt vocab"]:
    """Logits with both answers left out (a large negative number keeps gradients finite)."""
    answers = torch.stack([batch.correct, batch.wrong], dim=1)
    return logits.scatter(1, answers, -1e9)


def _other_kl(
    reference: Float[Tensor, "prompt vocab"], logits: Float[Tensor, "prompt vocab"], batch: PromptBatch
) -> Float[Tensor, "prompt"]:
    before = _others(reference, batch).log_softmax(-1)
    after = _others(logits, batch).log_softmax(-1)
    return (before.exp() * (before - after)).sum(-1)
