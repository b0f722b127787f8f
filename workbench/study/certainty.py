"""What a study says about its own findings: tested labels, verdicts, and how far the selections hold; or why it cannot.

Stages that need more passages than the corpus has are left out with a reason, so that they stop no study that has
already steered and masked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.activations import Progress, collect, collect_columns, shortened_rows
from workbench.dimensions import (
    condition_stability,
    detector_share,
    find_verdicts,
    reading_agreement,
    selection_stability,
    split_half_stability,
    stability_summary,
    verdict_summary,
)
from workbench.dimensions.criteria import NEUTRAL
from workbench.dimensions.labels import control_dimensions, label_summary, score_labels
from workbench.dimensions.verdicts import MIN_PASSAGES
from workbench.masking.tables import Criticality, orders
from workbench.models import HookedModel
from workbench.records import (
    SELECTIONS,
    ConditionStability,
    Detector,
    Dimension,
    LabelScore,
    PooledRows,
    Prompt,
    ReadingAgreement,
    SelectionStability,
    Verdict,
)
from workbench.study.settings import PLANTED, PRESETS, Settings, open_model

N_CONTROLS = 16  # dimensions that are DCDs of no domain, labelled beside them
OTHER_DTYPE = "bfloat16"
MAX_RELOADED = 200_000_000  # parameters; a larger model is not loaded a second time in another number type
NOT_MEASURED = "not measured: "


@dataclass(frozen=True)
class Certainty:
    """How sure the findings are. `reasons` says of each part that was left out (verdicts, stability, labels) why."""

    verdicts: tuple[Verdict, ...]
    controls: Mapping[str, float]
    selections: tuple[SelectionStability, ...]
    conditions: tuple[ConditionStability, ...]
    readings: tuple[ReadingAgreement, ...]
    labels: tuple[LabelScore, ...]
    reasons: Mapping[str, str]


def too_few_passages(prompts: Sequence[Prompt]) -> str:
    """Why there can be no verdicts and no bootstrap: the domain with too few passages; empty where all have enough."""
    domains = dict.fromkeys(prompt.domain for prompt in prompts if prompt.domain != NEUTRAL)
    counts = {
        (domain, split): sum((prompt.domain, prompt.split) == (domain, split) for prompt in prompts)
        for domain in domains
        for split in ("identify", "test")
    }
    (domain, split), n = min(counts.items(), key=lambda pair: pair[1])
    if n >= MIN_PASSAGES:
        return ""
    return f"{NOT_MEASURED}domain {domain!r} has {n} passages in {split!r}, an interval needs {MIN_PASSAGES}"


def assess(
    model: HookedModel,
    prompts: Sequence[Prompt],
    rows: PooledRows,
    dcds: Sequence[Dimension],
    detectors: Sequence[Detector],
    masking: Criticality,
    settings: Settings,
    progress: Progress | None = None,
) -> Certainty:
    """Everything that says how sure the findings are; labels and other conditions with the full preset alone."""
    is_full = PRESETS[settings.preset].is_thorough
    reason = too_few_passages(prompts)
    reasons = {"verdicts": reason, "stability": reason} if reason else {}
    labels = examine_labels(model, prompts, rows, dcds, settings, progress) if is_full else ()
    if not labels:
        why = "no class has enough tokens in the passages" if is_full else f"left out with preset {settings.preset!r}"
        reasons["labels"] = f"{NOT_MEASURED}{why}"
    if reason:
        return Certainty((), {}, (), (), (), labels, reasons)
    verdicts, controls = judge(rows, dcds, detectors, masking, settings)
    selections, conditions, readings = stability(rows, settings)
    if is_full:
        conditions += other_conditions(model, prompts, rows, settings)
    return Certainty(verdicts, controls, selections, conditions, readings, labels, reasons)


def summarise_certainty(certainty: Certainty) -> dict[str, Any]:
    """The keys `verdicts`, `stability` and `labels` of `summary.json`; a sentence where a part was left out."""
    found = {
        "verdicts": verdict_summary(certainty.verdicts, certainty.controls),
        "stability": stability_summary(certainty.selections, certainty.conditions),
        "labels": label_summary(certainty.labels),
    }
    return found | dict(certainty.reasons)


def examine_labels(
    model: HookedModel,
    prompts: Sequence[Prompt],
    rows: PooledRows,
    dcds: Sequence[Dimension],
    settings: Settings,
    progress: Progress | None = None,
) -> tuple[LabelScore, ...]:
    """Two held-out scores of the label of every DCD, and of dimensions that are DCDs of no domain."""
    n_left = model.d_model - len({dcd.dimension for dcd in dcds})
    controls = control_dimensions(rows, dcds, min(N_CONTROLS, n_left), seed=settings.seed) if n_left else []
    dimensions = sorted({dcd.dimension for dcd in (*dcds, *controls)})
    columns = collect_columns(
        model,
        [prompt for prompt in prompts if prompt.split != "tune"],
        [(layer, dimension) for layer in range(model.n_layers) for dimension in dimensions],
        batch_size=settings.batch_size,
        truncate=settings.truncate,
        progress=progress,
    )
    return tuple(score_labels(columns, dcds, controls, seed=settings.seed))


def judge(
    rows: PooledRows,
    dcds: Sequence[Dimension],
    detectors: Sequence[Detector],
    masking: Criticality,
    settings: Settings,
) -> tuple[tuple[Verdict, ...], dict[str, float]]:
    """Sink, detector, both or neither: for the DCDs and for what masking ranks first, with the share of controls."""
    needed = {domain: order[: settings.k] for domain, order in orders(masking)["zero"].items()}
    measured = [masking.test[mode] for mode in ("zero", "mean") if mode in masking.test]
    verdicts = find_verdicts(rows, dcds, masking=measured, detectors=detectors, also=needed, seed=settings.seed)
    controls = detector_share(rows, {verdict.dimension for verdict in verdicts}, seed=settings.seed)
    return tuple(verdicts), controls


def stability(
    rows: PooledRows, settings: Settings
) -> tuple[tuple[SelectionStability, ...], tuple[ConditionStability, ...], tuple[ReadingAgreement, ...]]:
    """How far the DCDs depend on the passages: bootstrap and permutations, split halves, and readings of the rule."""
    selections = [
        item
        for selection in SELECTIONS
        for item in selection_stability(rows, k=settings.k, selection=selection, seed=settings.seed)
    ]
    halves = split_half_stability(rows, k=settings.k, seed=settings.seed)
    return tuple(selections), tuple(halves), tuple(reading_agreement(rows, k=settings.k))


def other_conditions(
    model: HookedModel, prompts: Sequence[Prompt], rows: PooledRows, settings: Settings
) -> tuple[ConditionStability, ...]:
    """Agreement with passages cut to half their length, and with the model loaded anew in another number type.

    The number type is left out for planted models, for those already in it, and for large ones.
    """
    short = shortened_rows(model, prompts, batch_size=settings.batch_size, truncate=settings.truncate)
    found = condition_stability(rows, short, "half the length", k=settings.k)
    n_parameters = sum(parameter.numel() for parameter in model.hf_model.parameters())
    if settings.model != PLANTED and settings.dtype != OTHER_DTYPE and n_parameters <= MAX_RELOADED:
        other = collect(
            open_model(replace(settings, dtype=OTHER_DTYPE)),
            [prompt for prompt in prompts if prompt.split == "identify"],
            n_top=1,
            poolings=("mean_abs",),
            batch_size=settings.batch_size,
            truncate=settings.truncate,
        )[1]
        found += condition_stability(rows, other, OTHER_DTYPE, k=settings.k)
    return tuple(found)
