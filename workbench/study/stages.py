"""The stages of a study, each a function of the model, the passages and the settings."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from workbench.activations import collect, collect_columns
from workbench.comparison.tables import Outcomes
from workbench.corpus import neutral_prompts
from workbench.dimensions import find_dcds
from workbench.dimensions.detectors import find_detectors
from workbench.masking.experiment import PLANS, measure_criticality, sample_prompts
from workbench.masking.tables import Criticality
from workbench.models import HookedModel
from workbench.records import (
    SELECTIONS,
    Detector,
    Dimension,
    DimensionStatistics,
    PooledRows,
    Prompt,
    Selection,
)
from workbench.study.certainty import Certainty, assess
from workbench.study.settings import PRESETS, Settings, exam_items
from workbench.study.steering import SIZES, compare_on_corpus, report_on_classifier, steering_run
from workbench.tasks.judges import ClassifierReport, fit_classifier

StageProgress = Callable[[str, int, int], None]  # (stage, done, total)
Selected = dict[tuple[str, Selection], list[Dimension]]

ROWS = "rows.npy"


@dataclass(frozen=True)
class Findings:
    """What a study found, before it is written."""

    statistics: DimensionStatistics
    rows: PooledRows
    dcds: tuple[Dimension, ...]
    detectors: tuple[Detector, ...]
    steering: Outcomes
    classifier: ClassifierReport
    masking: Criticality
    certainty: Certainty


def survey(
    model: HookedModel,
    prompts: Sequence[Prompt],
    settings: Settings,
    progress: StageProgress | None = None,
    rows_path: Path | None = None,
) -> tuple[DimensionStatistics, PooledRows]:
    """Statistics over the passages to identify on, and the pooled row of every passage, in one pass.

    The rows go to `rows_path` as they come, or stay in memory.
    """
    return collect(
        model,
        prompts,
        statistics_split="identify",
        n_top=PRESETS[settings.preset].n_top,
        batch_size=settings.batch_size,
        truncate=settings.truncate,
        rows_path=rows_path,
        progress=_stage(progress, "statistics"),
    )


def select(rows: PooledRows, k: int, selections: Sequence[Selection] = SELECTIONS) -> Selected:
    """The DCDs of every domain by every selection, found on *identify*."""
    selected: Selected = {(domain, selection): [] for selection in selections for domain in dict.fromkeys(rows.domains)}
    for selection in selections:
        for dcd in find_dcds(rows, k=k, selection=selection):
            selected[dcd.domain, selection].append(dcd)
    return selected


def label(
    model: HookedModel,
    prompts: Sequence[Prompt],
    statistics: DimensionStatistics,
    dcds: Sequence[Dimension],
    settings: Settings,
    progress: StageProgress | None = None,
) -> list[Detector]:
    """Read every DCD as a detector at every layer; a dimension that several selections found is read once."""
    distinct = list({(dcd.domain, dcd.dimension): dcd for dcd in reversed(dcds)}.values())[::-1]
    dimensions = sorted({dcd.dimension for dcd in distinct})
    columns = collect_columns(
        model,
        prompts,
        [(layer, dimension) for layer in range(model.n_layers) for dimension in dimensions],
        batch_size=settings.batch_size,
        truncate=settings.truncate,
        progress=_stage(progress, "detectors"),
    )
    promoted = {dimension: model.promoted_tokens(dimension) for dimension in dimensions}
    return find_detectors(statistics, columns, distinct, promoted, prompts, seed=settings.seed)


def investigate(
    model: HookedModel,
    prompts: Sequence[Prompt],
    settings: Settings,
    timings: dict[str, float],
    progress: StageProgress | None,
    records: Path,
) -> Findings:
    """All stages in order; what each took goes into `timings`, pooled rows to a file in `records`.

    Raises before the first stage where a domain has too few passages to be masked.
    """
    for split in ("identify", "test"):
        sample_prompts(prompts, split, None)
    with timed(timings, "statistics"):
        statistics, rows = survey(model, prompts, settings, progress, records / ROWS)
        selected = select(rows, settings.k)
    dcds = tuple(dcd for group in selected.values() for dcd in group)
    with timed(timings, "detectors"):
        detectors = label(model, prompts, statistics, dcds, settings, progress)
    with timed(timings, "steering"):
        sizes, neutral, classifier = SIZES[settings.preset], neutral_prompts(), fit_classifier(prompts)
        options = {"kl_levels": PRESETS[settings.preset].kl_levels, "k": settings.k, "seed": settings.seed}
        run = steering_run(model, prompts, neutral, rows, sizes, classifier=classifier, **options)
        steering = compare_on_corpus(run, neutral, progress=_stage(progress, "steering"))
        report = report_on_classifier(model, classifier, prompts, sizes, settings.seed)
    with timed(timings, "masking"):
        masking = mask(model, prompts, dcds, settings, progress)
    with timed(timings, "verdicts"):
        step = _stage(progress, "labels")
        certainty = assess(model, prompts, rows, dcds, detectors, masking, settings, step)
    return Findings(
        statistics=statistics,
        rows=rows,
        dcds=dcds,
        detectors=tuple(detectors),
        steering=steering,
        classifier=report,
        masking=masking,
        certainty=certainty,
    )


def mask(
    model: HookedModel,
    prompts: Sequence[Prompt],
    dcds: Sequence[Dimension],
    settings: Settings,
    progress: StageProgress | None = None,
) -> Criticality:
    """The criticality experiment of the preset; where every dimension is masked, the DCDs are tested too."""
    plan = PLANS[PRESETS[settings.preset].masking]
    also = sorted({dcd.dimension for dcd in dcds}) if plan.exhaustive else []
    return measure_criticality(
        model,
        prompts,
        exam_items(settings),
        plan=plan,
        also=also,
        seed=settings.seed,
        truncate=settings.truncate,
        progress=_stage(progress, "masking"),
    )


@contextmanager
def timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    """Note the seconds that a block takes under the name of a stage."""
    started = time.perf_counter()
    yield
    timings[stage] = time.perf_counter() - started


def _stage(progress: StageProgress | None, stage: str) -> Callable[[int, int], None] | None:
    """The progress hook of one stage."""
    return None if progress is None else lambda done, total: progress(stage, done, total)
