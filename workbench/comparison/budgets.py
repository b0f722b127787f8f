"""What a strength costs: the search for a budget of KL, the usable band of strengths, and the size of an edit.

For small edits KL grows with the square of the strength, so the search runs in log-strength and log-KL: extrapolate
until the target is bracketed, then interpolate, or halve where interpolation is slow. Only what was tried is known: a
curve is called non-monotone if KL fell between two tried strengths, and then the smallest crossing found is taken.
"""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.interventions import Scope, Steering, Where
from workbench.models import Call, HookedModel
from workbench.records import Site, Tokens
from workbench.statistics import Interval
from workbench.tasks.metrics import NeutralText

TOLERANCE = 0.1
MAX_EVALUATIONS = 16  # of one search
FARTHEST = 1e4  # how far, as a factor, the search goes from its first guess
NOISE = 1e-5  # KL in nats that float32 arithmetic alone can make
MAX_BAND_EVALUATIONS = 20
N_SEARCH = 7  # evaluations of KL for the upper end of a band
N_LADDER = 6  # strengths below it, each half of the one before
N_REFINE = 3


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


# --- usable bands -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BandPoint:
    """One strength with the KL there (nats per token) and the effect against the unsteered model."""

    strength: float
    kl: float
    effect: Interval


@dataclass(frozen=True)
class Band:
    """Strengths between `low` and `high` show the effect below the limit; NaN where there are none, `note` says why.

    `points` are by strength. `n_evaluations` counts passes, at most `MAX_BAND_EVALUATIONS`.
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


# --- size of an edit --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EditSize:
    """An edit at strength 1, on neutral text, from unedited activations; every size grows linearly with the strength.

    `in_norms`: norm of what is written to the residual stream, mean over edited tokens, as a share of the median
    residual norm at that layer; several sites as the root of the sum of squares. `in_sds`: mean |delta| of every edited
    coordinate in its own standard deviation over neutral tokens, root mean square over coordinates. `n_coordinates`:
    coordinates that are moved at all, over all sites.
    """

    in_norms: float
    in_sds: float
    n_coordinates: int


def edit_sizes(
    model: HookedModel, steerings: Sequence[Steering], tokens: Tokens, scope: Scope | Where = "all_but_first"
) -> list[EditSize]:
    """The sizes of several edits from one pass over neutral text. Raises if the scope edits no token.

    Head outputs count as what they write through the output projection.
    """
    scope = scope if isinstance(scope, Scope) else Scope(scope)
    sites = sorted({site for steering in steerings for site in steering.sites})
    layers = sorted({site.layer for site in sites})
    edited = scope.mask(Call(tokens.positions, tokens.lengths))
    if not bool(edited.any()):
        raise ValueError("the scope edits no token of the neutral text, so the edit has no size; use another scope")
    values = _captured(model, tokens, list(dict.fromkeys([*sites, *model.residual_sites(layers)])))
    return [_size(model, steering, values, tokens, edited) for steering in steerings]


def _size(
    model: HookedModel,
    steering: Steering,
    values: Mapping[Site, Float[Tensor, "batch pos width"]],
    tokens: Tokens,
    edited: Bool[Tensor, "batch pos"],
) -> EditSize:
    real = tokens.positions >= 1
    squares, moved, n_coordinates = 0.0, [], 0
    for site in steering.sites:
        x = values[site]
        delta = steering.delta(x, site, tokens.positions)[edited]
        written = model.project_heads(delta, site.layer).float() if site.kind == "z" else delta
        residual = values[model.residual_sites([site.layer])[0]][real].norm(dim=-1).median()
        squares += float(written.norm(dim=-1).mean() / residual) ** 2
        share = _in_deviations(delta, x[real])
        moved.append(share)
        n_coordinates += len(share)
    return EditSize(squares**0.5, float(np.sqrt(np.mean(np.concatenate(moved) ** 2))), n_coordinates)


def _in_deviations(delta: Float[Tensor, "edited width"], x: Float[Tensor, "token width"]) -> Float[np.ndarray, "moved"]:
    """Mean |delta| of every moved coordinate over its standard deviation; constant coordinates are left out."""
    size, deviation = delta.abs().mean(dim=0), x.std(dim=0)
    chosen = (size > 0) & (deviation > 0)
    return (size[chosen] / deviation[chosen]).double().cpu().numpy()


def _captured(
    model: HookedModel, tokens: Tokens, sites: Sequence[Site]
) -> Mapping[Site, Float[Tensor, "batch pos width"]]:
    kept: dict[Site, Tensor] = {}

    def keep(values: Tensor, site: Site, call: Call) -> None:
        kept[site] = values.float().clone()

    with model.hooked(dict.fromkeys(sites, keep)):
        model.run(tokens)
    return kept
