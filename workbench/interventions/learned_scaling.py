"""What the three methods of Activation Scaling share: two-answer items, their objective, and its minimisation.

Source: arXiv 2410.04962. Known from the paper: a dial beta in [-1, 1] that pushes towards the correct answer at +1 and
towards the wrong one at -1, and an objective of three terms: effectiveness (a margin on the logit difference, both
ways), faithfulness (other tokens keep their distribution), minimality (an L1 penalty). The exact expressions are ours.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import relu

from workbench.interventions.base import Scope, Steering, SteeringError, steer
from workbench.models import HookedModel
from workbench.records import Site, Tokens


class Dial(Steering):
    """One row of learned values per site in `site_names`; strength is the paper's beta."""

    site_names: tuple[str, ...]

    published_scope: ClassVar[Scope] = Scope("all")

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
    def share_nonzero(self) -> float:
        """Share of the learned values of magnitude above 1e-3: the smaller, the more localised."""
        return float((self.values.abs() > 1e-3).float().mean())


AnyDial = TypeVar("AnyDial", bound=Dial)


@dataclass(frozen=True)
class DialItem:
    """A prompt with two answers of one token each: beta = +1 should say `correct`, beta = -1 `wrong`."""

    prompt: str
    correct: str
    wrong: str

    def __post_init__(self) -> None:
        if self.correct == self.wrong:
            raise ValueError(f"correct and wrong answer are the same: {self.correct!r}")


@dataclass(frozen=True)
class Objective:
    """Weights of the three terms, and how long to minimise.

    `margin` is in logits. Training stops early when every item flips with half the margin both ways at a loss that has
    not fallen by more than 0.1 % over `patience` steps.
    """

    margin: float = 2.0
    faithfulness: float = 1.0
    minimality: float = 1e-2
    rate: float = 1e-2
    steps: int = 300
    patience: int = 20


@dataclass(frozen=True)
class DialReport:
    """How a fitted dial does on a set of items, all as means over items.

    `flips_up`, `flips_down`: share of items whose larger answer logit is the correct one at beta = +1, the wrong one
    at -1. `difference_*`: logit of correct minus wrong at beta = +1, 0, -1. `kl`: nats between the distributions over
    all other tokens, unsteered to steered, mean of both ends. `top_kept`: share of items whose most likely other token
    stays the same. `n_steps`: steps of training (0 when only evaluated).
    """

    n_items: int
    flips_up: float
    flips_down: float
    difference_up: float
    difference_zero: float
    difference_down: float
    kl: float
    top_kept: float
    n_steps: int = 0


@dataclass(frozen=True)
class DialBatch:
    """Items as one batch of tokens with the ids of their answers."""

    tokens: Tokens
    correct: Int[Tensor, "item"]
    wrong: Int[Tensor, "item"]


def dial_batch(model: HookedModel, items: Sequence[DialItem], *, equal_length: bool) -> DialBatch:
    """Tokenise items; raises where an answer is not a single token or, if asked, where prompts differ in length."""
    if not items:
        raise SteeringError("no items to train on; pass at least one prompt with a correct and a wrong answer")
    tokens = model.tokenize([item.prompt for item in items], side="left")
    if equal_length and len(set(tokens.lengths.tolist())) > 1:
        counts = sorted(set(tokens.lengths.tolist()))
        raise SteeringError(
            f"prompts have {counts[0]} to {counts[-1]} tokens, but this method is tied to positions; choose prompts of "
            "one length, or use DynScalar"
        )
    correct, wrong = (
        torch.tensor([_single_token(model, item.prompt, getattr(item, side)) for item in items], device=model.device)
        for side in ("correct", "wrong")
    )
    return DialBatch(tokens, correct, wrong)


def _single_token(model: HookedModel, prompt: str, answer: str) -> int:
    ids = model.text.after(prompt, answer)
    if len(ids) != 1:
        raise SteeringError(f"answers must be single tokens, {answer!r} has {len(ids)}; choose another")
    return ids[0]


def dial_sites(model: HookedModel, layers: Sequence[int] | None) -> tuple[Site, ...]:
    """Attention and MLP output of the given layers, by default of all."""
    chosen = range(model.n_layers) if layers is None else layers
    return tuple(Site(kind, layer) for layer in chosen for kind in ("attn_out", "mlp_out"))


def minimise(
    model: HookedModel,
    batch: DialBatch,
    parameters: Float[Tensor, "..."],
    build: Callable[[Tensor], Steering],
    objective: Objective,
) -> tuple[Float[Tensor, "..."], int]:
    """Adam on the parameters of `build(parameters)` through hooks on the frozen model; returns them and the steps."""
    values = parameters.clone().to(model.device).requires_grad_()
    optimiser = torch.optim.Adam([values], lr=objective.rate)
    reference = model.logits(batch.tokens, last_only=True)[:, 0].float().clone()
    best, since = float("inf"), 0
    for step in range(1, objective.steps + 1):
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
            return values.detach().cpu(), step
    return values.detach().cpu(), objective.steps


def fit_dial(
    model: HookedModel,
    items: Sequence[DialItem],
    build: Callable[[Tensor, tuple[str, ...]], AnyDial],
    start: Callable[[int, int], Tensor],
    *,
    layers: Sequence[int] | None,
    objective: Objective,
    equal_length: bool,
) -> tuple[AnyDial, DialReport]:
    """Learn `build(values, site names)` from the values `start(number of sites, tokens of the longest prompt)`.

    Returns the method and how it does on the items that it was learned on.
    """
    batch = dial_batch(model, items, equal_length=equal_length)
    names = tuple(str(site) for site in dial_sites(model, layers))
    zeros = start(len(names), batch.tokens.ids.shape[1])
    values, steps = minimise(model, batch, zeros, lambda values: build(values, names), objective)
    fitted = build(values, names)
    return fitted, evaluate_dial(model, fitted, items, n_steps=steps)


def evaluate_dial(model: HookedModel, steering: Steering, items: Sequence[DialItem], *, n_steps: int = 0) -> DialReport:
    """Flip rates both ways, faithfulness and logit differences of a fitted dial on items (held-out ones, usually)."""
    batch = dial_batch(model, items, equal_length=False)
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
    return DialReport(
        n_items=len(items),
        flips_up=float((_difference(up, batch) > 0).float().mean()),
        flips_down=float((_difference(down, batch) < 0).float().mean()),
        difference_up=float(_difference(up, batch).mean()),
        difference_zero=float(_difference(reference, batch).mean()),
        difference_down=float(_difference(down, batch).mean()),
        kl=float(kl.mean()),
        top_kept=float(torch.stack(kept).mean()),
        n_steps=n_steps,
    )


def _logits(
    model: HookedModel, steering: Steering, beta: float, batch: DialBatch, *, with_gradients: bool
) -> Float[Tensor, "item vocab"]:
    with steer(model, steering, beta, Scope("all")):
        return model.logits(batch.tokens, last_only=True, with_gradients=with_gradients)[:, 0].float()


def _difference(logits: Float[Tensor, "item vocab"], batch: DialBatch) -> Float[Tensor, "item"]:
    rows = torch.arange(len(logits), device=logits.device)
    return logits[rows, batch.correct] - logits[rows, batch.wrong]


def _others(logits: Float[Tensor, "item vocab"], batch: DialBatch) -> Float[Tensor, "item vocab"]:
    """Logits with both answers left out (a large negative number keeps gradients finite)."""
    answers = torch.stack([batch.correct, batch.wrong], dim=1)
    return logits.scatter(1, answers, -1e9)


def _other_kl(
    reference: Float[Tensor, "item vocab"], logits: Float[Tensor, "item vocab"], batch: DialBatch
) -> Float[Tensor, "item"]:
    before = _others(reference, batch).log_softmax(-1)
    after = _others(logits, batch).log_softmax(-1)
    return (before.exp() * (before - after)).sum(-1)
