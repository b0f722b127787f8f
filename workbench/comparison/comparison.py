"""An honest comparison of steering methods: what each does at the same damage, with intervals, in words that hold.

CDS beating whole-dimension steering is a hypothesis here. Every effect has a paired bootstrap interval over passages or
prompts; an interval that covers zero is "no difference shown", with the smallest difference that could have been shown.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from workbench.comparison.measurement import Progress, measure_steering
from workbench.comparison.presets import Preset, PresetName
from workbench.comparison.results import LOSS, SHARE, ArmResult
from workbench.interventions import Scope, Where
from workbench.models import HookedModel
from workbench.records import Comparison, Dimension, PooledRows, Prompt, Selection
from workbench.statistics import Interval, paired_interval

TASK = "domain adaptation"
METRICS = (LOSS, SHARE)
UNITS = {LOSS: "nats per token", SHARE: "of the generations"}
LOWER_IS_BETTER = {LOSS: True, SHARE: False}


def compare_steering(
    model: HookedModel,
    prompts: Sequence[Prompt],
    neutral: Sequence[Prompt],
    dcds: Mapping[tuple[str, Selection], Sequence[Dimension]],
    *,
    kl_levels: Sequence[float] = (0.03, 0.1, 0.3),
    seed: int = 0,
    preset: Preset | PresetName | str = "full",
    rows: PooledRows | None = None,
    scope: Scope | Where = "all_but_first",
    progress: Progress | None = None,
) -> list[Comparison]:
    """Every arm of every domain against the unsteered model: `measure_steering`, then `against_unsteered`.

    Use those two, and `between_arms`, where the differences between arms or the classifier's accuracy are wanted too.
    """
    measurement = measure_steering(
        model,
        prompts,
        neutral,
        dcds,
        kl_levels=kl_levels,
        seed=seed,
        preset=preset,
        rows=rows,
        scope=scope,
        progress=progress,
    )
    return against_unsteered(measurement.results, seed=seed)


def against_unsteered(results: Sequence[ArmResult], *, seed: int) -> list[Comparison]:
    """Effect of every arm on every metric; arms that could not be run have NaN effects and a note."""
    return [
        _comparison(result, metric, result.differences.get(metric), seed) for result in results for metric in METRICS
    ]


def between_arms(results: Sequence[ArmResult], *, seed: int) -> list[Comparison]:
    """Every CDS arm minus every other method at the same domain and level, paired over passages or prompts.

    Pairs of which one could not be run are left out; `against_unsteered` shows which.
    """
    found = []
    for ours in results:
        for other in results:
            is_pair = (ours.arm.domain, ours.level) == (other.arm.domain, other.level)
            if ours.arm.method != "cds" or other.arm.method == "cds" or not is_pair:
                continue
            for metric in METRICS:
                if metric in ours.differences and metric in other.differences:
                    difference = ours.differences[metric] - other.differences[metric]
                    found.append(_comparison(ours, metric, difference, seed, against=other.arm.method))
    return found


def _comparison(
    result: ArmResult,
    metric: str,
    differences: Float64[np.ndarray, "pair"] | None,
    seed: int,
    *,
    against: str = "unsteered",
) -> Comparison:
    interval = Interval(np.nan, np.nan, np.nan, 0) if differences is None else paired_interval(differences, seed=seed)
    return Comparison(
        task=TASK,
        metric=metric,
        domain=result.arm.domain,
        method=result.arm.method,
        selection=result.arm.selection,
        layer=result.layer,
        strength=result.strength,
        budget=result.level,
        kl=result.kl,
        reached=result.reached,
        effect=interval.mean,
        low=interval.low,
        high=interval.high,
        n=interval.n,
        against=against,
        note=result.note,
    )


def phrase(comparison: Comparison) -> str:
    """The comparison in one sentence: better, worse, or no difference shown and what could have been shown."""
    if comparison.n == 0:
        return f"{_arm(comparison)} in {comparison.domain}: not measured ({comparison.note})"
    unit = UNITS.get(comparison.metric, "")
    beside = f"{_arm(comparison)} in {comparison.domain} at KL {comparison.budget:g}, {comparison.metric}"
    interval = Interval(comparison.effect, comparison.low, comparison.high, comparison.n)
    numbers = (
        f"{interval.mean:+.3f} {unit}, 95 % interval {interval.low:+.3f} to {interval.high:+.3f}, n = {interval.n}"
    )
    if interval.low == interval.high == 0:
        return f"{beside}: no difference shown against {comparison.against} (all {interval.n} pairs are equal)"
    if interval.covers_zero:
        least = f"a difference of about {interval.half_width:.3f} {unit} could have been shown"
        return f"{beside}: no difference shown against {comparison.against} ({numbers}; {least})"
    is_better = (interval.mean < 0) == LOWER_IS_BETTER.get(comparison.metric, False)
    return f"{beside}: {'better' if is_better else 'worse'} than {comparison.against} ({numbers})"


def _arm(comparison: Comparison) -> str:
    return f"{comparison.method} ({comparison.selection})" if comparison.selection else comparison.method
