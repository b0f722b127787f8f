"""Fast estimates of masking: the effect of masking each dimension alone, for all of them from a few backward passes.

Dimension d of every block output h_l gets one gate g_d, shared by all layers and positions: h_l + (1 - g_d)(r_l - h_l),
where r_l is what masking puts in its place. g = 1 is the model as it is, g_d = 0 masks d. The rise is an integral along
the straight path of that one gate,

    rise(d) = - integral over a in [0, 1] of dL/dg_d at g = 1 - a e_d

(integrated gradients, Sundararajan, Taly, Yan 2017, arXiv 1703.01365, with masking as the baseline), here summed by the
Gauss-Radau rule, whose first point is the unmasked model: there one backward pass serves all dimensions. At the other
points one path per dimension would cost as much as masking it, so the dimensions are dealt at random into `n_groups`
groups whose gates move together. More groups mean fewer strangers on the path of a dimension; the path of all gates at
once shrinks the whole stream, which its norms largely undo. A few dimensions of very large magnitude would break the
model for all others of their group: these stay `apart`, and their estimate is the plain gradient. Sharing one gate over
layers, dealing into groups and setting some apart are ours.

Estimates rank; the top of the ranking is then masked exactly. Gradients are blind where the model saturates, as at an
attention sink, which holds until it is nearly gone: the dimensions of largest magnitude are among the candidates
whatever their estimate (`largest_of`, `candidates_of`), and are those to set apart.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from workbench.dimensions.masking_records import candidates_of
from workbench.interventions.mask import Replacement
from workbench.masking.measure import Documents, mask_dimensions, prompt_documents, rows_limit
from workbench.models import Call, HookedModel, HookFunction, ModelError
from workbench.records import MaskingResult, MaskMode, Prompt, Site, TokenSet
from workbench.tasks.metrics import token_losses

Progress = Callable[[int, int], None]  # (rows done, rows in all)
N_GROUPS = 4
N_POINTS = 2
APART = -1  # the group of dimensions that stay as they are
BACKWARD_SHARE = 4  # a pass that keeps its graph gets this many times fewer rows


def estimate_masking(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    mode: MaskMode = "zero",
    n_groups: int = N_GROUPS,
    n_points: int = N_POINTS,
    apart: Sequence[int] = (),
    masked_at: TokenSet = "all tokens",
    counted_at: TokenSet = "all tokens",
    reference: Sequence[Prompt] | Replacement | None = None,
    seed: int = 0,
    truncate: bool = False,
    progress: Progress | None = None,
) -> MaskingResult:
    """The estimated rise of the loss of every prompt for every dimension: what `mask_dimensions` measures, cheaper.

    Costs 3 + 3 n_groups (n_points - 1) forward passes over the prompts, whatever d_model is (a backward pass counts as
    two). n_points = 1 is the plain gradient at the unmasked model, which is all there is for dimensions set `apart`.
    `seed` deals the groups and draws what is resampled. Raises `ModelError` where the model gives no gradients
    (quantised weights).
    """
    _check(model.d_model, n_groups, n_points, apart)
    sets: dict[str, TokenSet] = {"masked_at": masked_at, "counted_at": counted_at}
    documents = prompt_documents(model, prompts, mode=mode, reference=reference, seed=seed, truncate=truncate, **sets)
    steps = _steps(_deal(model.d_model, n_groups, apart, seed), n_points)
    rise, baseline = np.zeros((model.d_model, len(prompts))), np.zeros(len(prompts))
    done, total = 0, len(prompts) * len(steps)
    for numbers in _batches(model, documents):
        for member, point, weight in steps:
            found, scores = _gradients(model, documents, numbers, member, point)
            rise[np.ix_(member, np.array(numbers))] -= weight[member, None] * found
            if point == 0.0:
                baseline[numbers] = scores
            done += len(numbers)
            if progress is not None:
                progress(done, total)
    return MaskingResult(
        mode=mode,
        how="estimated",
        d_model=model.d_model,
        cost=3.0 * len(steps),
        dimensions=tuple(range(model.d_model)),
        prompts=tuple(prompt.name for prompt in prompts),
        domains=documents.domains,
        splits=tuple(prompt.split for prompt in prompts),
        baseline=baseline,
        rise=rise,
        **sets,
    )


def _check(d_model: int, n_groups: int, n_points: int, apart: Sequence[int]) -> None:
    """Raise where groups, points or what is set apart cannot be."""
    if not 1 <= n_groups <= d_model or n_points < 1:
        raise ValueError(
            f"n_groups is {n_groups}, n_points {n_points}; choose 1 to {d_model} groups and at least 1 point"
        )
    if not set(apart) <= set(range(d_model)):
        raise ValueError(f"apart holds dimensions out of range; choose from 0 to {d_model - 1}")


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
    share = len(estimate.prompts) / len(chosen)
    return replace(exact, cost=exact.cost + share * estimate.cost)


Step = tuple[Bool[np.ndarray, "d_model"], float, Float64[np.ndarray, "d_model"]]  # gates that move, how far, weights


def _steps(groups: Int[np.ndarray, "d_model"], n_points: int) -> list[Step]:
    """The backward passes: one at the unmasked model for all dimensions, then one per further point and group."""
    points, weights = radau_rule(n_points)
    first = np.where(groups == APART, 1.0, weights[0])
    steps: list[Step] = [(np.ones(len(groups), dtype=bool), points[0], first)]
    for point, weight in zip(points[1:], weights[1:], strict=True):
        moving = [groups == group for group in np.unique(groups[groups != APART])]
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


def _deal(d_model: int, n_groups: int, apart: Sequence[int], seed: int) -> Int[np.ndarray, "d_model"]:
    """The group of every dimension, or `APART`; groups differ in size by at most one."""
    groups = np.full(d_model, APART)
    others = np.setdiff1d(np.arange(d_model), apart)
    groups[others] = np.random.default_rng(seed).permutation(len(others)) % n_groups
    return groups


def _batches(model: HookedModel, documents: Documents) -> Iterator[list[int]]:
    """Documents of like length whose graph is kept together."""
    order = torch.argsort(documents.tokens.lengths, descending=True).tolist()
    while order:
        limit = max(1, rows_limit(model, int(documents.tokens.lengths[order[0]])) // BACKWARD_SHARE)
        yield order[:limit]
        order = order[limit:]


def _gradients(
    model: HookedModel,
    documents: Documents,
    numbers: Sequence[int],
    member: Bool[np.ndarray, "d_model"],
    point: float,
) -> tuple[Float64[np.ndarray, "member row"], Float64[np.ndarray, "row"]]:
    """dL/dg of the member gates, per document, with these at 1 - point and all others open, and the loss there."""
    part = documents.rows(numbers)
    gates = torch.ones(len(numbers), model.d_model, device=part.tokens.ids.device)
    inside = torch.from_numpy(member).to(gates.device)
    gates[:, inside] = 1.0 - point
    gates.requires_grad_()
    with model.hooked(dict.fromkeys(model.residual_sites(), _gate(part, gates)), editing=True):
        logits = model.logits(part.tokens, with_gradients=True)
    if not logits.requires_grad:
        raise ModelError(f"{model.name} gives no gradients (quantised weights?); use mask_dimensions, which needs none")
    with torch.enable_grad():
        losses, _ = token_losses(logits, part.tokens)
        scores = (losses * part.weight).double().sum(dim=1)
    (gradients,) = torch.autograd.grad(scores.sum(), gates)
    return gradients[:, inside].T.double().cpu().numpy(), scores.detach().cpu().numpy()


def _gate(documents: Documents, gates: Float[Tensor, "row d_model"]) -> HookFunction:
    closed = (1.0 - gates)[:, None] * documents.is_masked[..., None]

    def edit(values: Tensor, site: Site, call: Call) -> Tensor:
        return values + closed * (documents.replacement.values[site.layer][documents.sources] - values)

    return edit
