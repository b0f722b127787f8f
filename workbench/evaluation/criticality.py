"""Which dimensions a domain needs: rank by masking on *identify*, measure on *test* and on exam items, in one call.

Two paths to the ranking. *Full*: every dimension is masked exactly. *Screened*: integrated gradients estimate all
dimensions, and only the best of every domain are masked exactly (`estimate_masking`, `screened_masking`). What is then
reported, the drop of the rank-1, 10, 100 dimension as in the table of Roh, Cho, Kim (2026, arXiv 2603.00029), is
measured exactly on passages that took no part in the ranking. Random dimensions as controls, the three mask modes and
the exam's log-odds are ours.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float64

from workbench.activations import stream
from workbench.dimensions.criteria import NEUTRAL
from workbench.dimensions.experiments import TOKEN_READINGS, Criticality, CriticalityPlan, largest_of, ranking
from workbench.evaluation.attribution import estimate_masking, screened_masking
from workbench.evaluation.masking import mask_choices, mask_dimensions
from workbench.evaluation.replacements import Replacement, make_replacement
from workbench.models import HookedModel
from workbench.records import Activations, ChoiceItem, ChoiceMasking, MaskingResult, MaskMode, Prompt, Split

Progress = Callable[[int, int], None]
PLANS = {
    "full": CriticalityPlan("full", exhaustive=("zero",), n_identify=24, n_test=24, n_items=24),
    "screened": CriticalityPlan("screened", n_identify=24, n_test=24, n_items=24),
    "quick": CriticalityPlan(
        "quick",
        modes=("zero", "mean"),
        ranked=("zero",),
        n_identify=4,
        n_test=4,
        n_items=3,
        m=12,
        n_largest=2,
        n_random=0,
        n_groups=1,
        n_points=1,
    ),
}
HIGH_NORM = 10.0  # times the median norm of the tokens of the same passage and layer
STEPS = 1000  # of the progress bar
CHOICE_LENGTH = 0.75  # of a choice of an exam item with its question, in passages


def measure_criticality(
    model: HookedModel,
    prompts: Sequence[Prompt],
    items: Sequence[ChoiceItem] = (),
    *,
    plan: CriticalityPlan = PLANS["screened"],
    also: Sequence[int] = (),
    seed: int = 0,
    truncate: bool = False,
    progress: Progress | None = None,
) -> Criticality:
    """Rank the dimensions that every domain needs, and measure what masking them costs on held-out text.

    `also` are dimensions measured on *test* in the modes zero and mean whatever their rank. Text of no domain
    ("neutral") takes no part, nor do items of domains without passages. `seed` draws the controls, deals the groups of
    the estimate and draws what is resampled. Raises where a domain has fewer than two passages to identify or test on.
    """
    plan = fit_plan(plan, model.d_model)
    identify, test = (sample_prompts(prompts, split, getattr(plan, f"n_{split}")) for split in ("identify", "test"))
    domains = tuple(dict.fromkeys(prompt.domain for prompt in identify))
    chosen = sample_items(items, domains, plan.n_items)
    magnitudes = token_magnitudes(model, identify, truncate=truncate)
    largest = largest_of(magnitudes, plan.n_largest)
    random = tuple(np.random.default_rng(seed).permutation(model.d_model)[: plan.n_random].tolist())
    meter = _Meter(planned_costs(plan, prompts, items, model.d_model, n_also=len(also)), progress)
    options: dict[str, Any] = {"seed": seed, "truncate": truncate}
    sources = {mode: make_replacement(model, mode, identify, identify, **options) for mode in plan.modes}
    estimates: dict[MaskMode, MaskingResult] = {}
    measured: dict[MaskMode, MaskingResult] = {}
    for mode in plan.ranked:
        estimates[mode] = _estimate(model, identify, plan, sources[mode], meter, options)
        measured[mode] = _identify(model, identify, plan, estimates[mode], largest, sources[mode], meter, options)
    orders: dict[MaskMode, dict[str, tuple[int, ...]]] = {
        mode: ranking(measured[mode], estimates[mode]) for mode in plan.ranked
    }
    found: dict[MaskMode, MaskingResult] = {}
    exam: dict[MaskMode, ChoiceMasking] = {}
    for mode in plan.modes:
        own = _ranked_dimensions(plan, orders, mode, domains)
        everywhere = {*random, *(also if mode != "resample" else ()), *(largest if mode != "resample" else ())}
        if mode == "zero":  # specificity compares domains, so every domain loses the dimensions of all
            everywhere |= {dimension for dimensions in own.values() for dimension in dimensions}
        wanted = {domain: sorted({*own[domain], *everywhere}) for domain in domains}
        step = meter.step(f"test {mode}")
        found[mode] = mask_dimensions(model, test, wanted, mode=mode, reference=sources[mode], progress=step, **options)
        if chosen:
            asked = {domain: sorted({*own[domain], *random}) for domain in {item.domain for item in chosen}}
            exam[mode] = _exam(model, chosen, asked, mode, sources[mode], seed, meter)
    meter.finish()
    parts = (estimates, measured, found, exam)
    return Criticality(plan, model.d_model, domains, random, _cost(*parts), magnitudes, *parts)


def fit_plan(plan: CriticalityPlan, d_model: int) -> CriticalityPlan:
    """The plan with its counts bounded by the width of the model; ranks that the model does not have are left out."""
    return replace(
        plan,
        k=min(plan.k, d_model),
        m=min(plan.m, d_model),
        n_largest=min(plan.n_largest, d_model),
        n_random=min(plan.n_random, d_model),
        n_groups=min(plan.n_groups, d_model),
        ranks=tuple(rank for rank in plan.ranks if rank <= d_model),
    )


def planned_costs(
    plan: CriticalityPlan, prompts: Sequence[Prompt], items: Sequence[ChoiceItem], d_model: int, *, n_also: int = 0
) -> dict[str, float]:
    """Forward passes per step, in passages; an upper bound, as domains may share dimensions."""
    plan = fit_plan(plan, d_model)
    n_identify, n_test = (
        len(sample_prompts(prompts, split, getattr(plan, f"n_{split}"))) for split in ("identify", "test")
    )
    domains = tuple(dict.fromkeys(prompt.domain for prompt in prompts if prompt.domain != NEUTRAL))
    chosen = sample_items(items, domains, plan.n_items)
    n_rows = CHOICE_LENGTH * sum(len(item.choices) for item in chosen)
    costs = {}
    for mode in plan.ranked:
        costs[f"estimate {mode}"] = n_identify * (4.0 + 3.0 * plan.n_groups * (plan.n_points - 1))
        n_masked = d_model if mode in plan.exhaustive else plan.m + 2 * plan.n_largest
        costs[f"identify {mode}"] = n_identify * (1.0 + n_masked)
    for mode in plan.modes:
        n_own = len(plan.ranks) * (2 if mode in plan.ranked and mode != "zero" else 1)
        n_everywhere = plan.n_random + (0 if mode == "resample" else n_also + 2 * plan.n_largest)
        n_masked = n_everywhere + n_own * (len(domains) if mode == "zero" else 1)
        costs[f"test {mode}"] = n_test * (1.0 + min(n_masked, d_model))
        if chosen:
            costs[f"exam {mode}"] = n_rows * (1.0 + n_own + plan.n_random)
    return costs


def sample_prompts(prompts: Sequence[Prompt], split: Split, n: int | None) -> list[Prompt]:
    """The first n passages of every domain in a split (None: all), text of no domain left out.

    Raises where a domain has fewer than two: one passage has no interval.
    """
    groups: dict[str, list[Prompt]] = {prompt.domain: [] for prompt in prompts if prompt.domain != NEUTRAL}
    for prompt in prompts:
        if prompt.domain != NEUTRAL and prompt.split == split:
            groups[prompt.domain].append(prompt)
    if not groups:
        raise ValueError("there are no passages of any domain; check the corpus")
    for domain, own in groups.items():
        if len(own) < 2:
            raise ValueError(
                f"domain {domain!r} has {len(own)} passages in split {split!r}, too few for an interval; add documents"
            )
    return [prompt for own in groups.values() for prompt in own[:n]]


def sample_items(items: Sequence[ChoiceItem], domains: Iterable[str], n: int | None) -> list[ChoiceItem]:
    """The first n items of *test* of every domain (None: all)."""
    own = {domain: [item for item in items if (item.domain, item.split) == (domain, "test")][:n] for domain in domains}
    return [item for chosen in own.values() for item in chosen]


def token_magnitudes(
    model: HookedModel, prompts: Sequence[Prompt], *, truncate: bool = False
) -> dict[str, Float64[np.ndarray, "domain d_model"]]:
    """Mean magnitude of every dimension over layers and some of the tokens of a domain, for every token reading.

    Passages count alike. A token is of high norm where its norm at a layer exceeds ten times the median norm of the
    passage at that layer; such tokens and the first are left out of `without high-norm tokens`.
    """
    domains = tuple(dict.fromkeys(prompt.domain for prompt in prompts))
    sums = {name: np.zeros((len(domains), model.d_model)) for name in TOKEN_READINGS}
    for batch in stream(model, prompts, model.residual_sites(), truncate=truncate):
        for index in batch.prompt_index.unique().tolist():
            for name, magnitude in _passage_magnitudes(batch, index).items():
                sums[name][domains.index(batch.domain)] += magnitude
    counts = np.array([sum(prompt.domain == domain for prompt in prompts) for domain in domains])
    return {name: total / counts[:, None] for name, total in sums.items()}


def _passage_magnitudes(batch: Activations, index: int) -> dict[str, Float64[np.ndarray, "d_model"]]:
    of_passage = batch.prompt_index == index
    values = batch.values[:, of_passage].float().abs()
    is_first = (batch.positions[of_passage] == 0).expand(values.shape[:2])
    norms = values.norm(dim=-1)
    is_high = norms > HIGH_NORM * norms.median(dim=1, keepdim=True).values
    kept = dict(zip(TOKEN_READINGS, (~is_first, is_first | True, ~(is_first | is_high), is_first), strict=True))
    found = {}
    for name, mask in kept.items():
        weight = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)
        found[name] = (values * weight[..., None]).sum(dim=1).mean(dim=0).double().cpu().numpy()
    return found


def _estimate(
    model: HookedModel,
    identify: Sequence[Prompt],
    plan: CriticalityPlan,
    source: Replacement,
    meter: "_Meter",
    options: Mapping[str, Any],
) -> MaskingResult:
    return estimate_masking(
        model,
        identify,
        mode=source.mode,
        n_groups=plan.n_groups,
        n_points=plan.n_points,
        reference=source,
        progress=meter.step(f"estimate {source.mode}"),
        **options,
    )


def _identify(
    model: HookedModel,
    identify: Sequence[Prompt],
    plan: CriticalityPlan,
    estimate: MaskingResult,
    largest: Sequence[int],
    source: Replacement,
    meter: "_Meter",
    options: Mapping[str, Any],
) -> MaskingResult:
    step = meter.step(f"identify {source.mode}")
    if source.mode in plan.exhaustive:
        return mask_dimensions(model, identify, mode=source.mode, reference=source, progress=step, **options)
    return screened_masking(
        model, identify, estimate, m=plan.m, everywhere=largest, reference=source, progress=step, **options
    )


def _ranked_dimensions(
    plan: CriticalityPlan,
    orders: Mapping[MaskMode, Mapping[str, Sequence[int]]],
    mode: MaskMode,
    domains: Sequence[str],
) -> dict[str, set[int]]:
    """The dimensions at the asked ranks of every domain: those of zero masking, and those of the mode's own ranking."""
    used = [orders[name] for name in dict.fromkeys(("zero", mode)) if name in orders]
    return {domain: {order[domain][rank - 1] for order in used for rank in plan.ranks} for domain in domains}


def _exam(
    model: HookedModel,
    items: Sequence[ChoiceItem],
    asked: Mapping[str, Sequence[int]],
    mode: MaskMode,
    source: Replacement,
    seed: int,
    meter: "_Meter",
) -> ChoiceMasking:
    step = meter.step(f"exam {mode}")
    return mask_choices(model, items, asked, mode=mode, reference=source, seed=seed, progress=step)


def _cost(
    estimates: Mapping[MaskMode, MaskingResult],
    measured: Mapping[MaskMode, MaskingResult],
    test: Mapping[MaskMode, MaskingResult],
    exam: Mapping[MaskMode, ChoiceMasking],
) -> float:
    """Forward passes of one passage or choice; a screened result's cost holds that of its estimate."""
    results = [*measured.values(), *test.values()]
    apart = [estimates[mode] for mode, result in measured.items() if len(result.dimensions) == result.d_model]
    passes = sum(result.cost * len(result.prompts) for result in (*results, *apart))
    for result in exam.values():
        known = np.isfinite(result.masked).sum() + result.baseline.size
        passes += float(known)
    return float(passes)


class _Meter:
    """One progress bar over steps of known weight."""

    def __init__(self, costs: Mapping[str, float], progress: Progress | None) -> None:
        self.costs = costs
        self.total = sum(costs.values())
        self.before = 0.0
        self.current = ""
        self.progress = progress

    def step(self, name: str) -> Progress:
        """The progress hook of one step; steps are taken in order, those left out count as done."""
        self.before += self.costs.get(self.current, 0.0)
        self.current = name
        return self._advance

    def _advance(self, done: int, total: int) -> None:
        share = (self.before + self.costs.get(self.current, 0.0) * done / max(total, 1)) / self.total
        self._tell(min(round(STEPS * share), STEPS - 1))

    def finish(self) -> None:
        """All is done."""
        self._tell(STEPS)

    def _tell(self, done: int) -> None:
        if self.progress is not None:
            self.progress(done, STEPS)
