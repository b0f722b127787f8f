"""Fast estimates of masking: the effect of masking each dimension alone, for all of them from a few backward passes.

Dimension d of every block output h_l gets one gate g_d, shared by all layers and positions: h_l + (1 - g_d)(r_l - h_l),
where r_l is what masking puts in its place. g = 1 is the model as it is, g_d = 0 masks d. The loss increase is an
integral along the straight path of that one gate,

    loss increase(d) = - integral over a in [0, 1] of dL/dg_d at g = 1 - a e_d

(integrated gradients, Sundararajan, Taly, Yan 2017, arXiv 1703.01365, with masking as the baseline), here summed by the
Gauss-Radau rule, whose first point is the unmasked model: there one backward pass serves all dimensions. At the other
points one path per dimension would cost as much as masking it, so the dimensions are randomly partitioned into
`n_groups` groups whose gates move together. More groups mean fewer other dimensions on the path of a dimension; the
path of all gates at once shrinks the whole stream, which its norms largely undo. A few dimensions of very large
magnitude would break the model for all others of their group: these stay `ungrouped`, and their estimate is the plain
gradient. Sharing one gate over layers, the groups and leaving some ungrouped are ours.

Estimates rank; the top of the ranking is then masked exactly. Gradients are blind where the model saturates, as at an
attention sink, which holds until it is nearly gone: the dimensions of largest magnitude are among the candidates
whatever their estimate (`largest_of`, `candidates_of`), and are those to leave ungrouped.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int

from workbench.interventions import steer
from workbench.interventions.mask import GatedMask, Replacement
from workbench.masking.measure import MaskedPrompts, mask_dimensions, masked_prompts
from workbench.masking.tables import candidates_of
from workbench.models import HookedModel, ModelError
from workbench.models.batches import BACKWARD_FRACTION, passes, rows_with_logits
from workbench.records import MaskingResult, MaskMode, Prompt, TokenSet
from workbench.tasks.metrics import some_rows, token_losses

Progress = Callable[[int, int], None]  # (rows done, rows in all)
N_GROUPS = 4
N_POINTS = 2
UNGROUPED = -1  # the group of dimensions whose gates do not move


def estimate_masking(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    mode: MaskMode = "zero",
    n_groups: int = N_GROUPS,
    n_points: int = N_POINTS,
    ungrouped: Sequence[int] = (),
    masked_at: TokenSet = "all tokens",
    counted_at: TokenSet = "all tokens",
    reference: Sequence[Prompt] | Replacement | None = None,
    seed: int = 0,
    truncate: bool = False,
    progress: Progress | None = None,
) -> MaskingResult:
    """The estimated loss increase of every prompt for every dimension: what `mask_dimensions` measures, cheaper.

    Costs 3 + 3 n_groups (n_points - 1) forward passes over the prompts, whatever d_model is (a backward pass counts as
    two). n_points = 1 is the plain gradient at the unmasked model, which is all there is for `ungrouped` dimensions.
    `seed` assigns the groups and draws what is resampled. Raises `ModelError` where the model gives no gradients
    (quantised weights).
    """
    _check(model.d_model, n_groups, n_points, ungrouped)
    sets: dict[str, TokenSet] = {"masked_at": masked_at, "counted_at": counted_at}
    masked = masked_prompts(model, prompts, mode=mode, reference=reference, seed=seed, truncate=truncate, **sets)
    steps = _steps(_assign_groups(model.d_model, n_groups, ungrouped, seed), n_points)
    increase, baseline = np.zeros((model.d_model, len(prompts))), np.zeros(len(prompts))
    done, total = 0, len(prompts) * len(steps)
    limit = rows_with_logits(model)
    for rows, _ in passes(masked.tokens.lengths.tolist(), lambda length: limit(length) // BACKWARD_FRACTION):
        for member, point, weight in steps:
            gradients, losses = _gradients(model, masked, rows, member, point)
            increase[np.ix_(member, np.array(rows))] -= weight[member, None] * gradients
            baseline[rows] = losses if point == 0.0 else baseline[rows]
            done += len(rows)
            if progress is not None:
                progress(done, total)
    return MaskingResult(
        mode=mode,
        how="estimated",
        d_model=model.d_model,
        cost=3.0 * len(steps),
        dimensions=tuple(range(model.d_model)),
        prompts=tuple(prompt.name for prompt in prompts),
        domains=tuple(prompt.domain for prompt in prompts),
        splits=tuple(prompt.split for prompt in prompts),
        baseline=baseline,
        loss_increase=increase,
        **sets,
    )


def _check(d_model: int, n_groups: int, n_points: int, ungrouped: Sequence[int]) -> None:
    """Raise where groups, points or ungrouped dimensions are out of range."""
    if not 1 <= n_groups <= d_model or n_points < 1:
        raise ValueError(
            f"n_groups is {n_groups}, n_points {n_points}; choose 1 to {d_model} groups and at least 1 point"
        )
    if not set(ungrouped) <= set(range(d_model)):
        raise ValueError(f"dimensions in ungrouped are out of range; choose from 0 to {d_model - 1}")


def screened_masking(
    model: HookedModel,
    prompts: Sequence[Prompt],
    estimate: MaskingResult,
    *,
    m: int,
    largest: Sequence[int] = (),
    reference: Sequence[Prompt] | Replacement | None = None,
    seed: int = 0,
    truncate: bool = False,
    progress: Progress | None = None,
) -> MaskingResult:
    """Exact masking of m candidates per domain: `largest`, and those that an estimate ranks highest on *identify*.

    Mode and token sets are those of the estimate. Each domain has its own candidates, masked in its own prompts only;
    what is left out is NaN. `cost` includes that of the estimate.
    """
    candidates = candidates_of(estimate, m, largest)
    chosen = [prompt for prompt in prompts if prompt.domain in candidates]
    exact = mask_dimensions(
        model,
        chosen,
        candidates,
        mode=estimate.mode,
        masked_at=estimate.masked_at,
        counted_at=estimate.counted_at,
        reference=reference,
        seed=seed,
        truncate=truncate,
        progress=progress,
    )
    per_chosen = len(estimate.prompts) / len(chosen)
    return replace(exact, cost=exact.cost + per_chosen * estimate.cost)


Step = tuple[Bool[np.ndarray, "d_model"], float, Float64[np.ndarray, "d_model"]]  # gates that move, how far, weights


def _steps(groups: Int[np.ndarray, "d_model"], n_points: int) -> list[Step]:
    """The backward passes: one at the unmasked model for all dimensions, then one per further point and group."""
    points, weights = radau_rule(n_points)
    first = np.where(groups == UNGROUPED, 1.0, weights[0])
    steps: list[Step] = [(np.ones(len(groups), dtype=bool), points[0], first)]
    for point, weight in zip(points[1:], weights[1:], strict=True):
        moving = [groups == group for group in np.unique(groups[groups != UNGROUPED])]
        steps += [(member, point, np.full(len(groups), weight)) for member in moving]
    return steps


def radau_rule(n_points: int) -> tuple[list[float], list[float]]:
    """Points and weights on [0, 1], the first point at 0; exact for polynomials up to degree 2 n_points - 2."""
    legendre = np.polynomial.legendre
    both = np.zeros(n_points + 1)
    both[-2:] = 1.0
    points = np.sort(legendre.legroots(both).real)
    before = legendre.legval(points, np.eye(n_points)[-1])  # the Legendre polynomial of degree n_points - 1
    weights = (1 - points) / (n_points * before) ** 2
    points[0], weights[0] = -1.0, 2 / n_points**2
    return ((points + 1) / 2).tolist(), (weights / 2).tolist()


def _assign_groups(d_model: int, n_groups: int, ungrouped: Sequence[int], seed: int) -> Int[np.ndarray, "d_model"]:
    """The group of every dimension, or `UNGROUPED`; groups differ in size by at most one."""
    groups = np.full(d_model, UNGROUPED)
    others = np.setdiff1d(np.arange(d_model), ungrouped)
    groups[others] = np.random.default_rng(seed).permutation(len(others)) % n_groups
    return groups


def _gradients(
    model: HookedModel,
    masked: MaskedPrompts,
    rows: Sequence[int],
    member: Bool[np.ndarray, "d_model"],
    point: float,
) -> tuple[Float64[np.ndarray, "member row"], Float64[np.ndarray, "row"]]:
    """dL/dg of the member gates, per prompt, with these at 1 - point and all others open, and the loss there."""
    tokens = some_rows(masked.tokens, rows)
    gates = torch.ones(len(rows), model.d_model, device=tokens.ids.device)
    inside = torch.from_numpy(member).to(gates.device)
    gates[:, inside] = 1.0 - point
    gates.requires_grad_()
    with steer(model, GatedMask(masked.replacement.values, masked.sources[list(rows)], gates), 1.0, "all"):
        logits = model.logits(tokens, with_gradients=True)
    if not logits.requires_grad:
        raise ModelError(
            f"{model.name} gives no gradients (quantised weights have none); mask dimensions exactly instead: "
            "mask_dimensions, or `workbench mask --path full`"
        )
    with torch.enable_grad():
        losses, _ = token_losses(logits, tokens)
        scores = (losses * masked.weight[list(rows), : losses.shape[1]]).double().sum(dim=1)
    (gradients,) = torch.autograd.grad(scores.sum(), gates)
    return gradients[:, inside].T.double().cpu().numpy(), scores.detach().cpu().numpy()
