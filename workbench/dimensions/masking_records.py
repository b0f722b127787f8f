"""What a criticality experiment found, and how it is saved: plan, rankings, drops on held-out text, exam, magnitudes.

The experiment itself runs a model (`workbench.masking.experiment`); here is what remains of it, read back and
tabulated without one.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float64

from workbench.dimensions.loss_increases import domain_rise, masked_domains, rank_dimensions, top_dimensions
from workbench.records import (
    MASK_MODES,
    ChoiceMasking,
    MaskingResult,
    MaskMode,
    RecordError,
    TokenSet,
    load_arrays,
    load_choice_masking,
    load_masking,
    save_arrays,
    save_choice_masking,
    save_masking,
)
from workbench.schema import Count, Distinct, Index, Several, checked

PLAN_FILE, MAGNITUDES_FILE = "plan.json", "magnitudes.safetensors"
FIRST_TOKEN = "first token alone"
TOKEN_READINGS = ("after the first token", "all tokens", "without high-norm tokens", FIRST_TOKEN)


@checked()
class CriticalityPlan:
    """How much a criticality experiment does.

    Dimensions are ranked in each of `ranked` modes on `n_identify` passages per domain (None: all): by masking every
    dimension where the mode is in `exhaustive`, otherwise on the screened path, where gradients rank all dimensions and
    `m` candidates of every domain are masked exactly: the `n_largest` by magnitude and at the first token, and those
    of the largest estimate.
    Drops of the dimensions at `ranks`, of `n_random` random ones and of those named besides are measured in all `modes`
    on `n_test` passages per domain of *test*, and on `n_items` exam items per domain (0: no exam). On `n_spared`
    passages per domain of *identify* (0: not at all) dimensions are ranked again, on the screened path and masked to
    zero, without the first token and without tokens of high norm: their losses left out, or the mask too. All else is
    masked at the tokens `masked_at`, and losses are of what is predicted at `counted_at`.
    """

    name: str
    modes: tuple[MaskMode, ...] = MASK_MODES
    ranked: tuple[MaskMode, ...] = MASK_MODES
    exhaustive: tuple[MaskMode, ...] = ()
    n_identify: Several | None = None
    n_test: Several | None = None
    n_items: Index | None = None
    ranks: Annotated[tuple[Count, ...], Distinct] = (1, 10, 100)
    k: Count = 10
    m: Count = 32
    n_largest: Index = 4
    n_random: Index = 4
    n_groups: Count = 4
    n_points: Count = 2
    n_spared: Index = 0
    masked_at: TokenSet = "all tokens"
    counted_at: TokenSet = "all tokens"

    def __post_init__(self) -> None:
        if "zero" not in self.ranked or not set(self.exhaustive) <= set(self.ranked) <= set(self.modes):
            raise ValueError("ranked must hold zero and be among modes, and exhaustive be among ranked")
        if self.m < self.k:
            raise ValueError(
                f"m is {self.m}, fewer than k = {self.k}: {self.m} candidates cannot hold the top {self.k}"
            )


@dataclass(frozen=True, eq=False)
class Criticality:
    """The results of one criticality experiment; drops in nats per token, magnitudes in activation units.

    `estimates` and `identify` rank the dimensions per mode; `test` and `exam` hold what masking costs on held-out
    passages and items. `random` are the dimensions drawn as controls. `magnitudes` are mean magnitudes per domain and
    dimension over some of the tokens (`TOKEN_READINGS`), in the order of `domains`. `cost` counts forward passes of one
    passage or of one choice (a backward pass as two). `spared` holds estimate and masking for every choice of tokens
    that are counted and masked (`masked_at`, `counted_at` of each).
    """

    plan: CriticalityPlan
    d_model: int
    domains: tuple[str, ...]
    random: tuple[int, ...]
    cost: float
    magnitudes: Mapping[str, Float64[np.ndarray, "domain d_model"]]
    estimates: Mapping[MaskMode, MaskingResult]
    identify: Mapping[MaskMode, MaskingResult]
    test: Mapping[MaskMode, MaskingResult]
    exam: Mapping[MaskMode, ChoiceMasking]
    spared: tuple[tuple[MaskingResult, MaskingResult], ...] = ()


def ranking(measured: MaskingResult, estimate: MaskingResult | None = None) -> dict[str, tuple[int, ...]]:
    """The dimensions of every domain, the one needed most on *identify* first: measured ones before estimated ones."""
    order: dict[str, tuple[int, ...]] = {}
    for number, domain in enumerate(masked_domains(measured)):
        first = [measured.dimensions[index] for index in rank_dimensions(domain_rise(measured, "identify")[number])]
        rest = _estimated_order(estimate, domain) if estimate is not None else []
        order[domain] = tuple(first) + tuple(dimension for dimension in rest if dimension not in set(first))
    return order


def _estimated_order(estimate: MaskingResult, domain: str) -> list[int]:
    number = masked_domains(estimate).index(domain)
    return [estimate.dimensions[index] for index in rank_dimensions(domain_rise(estimate, "identify")[number])]


def rank_scores(order: Sequence[int], d_model: int) -> Float64[np.ndarray, "d_model"]:
    """A ranking as scores that have it: the later a dimension stands the lower, NaN where it is not ranked."""
    scores = np.full(d_model, np.nan)
    scores[list(order)] = -np.arange(len(order), dtype=np.float64)
    return scores


def largest_of(magnitudes: Mapping[str, Float64[np.ndarray, "domain d_model"]], n: int) -> tuple[int, ...]:
    """The n largest dimensions after the first token and the n largest at it, which gradients may not see; sorted."""
    means = [magnitudes[name].mean(axis=0) for name in (TOKEN_READINGS[0], FIRST_TOKEN)]
    return tuple(sorted({index for mean in means for index in rank_dimensions(mean)[:n].tolist()}))


def candidates_of(estimate: MaskingResult, m: int, largest: Sequence[int] = ()) -> dict[str, tuple[int, ...]]:
    """The m dimensions of every domain that the screened path masks: `largest`, then the first of the estimate."""
    if not 1 <= m <= len(estimate.dimensions):
        raise ValueError(f"m is {m}, but {len(estimate.dimensions)} dimensions were estimated; choose fewer candidates")
    first = top_dimensions(estimate, m)
    return {domain: tuple(dict.fromkeys((*largest, *own)))[:m] for domain, own in first.items()}


# --- saving -----------------------------------------------------------------------------------------------------------

_PARTS = ("estimates", "identify", "test")
_SPARED = ("spared-estimate", "spared-identify")


def save_criticality(result: Criticality, folder: str | Path) -> None:
    """Write an experiment into a folder of its own: the plan, and one safetensors file per part and mode."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for part in _PARTS:
        for mode, masking in getattr(result, part).items():
            save_masking(masking, folder / f"{part}-{mode}.safetensors")
    for mode, exam in result.exam.items():
        save_choice_masking(exam, folder / f"exam-{mode}.safetensors")
    for number, pair in enumerate(result.spared):
        for part, masking in zip(_SPARED, pair, strict=True):
            save_masking(masking, folder / f"{part}-{number}.safetensors")
    arrays = {str(index): values for index, values in enumerate(result.magnitudes.values())}
    save_arrays(folder / MAGNITUDES_FILE, "magnitudes", arrays, {"names": list(result.magnitudes)})
    content = {
        "plan": dataclasses.asdict(result.plan),
        **{name: getattr(result, name) for name in ("d_model", "domains", "random", "cost")},
    }
    (folder / PLAN_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load_criticality(folder: str | Path) -> Criticality:
    """Read what `save_criticality` wrote."""
    folder = Path(folder)
    path = folder / PLAN_FILE
    if not path.is_file():
        raise RecordError(f"{path} does not exist; was the experiment completed?")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise RecordError(f"{path} is damaged ({error}); run the experiment again") from error
    plan: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content["plan"].items()
    }
    arrays, header = load_arrays(folder / MAGNITUDES_FILE, "magnitudes")
    parts = {part: _by_mode(folder, part, load_masking) for part in _PARTS}
    estimates, measured = (
        [load_masking(path) for path in sorted(folder.glob(f"{part}-*.safetensors"))] for part in _SPARED
    )
    return Criticality(
        plan=CriticalityPlan(**plan),
        d_model=content["d_model"],
        domains=tuple(content["domains"]),
        random=tuple(content["random"]),
        cost=content["cost"],
        magnitudes={name: arrays[str(index)] for index, name in enumerate(header["names"])},
        exam=_by_mode(folder, "exam", load_choice_masking),
        spared=tuple(zip(estimates, measured, strict=True)),
        **parts,
    )


def _by_mode(folder: Path, part: str, load: Any) -> dict[MaskMode, Any]:
    found: dict[MaskMode, Any] = {}
    for mode in MASK_MODES:
        path = folder / f"{part}-{mode}.safetensors"
        if path.is_file():
            found[mode] = load(path)
    return found
