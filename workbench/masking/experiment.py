"""Which dimensions a domain needs: rank by masking on *identify*, measure on *test* and on exam items, in one call.

Two paths to the ranking. *Full*: every dimension is masked exactly. *Screened*: integrated gradients estimate all
dimensions, and only the best of every domain are masked exactly (`estimate_masking`, `screened_masking`). What is then
reported, the loss increase of the rank-1, 10, 100 dimension as in the table of Roh, Cho, Kim (2026, arXiv 2603.00029),
is measured exactly on passages that took no part in the ranking. Random dimensions as controls, the three mask modes
and the exam's log-odds are ours. So are rankings that exclude the first token and tokens of high norm
(`EXCLUDING_SINKS`): they say whether a dimension is needed where domain text is, or only at the sink.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float64

from workbench.activations import stream
from workbench.dimensions.criteria import NEUTRAL
from workbench.interventions.mask import Replacement, has_high_norm, make_replacement
from workbench.masking.attribution import estimate_masking, screened_masking
from workbench.masking.measure import mask_choices, mask_dimensions
from workbench.masking.tables import TOKEN_SUBSETS, Criticality, CriticalityPlan, largest_of, ranking
from workbench.models import HookedModel
from workbench.records import Activations, ChoiceItem, ChoiceMasking, MaskingResult, MaskMode, Prompt, Split, TokenSet

Progress = Callable[[int, int], None]
PLANS = {
    "full": CriticalityPlan("full", exhaustive=("zero",), n_identify=24, n_test=24, n_items=24, n_excluding_sinks=8),
    "screened": CriticalityPlan("screened", n_identify=24, n_test=24, n_items=24),
    "quick": CriticalityPlan(
        "quick",
        modes=("zero", "mean"),
        ranked=("zero",),
        n_identify=4,
        n_test=4,
        n_items=3,
        m=16,
        n_largest=2,
        n_random=0,
        n_groups=1,
        n_points=1,
    ),
}
EXCLUDING_SINKS: tuple[tuple[TokenSet, TokenSet], ...] = (  # tokens masked, tokens whose losses count
    ("all tokens", "after the first token"),
    ("after the first token", "after the first token"),
    ("all tokens", "without high-norm tokens"),
    ("without high-norm tokens", "without high-norm tokens"),
)
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
    ("neutral") takes no part, nor do items of domains without passages. `seed` draws the controls, the groups of the
    estimate and what is resampled. Raises where a domain has fewer than two passages to identify or test on.
    """
    plan = fit_plan(plan, model.d_model)
    identify, test = (sample_prompts(prompts, split, getattr(plan, f"n_{split}")) for split in ("identify", "test"))
    domains = tuple(dict.fromkeys(prompt.domain for prompt in identify))
    if items and plan.masked_at != "all tokens":
        raise ValueError(f"exam items are masked at all tokens, the plan at {plan.masked_at!r}; leave the exam out")
    magnitudes = token_magnitudes(model, identify, truncate=truncate)
    largest = largest_of(magnitudes, plan.n_largest)
    random = tuple(np.random.default_rng(seed).permutation(model.d_model)[: plan.n_random].tolist())
    steps = _Steps(planned_costs(plan, prompts, items, model.d_model, n_also=len(also)), progress)
    options: dict[str, Any] = {"seed": seed, "truncate": truncate}
    sources: dict[MaskMode, Replacement] = {
        mode: make_replacement(model, mode, identify, identify, **options) for mode in plan.modes
    }
    work = _Work(model, plan, largest, sources, steps, options)
    sets = {"masked_at": plan.masked_at, "counted_at": plan.counted_at}
    ranked: dict[MaskMode, tuple[MaskingResult, MaskingResult]] = {
        mode: _rank(work, identify, mode, mode, sets, mode in plan.exhaustive) for mode in plan.ranked
    }
    chosen = sample_items(items, domains, plan.n_items)
    held_out = _hold_out(work, test, chosen, ranked, random, {*also, *largest})
    few = identify if plan.n_excluding_sinks == 0 else sample_prompts(identify, "identify", plan.n_excluding_sinks)
    pairs = [dict(zip(sets, pair, strict=True)) for pair in EXCLUDING_SINKS if plan.n_excluding_sinks]
    others = tuple(_rank(work, few, "zero", " ".join(pair.values()), pair) for pair in pairs)
    steps.finish()
    estimates: dict[MaskMode, MaskingResult] = {mode: estimate for mode, (estimate, _) in ranked.items()}
    measured: dict[MaskMode, MaskingResult] = {mode: result for mode, (_, result) in ranked.items()}
    cost = _cost(plan.exhaustive, estimates, measured, *held_out, others)
    found = (estimates, measured, *held_out, others)
    return Criticality(plan, model.d_model, domains, random, cost, magnitudes, *found)


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
    """Forward passes per step, in passages (a backward pass, of steps that `estimate`, as two).

    An upper bound, as domains may share dimensions.
    """
    plan = fit_plan(plan, d_model)
    n_identify, n_test = (
        len(sample_prompts(prompts, split, getattr(plan, f"n_{split}"))) for split in ("identify", "test")
    )
    domains = tuple(dict.fromkeys(prompt.domain for prompt in prompts if prompt.domain != NEUTRAL))
    chosen = sample_items(items, domains, plan.n_items)
    n_rows = exam_passages(chosen)
    costs, per_estimate = {}, 3.0 + 3.0 * plan.n_groups * (plan.n_points - 1)
    for mode in plan.ranked:
        costs[f"estimate {mode}"] = n_identify * per_estimate
        n_masked = d_model if mode in plan.exhaustive else plan.m
        costs[f"identify {mode}"] = n_identify * (1.0 + n_masked)
    for mode in plan.modes:
        n_own = len(plan.ranks) * (2 if mode in plan.ranked and mode != "zero" else 1)
        n_everywhere = plan.n_random + (0 if mode == "resample" else n_also + 2 * plan.n_largest)
        n_masked = n_everywhere + n_own * (len(domains) if mode == "zero" else 1)
        costs[f"test {mode}"] = n_test * (1.0 + min(n_masked, d_model))
        if chosen:
            costs[f"exam {mode}"] = n_rows * (1.0 + n_own + plan.n_random)
    for masked_at, counted_at in EXCLUDING_SINKS if plan.n_excluding_sinks else ():
        n_passages = plan.n_excluding_sinks * len(domains)
        costs[f"estimate {masked_at} {counted_at}"] = n_passages * per_estimate
        costs[f"identify {masked_at} {counted_at}"] = n_passages * (1.0 + plan.m)
    return costs


def exam_passages(items: Sequence[ChoiceItem]) -> float:
    """What one pass over all choices of exam items costs, in passages."""
    return CHOICE_LENGTH * sum(len(item.choices) for item in items)


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
                f"domain {domain!r}, split {split!r}: an interval needs at least two passages, given {len(own)}; add "
                "documents"
            )
    return [prompt for own in groups.values() for prompt in own[:n]]


def sample_items(items: Sequence[ChoiceItem], domains: Iterable[str], n: int | None) -> list[ChoiceItem]:
    """The first n items of *test* of every domain (None: all)."""
    own = {domain: [item for item in items if (item.domain, item.split) == (domain, "test")][:n] for domain in domains}
    return [item for chosen in own.values() for item in chosen]


def token_magnitudes(
    model: HookedModel, prompts: Sequence[Prompt], *, truncate: bool = False
) -> dict[str, Float64[np.ndarray, "domain d_model"]]:
    """Mean magnitude of every dimension over layers and some of the tokens of a domain, for every subset of tokens.

    Passages count alike. A token is of high norm where its norm at a layer exceeds ten times the median norm of the
    passage at that layer; such tokens and the first are left out of `without high-norm tokens`.
    """
    domains = tuple(dict.fromkeys(prompt.domain for prompt in prompts))
    sums = {name: np.zeros((len(domains), model.d_model)) for name in TOKEN_SUBSETS}
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
    is_high = has_high_norm(norms)
    kept = dict(zip(TOKEN_SUBSETS, (~is_first, is_first | True, ~(is_first | is_high), is_first), strict=True))
    found = {}
    for name, mask in kept.items():
        weight = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)
        found[name] = (values * weight[..., None]).sum(dim=1).mean(dim=0).double().cpu().numpy()
    return found


@dataclass(frozen=True)
class _Work:
    """What every step of an experiment needs."""

    model: HookedModel
    plan: CriticalityPlan
    largest: Sequence[int]
    sources: Mapping[MaskMode, Replacement]
    steps: "_Steps"
    options: Mapping[str, Any]


def _rank(
    work: _Work,
    prompts: Sequence[Prompt],
    mode: MaskMode,
    step: str,
    sets: Mapping[str, Any],
    is_exhaustive: bool = False,
) -> tuple[MaskingResult, MaskingResult]:
    """An estimate, and exact masking of every dimension or of those that the estimate ranks first."""
    options = {"reference": work.sources[mode], **work.options}
    estimate = estimate_masking(
        work.model,
        prompts,
        mode=mode,
        n_groups=work.plan.n_groups,
        n_points=work.plan.n_points,
        ungrouped=work.largest,
        progress=work.steps.hook(f"estimate {step}"),
        **sets,
        **options,
    )
    options["progress"] = work.steps.hook(f"identify {step}")
    if is_exhaustive:
        return estimate, mask_dimensions(work.model, prompts, mode=mode, **sets, **options)
    return estimate, screened_masking(work.model, prompts, estimate, m=work.plan.m, largest=work.largest, **options)


def _hold_out(
    work: _Work,
    test: Sequence[Prompt],
    items: Sequence[ChoiceItem],
    ranked: Mapping[MaskMode, tuple[MaskingResult, MaskingResult]],
    random: Sequence[int],
    named: Collection[int],
) -> tuple[dict[MaskMode, MaskingResult], dict[MaskMode, ChoiceMasking]]:
    """Exact masking on *test* and on exam items, in every mode; `named` dimensions in the modes zero and mean.

    Each domain loses the dimensions at the asked ranks of zero masking and of the mode's own ranking. Under zero
    masking, where specificity compares domains, every domain loses the dimensions of all.
    """
    plan, model = work.plan, work.model
    orders = {mode: ranking(measured, estimate) for mode, (estimate, measured) in ranked.items()}
    found: dict[MaskMode, MaskingResult] = {}
    exam: dict[MaskMode, ChoiceMasking] = {}
    for mode in plan.modes:
        used = [orders[name] for name in dict.fromkeys(("zero", mode)) if name in orders]
        at_ranks = {domain: {order[domain][rank - 1] for order in used for rank in plan.ranks} for domain in used[0]}
        shared = {*random, *(() if mode == "resample" else named)}
        if mode == "zero":
            shared = shared.union(*at_ranks.values())
        wanted = {domain: sorted(dimensions | shared) for domain, dimensions in at_ranks.items()}
        options: dict[str, Any] = {"mode": mode, "reference": work.sources[mode]}
        sets: dict[str, Any] = {"masked_at": plan.masked_at, "counted_at": plan.counted_at}
        bar = work.steps.hook(f"test {mode}")
        found[mode] = mask_dimensions(model, test, wanted, progress=bar, **sets, **options, **work.options)
        if items:
            of_exam = {domain: sorted({*at_ranks[domain], *random}) for domain in {item.domain for item in items}}
            bar, seed = work.steps.hook(f"exam {mode}"), work.options["seed"]
            exam[mode] = mask_choices(model, items, of_exam, seed=seed, progress=bar, **options)
    return found, exam


def _cost(
    exhaustive: Collection[MaskMode],
    estimates: Mapping[MaskMode, MaskingResult],
    measured: Mapping[MaskMode, MaskingResult],
    test: Mapping[MaskMode, MaskingResult],
    exam: Mapping[MaskMode, ChoiceMasking],
    others: Sequence[tuple[MaskingResult, MaskingResult]],
) -> float:
    """Forward passes of one passage or choice; a screened result's cost holds that of its estimate."""
    results = [*measured.values(), *test.values(), *(result for _, result in others)]
    alone = [estimates[mode] for mode in exhaustive]
    passes = sum(result.cost * len(result.prompts) for result in (*results, *alone))
    for result in exam.values():
        passes += float(np.isfinite(result.masked).sum() + np.isfinite(result.baseline).sum())
    return float(passes)


class _Steps:
    """One progress bar over steps of known weight, taken in the order of their costs."""

    def __init__(self, costs: Mapping[str, float], progress: Progress | None) -> None:
        self.ends = dict(zip(costs, np.cumsum(list(costs.values())).tolist(), strict=True))
        self.costs = costs
        self.tell = progress or (lambda done, total: None)

    def hook(self, step: str) -> Progress:
        """The progress hook of one step."""
        start, total = self.ends[step] - self.costs[step], sum(self.costs.values())

        def advance(done: int, of: int) -> None:
            fraction = (start + self.costs[step] * done / max(of, 1)) / total
            self.tell(min(round(STEPS * fraction), STEPS - 1), STEPS)

        return advance

    def finish(self) -> None:
        """All is done."""
        self.tell(STEPS, STEPS)
