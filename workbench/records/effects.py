"""Effect and damage of steered models."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["better", "worse", "no difference shown", "not measured"]
BudgetKind = Literal["kl", "edit", "coordinates", "none"]


class NotApplicable(ValueError):  # noqa: N818 - an answer, not a fault: it is stored as a result
    """A method cannot be fitted or run on what it was given, and the message says why.

    Raised on purpose. It alone becomes a stored result ("not measured"); every other exception ends a run.
    """


@dataclass(frozen=True)
class Comparison:
    """One steered arm at one budget: effect with a paired 95 % interval over passages, beside what it cost.

    `effect` is in the unit of `metric` (for losses: steered minus unsteered nats per token, negative is better).
    `strength` multiplies the method's delta; `kl` is nats per token to the unsteered model on neutral text, measured at
    that strength; `budget` is the KL level asked for. `reached` is False where no strength reached it. `against` is
    what the effect is a difference to: the unsteered model, or another arm at the same budget. `note` says in words
    what is irregular (an empty selection, an unreachable budget) or averaged; effects that were not measured are NaN.
    """

    task: str
    metric: str
    domain: str
    method: str
    selection: str
    layer: int
    strength: float
    budget: float
    kl: float
    reached: bool
    effect: float
    low: float
    high: float
    n: int
    against: str = "unsteered"
    note: str = ""


@dataclass(frozen=True)
class Contrast:
    """One arm on one metric of one task at one budget, as a paired difference to `against`, beside what it cost.

    `role` tells a method from a control. `level` is the budget in the unit of its kind: `kl` nats per token of neutral
    text, `edit` norm of the edit as a share of the median residual norm, `coordinates` their number; 0 where there is
    none. `setting` is what was searched on *tune* ("layer 3", "k 16"). `in_norms` and `in_sds` are the strength in
    median residual norms and in natural standard deviations of the edited coordinates. `effect`, `low`, `high` are in
    `unit`, with a 95 % interval over `n` pairs; `n_missing` pairs could not be judged. `p` is of the sign-flip test,
    `q` adjusted over all contrasts to the same `against`. `minimum_detectable_effect`, half the width of the
    interval, is what so many pairs tend to detect. What was not measured is NaN, `note` says why.
    """

    task: str
    domain: str
    arm: str
    role: Literal["method", "control"]
    metric: str
    unit: str
    higher_is_better: bool
    is_primary: bool
    budget: BudgetKind
    level: float
    against: str
    setting: str
    strength: float
    in_norms: float
    in_sds: float
    kl: float
    effect: float
    low: float
    high: float
    p: float
    q: float
    n: int
    n_missing: int
    verdict: Outcome
    minimum_detectable_effect: float
    note: str = ""


def describe(contrast: Contrast) -> str:
    """A contrast in one line: better, worse, or no difference shown and the minimum detectable difference."""
    budget = "" if contrast.budget == "none" else f" at {contrast.budget} {contrast.level:g}"
    about = f"{contrast.arm} on {contrast.task}{budget}, {contrast.metric}"
    if contrast.verdict == "not measured":
        return f"{about}: not measured ({contrast.note or 'no item was judged'})"
    numbers = (
        f"{contrast.effect:+.3g} {contrast.unit}, 95 % interval {contrast.low:+.3g} to {contrast.high:+.3g}, "
        f"n = {contrast.n}, q = {contrast.q:.2g}"
    )
    if contrast.low == contrast.high == 0:
        return f"{about}: no difference shown against {contrast.against} (all {contrast.n} pairs are equal)"
    if contrast.verdict == "no difference shown":
        least = f"; minimum detectable difference {contrast.minimum_detectable_effect:.3g} {contrast.unit}"
        return f"{about}: no difference shown against {contrast.against} ({numbers}{least})"
    return f"{about}: {contrast.verdict} than {contrast.against} ({numbers})"


@dataclass(frozen=True)
class Damage:
    """One measure of what an arm breaks on one task at one budget, beside the unsteered model.

    `budget` and `level` are as in `Contrast`. `value` and `unsteered` are means in `unit`, `difference` is the paired
    one, with a 95 % interval over `n` passages, subjects or openings; the interval is NaN where there is a single one.
    `worse` says which direction of a change tells damage, "" where either may.
    """

    task: str
    arm: str
    role: Literal["method", "control"]
    budget: BudgetKind
    level: float
    measure: str
    unit: str
    worse: Literal["up", "down", ""]
    value: float
    unsteered: float
    difference: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class StrengthCurve:
    """Effect and damage of one arm along its strengths on *tune*, and the usable band between `low` and `high`.

    `effect[i]` is a difference to the unsteered model in `unit`, `kl[i]` nats per token of neutral text, `in_norms[i]`
    the strength in median residual norms. The band holds the strengths that show a wanted effect below `limit` of KL;
    both ends are NaN where there is none, and `note` says why. `n_evaluations` counts passes over the tuning items or
    the neutral text.
    """

    task: str
    domain: str
    arm: str
    setting: str
    metric: str
    unit: str
    higher_is_better: bool
    strengths: tuple[float, ...]
    effect: tuple[float, ...]
    effect_low: tuple[float, ...]
    effect_high: tuple[float, ...]
    kl: tuple[float, ...]
    in_norms: tuple[float, ...]
    limit: float
    low: float
    high: float
    n_evaluations: int
    note: str = ""


# --- what the cells of a comparison hold ------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchResult:
    """A setting of an arm at one budget: the strength found, what it costs on neutral text, its score on *tune*.

    `kl`, `in_norms` and `in_sds` are as in `Contrast`, `tune` is the mean of the task's first metric. Where it is not
    `is_reached`, no strength costs the budget or the arm cannot be fitted: `note` says which; the unknown is NaN.
    """

    is_reached: bool
    strength: float
    kl: float
    in_norms: float
    in_sds: float
    n_coordinates: int
    tune: float
    note: str

    @classmethod
    def unreached(cls, note: str) -> "SearchResult":
        """A setting without a strength."""
        return cls(False, math.nan, math.nan, math.nan, math.nan, 0, math.nan, note)


@dataclass(frozen=True)
class ScoreResult:
    """The chosen setting of an arm on *test*: one value per metric and item, and what the arm breaks.

    `damage[measure][unit]` is a value of one passage, subject or prefix. `names` is empty where nothing was measured,
    and `note` says why. `setting` is "-", and strengths are NaN, where nothing is steered.
    """

    setting: str
    strength: float
    kl: float
    in_norms: float
    in_sds: float
    names: tuple[str, ...]
    subjects: tuple[str, ...]
    values: Mapping[str, tuple[float, ...]]
    damage: Mapping[str, Mapping[str, float]]
    note: str

    @classmethod
    def unmeasured(cls, note: str) -> "ScoreResult":
        """An arm of which no setting could be scored."""
        return cls("-", math.nan, math.nan, math.nan, math.nan, (), (), {}, {}, note)

    @property
    def is_measured(self) -> bool:
        return bool(self.names)


@dataclass(frozen=True)
class CurveResult:
    """Effect and KL along the strengths of the chosen setting on *tune*; the band as in `StrengthCurve`."""

    setting: str
    strengths: tuple[float, ...]
    kl: tuple[float, ...]
    effect: tuple[float, ...]
    effect_low: tuple[float, ...]
    effect_high: tuple[float, ...]
    low: float
    high: float
    norms_per_strength: float
    n_evaluations: int
    note: str

    @classmethod
    def unmeasured(cls, note: str) -> "CurveResult":
        """An arm without a setting to draw a curve of."""
        return cls("", (), (), (), (), (), math.nan, math.nan, math.nan, 0, note)


CellResult = SearchResult | ScoreResult | CurveResult
