"""What methods are fitted on: the data of a task, a corpus whose rows are collected, or what the command line names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar
from zlib import crc32

import numpy as np
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from workbench.activations import collect
from workbench.corpus import draw_some
from workbench.interventions.contrast_prompts import ContrastPrompt, same_length
from workbench.interventions.directions import Pooling, domain_difference, domain_dimensions
from workbench.interventions.head_scores import HeadScores, head_scores
from workbench.interventions.iti import HeadProbes, probe_heads
from workbench.interventions.style_heads import Exchange, PersonaActivations, persona_activations
from workbench.models import HookedModel
from workbench.records import NotApplicable, Pair, PooledRows, Prompt, Selection

Item = TypeVar("Item")
Value = TypeVar("Value")
WANTED, OTHER = "wanted", "other"


@dataclass(frozen=True)
class FittingData:
    """What methods are fitted on, from *identify* only; a field that a task cannot fill is empty.

    `positive` and `negative` are texts that do and do not show what is wanted (not paired); `negative_domains` names
    the domain of each negative text, where they are of several. `pairs` are the same situation both ways, differing at
    the end; `contrast_prompts` have two answers of one token each; exchanges are prompts with responses that do, and do
    not, show it.
    """

    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    pairs: tuple[Pair, ...] = ()
    contrast_prompts: tuple[ContrastPrompt, ...] = ()
    positive_exchanges: tuple[Exchange, ...] = ()
    negative_exchanges: tuple[Exchange, ...] = ()
    negative_domains: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class FitContext:
    """What all methods are fitted on, and what they share: the model, the data, a seed.

    Directions point from what is not wanted to what is. At most `n_fit` texts, pairs or exchanges of each side are used
    (all by default), drawn by the seed; learned scaling takes `n_optimisation_prompts` of the prompts and
    `n_optimisation_steps` steps (by default those of each method's own objective). `collected` are the pooled rows of a
    corpus, if there are any: `domain` is then the wanted one, and its *identify* rows are taken against all others.
    """

    model: HookedModel
    data: FittingData = FittingData()
    collected: PooledRows | None = None
    domain: str = WANTED
    seed: int = 0
    pooling: Pooling = "mean"
    n_fit: int | None = None
    n_optimisation_prompts: int | None = None
    n_optimisation_steps: int | None = None
    _kept: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def rows(self) -> PooledRows:
        """Pooled rows: those collected before, or of the texts, the wanted ones as one domain."""
        if self.collected is not None:
            return self.collected
        if not self.data.positive or not self.data.negative:
            raise NotApplicable("there are no contrasting texts to fit on")
        domains = self.data.negative_domains or (OTHER,) * len(self.data.negative)
        texts = [(text, self.domain) for text in self.positive]
        texts += self._some(list(zip(self.data.negative, domains, strict=True)))
        prompts = [Prompt(text, domain, f"{domain}/{index}", "identify") for index, (text, domain) in enumerate(texts)]
        return collect(self.model, prompts, n_top=1, poolings=("mean", "last", "mean_abs"), truncate=True)[1]

    @cached_property
    def directions(self) -> Float[Tensor, "layer d_model"]:
        """Per layer: mean of the wanted texts minus mean of the others, in activation units."""
        return domain_difference(self.rows, self.domain, pooling=self.pooling)

    @cached_property
    def pooled(self) -> Float32[np.ndarray, "text layer d_model"]:
        """The *identify* rows, and with `is_wanted` which of them are wanted: what labels can be permuted over."""
        return self.rows.pooled(self.pooling)[self.rows.where(split="identify")]

    @cached_property
    def is_wanted(self) -> Bool[np.ndarray, "text"]:
        return self.rows.where(domain=self.domain)[self.rows.where(split="identify")]

    def dimensions(self, k: int, selection: Selection = "magnitude") -> tuple[int, ...]:
        """At most k domain-critical dimensions of the wanted texts; raises `NotApplicable` where there are none."""
        k = min(k, self.model.d_model)
        return self.shared(
            ("dimensions", k, selection), lambda: domain_dimensions(self.rows, self.domain, k, selection)
        )

    @cached_property
    def positive(self) -> tuple[str, ...]:
        return tuple(self._some(self.data.positive))

    @cached_property
    def negative(self) -> tuple[str, ...]:
        return tuple(self._some(self.data.negative))

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        return tuple(self._some(self.data.pairs))

    @cached_property
    def contrast_prompts(self) -> tuple[ContrastPrompt, ...]:
        return tuple(self._some(self.data.contrast_prompts)[: self.n_optimisation_prompts])

    @cached_property
    def prompts_of_one_length(self) -> tuple[ContrastPrompt, ...]:
        return same_length(self.model, self.contrast_prompts)

    @cached_property
    def probes(self) -> HeadProbes:
        """Probes of all heads on the pairs."""
        return probe_heads(self.model, self.pairs, seed=self.seed)

    @cached_property
    def persona(self) -> PersonaActivations:
        """Activations of the exchanges of both kinds, pooled over response tokens."""
        data, some = self.data, slice(0, self.n_fit)
        return persona_activations(self.model, data.positive_exchanges[some], data.negative_exchanges[some])

    @cached_property
    def head_scores(self) -> HeadScores:
        """Shares of all heads; the intervals, which no method reads, are of a single resample."""
        return head_scores(self.model, self.persona, n_resamples=1)

    @property
    def n_heads(self) -> int:
        """The heads of all layers."""
        return self.model.n_layers * self.model.n_heads

    def shared(self, key: tuple[Any, ...], make: Callable[[], Value]) -> Value:
        """What `make` returns, made once for a key."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def draw(self, number: int) -> np.random.Generator:
        """The generator of one random draw of a control."""
        return np.random.default_rng([self.seed, number, 7 if self.collected is None else crc32(self.domain.encode())])

    def _some(self, items: Sequence[Item]) -> list[Item]:
        """At most `n_fit` items, drawn by the seed, in their own order."""
        return [items[index] for index in draw_some(len(items), self.n_fit, [self.seed, 11])]
