"""Finding the strength at which a steering costs a given amount: KL to the unsteered model on neutral text.

For small edits KL grows with the square of the strength, so the search runs in log-strength and log-KL: extrapolate
until the target is bracketed, then interpolate, or halve where interpolation is slow. Only what was tried is known: a
curve is called non-monotone if KL fell between two tried strengths, and then the smallest crossing found is taken.
"""

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from workbench.interventions import Scope, Steering, Where
from workbench.models import HookedModel
from workbench.tasks.metrics import NeutralText

TOLERANCE = 0.1
MAX_EVALUATIONS = 16
FARTHEST = 1e4  # how far, as a factor, the search goes from its first guess
NOISE = 1e-5  # KL in nats that float32 arithmetic alone can make


@dataclass(frozen=True)
class Budget:
    """The strength found for a target KL, and the KL (nats per token) measured at that strength.

    Where `reached` is False no tried strength came within the tolerance, and `strength` is the one that came nearest.
    Where `monotone` is False KL was seen to fall with rising strength, so other strengths may cost the same. `points`
    are all (strength, KL) pairs tried, by strength.
    """

    target: float
    strength: float
    kl: float
    reached: bool
    monotone: bool
    points: tuple[tuple[float, float], ...]

    @property
    def problem(self) -> str:
        """What is wrong with this budget, in words; "" if nothing is."""
        texts = []
        if not self.reached:
            tried = f"strengths {self.points[0][0]:.3g} to {self.points[-1][0]:.3g}"
            texts.append(f"KL {self.target:g} not reached at {tried}, nearest {self.kl:.3g} at {self.strength:.3g}")
        if not self.monotone:
            texts.append("KL is not monotone in the strength")
        return "; ".join(texts)


def find_strength(
    measure: Callable[[float], float],
    target: float,
    *,
    guess: float = 1.0,
    tolerance: float = TOLERANCE,
    max_evaluations: int = MAX_EVALUATIONS,
) -> Budget:
    """Search the positive strength at which `measure(strength)` is `target`, within the relative `tolerance`."""
    return find_strengths(
        lambda indices, strengths: [measure(strength) for strength in strengths],
        target,
        [guess],
        tolerance=tolerance,
        max_evaluations=max_evaluations,
    )[0]


def find_strengths(
    measure: Callable[[list[int], list[float]], Sequence[float]],
    target: float,
    guesses: Sequence[float],
    *,
    tolerance: float = TOLERANCE,
    max_evaluations: int = MAX_EVALUATIONS,
) -> list[Budget]:
    """Many searches in step: `measure(indices, strengths)` gives the KL of every search that still runs.

    A KL of NaN counts as infinite: the edit overflowed the number type of the model. Raises for a target, guess or
    tolerance that is not positive.
    """
    if not (target > 0 and math.isfinite(target)):
        raise ValueError(f"a KL level must be a positive number of nats per token, not {target}; use 0.1, say")
    if not all(guess > 0 and math.isfinite(guess) for guess in guesses):
        raise ValueError("the search starts from positive strengths; to steer the other way negate the direction")
    if not 0 < tolerance < 1 or max_evaluations < 1:
        raise ValueError(f"tolerance {tolerance} must lie between 0 and 1, evaluations {max_evaluations} be at least 1")
    searches = [_search(target, guess, tolerance, max_evaluations) for guess in guesses]
    asked = {index: next(search) for index, search in enumerate(searches)}
    found: dict[int, Budget] = {}
    while asked:
        values = measure(list(asked), list(asked.values()))
        following: dict[int, float] = {}
        for index, kl in zip(asked, values, strict=True):
            try:
                following[index] = searches[index].send(math.inf if math.isnan(kl) else float(kl))
            except StopIteration as stop:
                found[index] = stop.value
        asked = following
    return [found[index] for index in range(len(searches))]


def kl_budget(
    model: HookedModel,
    steering: Steering,
    neutral: NeutralText,
    target: float,
    *,
    scope: Scope | Where = "all_but_first",
    guess: float = 1.0,
    tolerance: float = TOLERANCE,
) -> Budget:
    """The strength at which a steering costs `target` nats of KL per token of neutral text."""
    return find_strength(
        lambda strength: float(neutral.kl([(steering, strength)], scope)[0]), target, guess=guess, tolerance=tolerance
    )


def _search(target: float, guess: float, tolerance: float, max_evaluations: int) -> Generator[float, float, Budget]:
    """Yields the strength to try next, is sent the KL there, returns the result."""
    points: list[tuple[float, float]] = []
    strength = guess
    while len(points) < max_evaluations:
        kl = yield strength
        points.append((strength, kl))
        if abs(kl / target - 1) <= tolerance:
            break
        following = _next_strength(points, target, guess)
        if following is None:
            break
        strength = following
    ordered = tuple(sorted(points))
    best, kl = min(ordered, key=lambda point: abs(point[1] - target))
    monotone = all(later >= earlier * (1 - tolerance) - NOISE for (_, earlier), (_, later) in pairwise(ordered))
    return Budget(target, best, kl, abs(kl / target - 1) <= tolerance, monotone, ordered)


def _next_strength(points: Sequence[tuple[float, float]], target: float, guess: float) -> float | None:
    """Outwards from the points while they lie on one side of the target, else inside the lowest bracket."""
    above = [point for point in points if point[1] > target]
    upper = min(above) if above else None
    below = [point for point in points if point[1] < target and (upper is None or point[0] < upper[0])]
    lower = max(below) if below else None
    if lower is not None and upper is not None:
        return _inside(lower, upper, target, len(points))
    at_least = 1.05 if len(points) < 3 else 4.0
    if lower is not None:
        strength, kl = lower
        factor = min(max(math.sqrt(target / kl), at_least), 32.0) if kl > 0 else 32.0
    else:
        assert upper is not None
        strength, kl = upper
        factor = max(min(math.sqrt(target / kl), 1 / at_least), 1 / 32.0)
    following = min(max(strength * factor, guess / FARTHEST), guess * FARTHEST)
    return following if following != strength else None


def _inside(lower: tuple[float, float], upper: tuple[float, float], target: float, n_tried: int) -> float:
    """A strength between the two, by interpolation in logarithms; every third time, and at the ends, by halving."""
    span = math.log(upper[0] / lower[0])
    share = 0.5
    if lower[1] > 0 and upper[1] < math.inf and n_tried % 3:
        share = math.log(target / lower[1]) / math.log(upper[1] / lower[1])
    return lower[0] * math.exp(span * min(max(share, 0.1), 0.9))
