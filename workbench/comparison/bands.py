"""The usable band of a strength: strong enough to show the wanted effect, weak enough to stay below a limit of damage.

The upper end is where KL reaches the limit; below it the effect is measured on a falling ladder of strengths, and the
lower end is refined by halving. At most `MAX_EVALUATIONS` passes over neutral text or tuning items are made, and "no
band" is an answer.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workbench.comparison.budgets import find_strength
from workbench.statistics import Interval

MAX_EVALUATIONS = 20
N_SEARCH = 7  # evaluations of KL for the upper end
N_LADDER = 6  # strengths below it, each half of the one before
N_REFINE = 3


@dataclass(frozen=True)
class BandPoint:
    """One strength with the KL there (nats per token) and the effect against the unsteered model."""

    strength: float
    kl: float
    effect: Interval


@dataclass(frozen=True)
class Band:
    """Strengths between `low` and `high` show the effect below the limit; NaN where there are none, `note` says why.

    `points` are by strength. `n_evaluations` counts passes, at most `MAX_EVALUATIONS`.
    """

    low: float
    high: float
    points: tuple[BandPoint, ...]
    n_evaluations: int
    note: str = ""


def usable_band(
    kl: Callable[[float], float],
    effects: Callable[[Sequence[float]], Sequence[Interval]],
    *,
    limit: float,
    higher_is_better: bool,
    guess: float = 1.0,
) -> Band:
    """Search the band of one steering; one evaluation is `kl(strength)`, or one of the strengths given to `effects`.

    KL between the tried strengths is interpolated in logarithms. The band is contiguous: it ends at the first strength
    of the ladder, counted from above, that no longer shows the effect; where the top does not, it starts lower.
    """
    search = find_strength(kl, limit, guess=guess, max_evaluations=N_SEARCH)
    count = len(search.points)
    points: list[BandPoint] = []

    def measure(strengths: Sequence[float]) -> list[bool]:
        found = effects(strengths)
        for strength, effect in zip(strengths, found, strict=True):
            points.append(BandPoint(strength, _between(search.points, strength), effect))
        return [_is_shown(effect, higher_is_better) for effect in found]

    ladder = [search.strength / 2**step for step in range(N_LADDER)]
    shown = measure(ladder)
    note = search.problem
    if not any(shown):
        words = f"no tried strength below KL {limit:g} shows the effect"
        return Band(
            math.nan, math.nan, _by_strength(points), count + len(points), "; ".join(filter(None, (words, note)))
        )
    first = shown.index(True)
    last = next((step - 1 for step in range(first, N_LADDER) if not shown[step]), N_LADDER - 1)
    low = ladder[last]
    if last + 1 < N_LADDER:
        below = ladder[last + 1]
        for _ in range(N_REFINE):
            middle = math.sqrt(low * below)
            low, below = (middle, below) if measure([middle])[0] else (low, middle)
    return Band(low, ladder[first], _by_strength(points), count + len(points), note)


def _is_shown(interval: Interval, higher_is_better: bool) -> bool:
    return interval.low > 0 if higher_is_better else interval.high < 0


def _by_strength(points: Sequence[BandPoint]) -> tuple[BandPoint, ...]:
    return tuple(sorted(points, key=lambda point: point.strength))


def _between(points: Sequence[tuple[float, float]], strength: float) -> float:
    """KL at a strength from those measured: along straight lines in logarithms, with slope 2 beyond the lowest."""
    known = [(s, k) for s, k in points if 0 < k < math.inf]
    if not known:
        return math.nan
    lower = [point for point in known if point[0] <= strength]
    upper = [point for point in known if point[0] >= strength]
    if not lower:
        return known[0][1] * (strength / known[0][0]) ** 2
    if not upper or upper[0][0] == lower[-1][0]:
        return lower[-1][1]
    (a, x), (b, y) = lower[-1], upper[0]
    share = math.log(strength / a) / math.log(b / a)
    return math.exp((1 - share) * math.log(x) + share * math.log(y))
