"""The main job: from a model and a corpus to DCDs, detectors, a steering comparison, and a run folder with a report."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workbench.activations import collect, collect_columns
from workbench.corpus import corpus_hash, load_corpus, neutral_prompts
from workbench.detectors import detector_frame, find_detectors
from workbench.dimensions import dcd_frame, find_dcds, frequency_table
from workbench.environment import library_versions, platform_facts
from workbench.estimate import Estimate, estimate_study
from workbench.evaluation import against_unsteered, between_arms, measure_steering
from workbench.evaluation.classifier import ClassifierReport
from workbench.models import HookedModel, load_model
from workbench.records import (
    SELECTIONS,
    SPLITS,
    Comparison,
    Detector,
    Dimension,
    DimensionStatistics,
    PooledRows,
    Prompt,
    Selection,
    save_pooled_rows,
    save_statistics,
    save_table,
)
from workbench.report import write_report
from workbench.runs import (
    MANIFEST,
    comparison_frame,
    draw_figures,
    new_run_folder,
    profile_frame,
    summarise,
    write_json,
)

StageProgress = Callable[[str, int, int], None]  # (stage, done, total)
Selected = dict[tuple[str, Selection], list[Dimension]]

ROWS = "rows.npy"


@dataclass(frozen=True)
class Preset:
    """How much work a study does; written into its manifest. `documents_per_domain` None takes all."""

    name: str
    documents_per_domain: int | None
    n_top: int
    kl_levels: tuple[float, ...]


PRESETS = {
    "full": Preset("full", documents_per_domain=None, n_top=20, kl_levels=(0.03, 0.1, 0.3)),
    "quick": Preset("quick", documents_per_domain=60, n_top=10, kl_levels=(0.1,)),
}


@dataclass(frozen=True)
class Settings:
    """What a study was asked to do."""

    model: str = "builtin"
    corpus: str | Path = "builtin"
    domains: tuple[str, ...] | None = None
    k: int = 8
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    preset: str = "full"
    batch_size: int = 32
    truncate: bool = False
    allow_download: bool = False
    max_characters: int = 1500

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"unknown preset {self.preset!r}; choose one of {', '.join(PRESETS)}")
        if self.k < 1:
            raise ValueError(f"k is {self.k}; at least one dimension per domain is needed, such as --k 8")
        if self.batch_size < 1:
            raise ValueError(f"batch size is {self.batch_size}; at least 1 is needed")


@dataclass(frozen=True)
class Findings:
    """What a study found, before it is written."""

    statistics: DimensionStatistics
    rows: PooledRows
    dcds: tuple[Dimension, ...]
    detectors: tuple[Detector, ...]
    comparisons: tuple[Comparison, ...]
    between: tuple[Comparison, ...]
    classifier: ClassifierReport


def run_study(
    model: str = "builtin",
    *,
    corpus: str | Path = "builtin",
    domains: Sequence[str] | None = None,
    k: int = 8,
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
    out: Path = Path("runs/study"),
    preset: str = "full",
) -> Path:
    """Find, label and steer the DCDs of a model over a corpus and write everything into the folder `out`.

    The folder appears only when all is done; an earlier run there is replaced, anything else is refused. The same seed
    gives the same tables. Raises `ValueError` with one clear line for whatever cannot be done as asked.
    """
    chosen = None if domains is None else tuple(domains)
    return perform(Settings(model, corpus, chosen, k, seed, device, dtype, preset), out)


def perform(
    settings: Settings,
    out: Path,
    *,
    progress: StageProgress | None = None,
    on_estimate: Callable[[Estimate], None] | None = None,
) -> Path:
    """`run_study` with all settings; `on_estimate` hears time and memory before the long part begins."""
    started, timings = time.perf_counter(), {}
    with new_run_folder(out) as folder:
        with _timed(timings, "load"):
            load_passages(settings)  # a mistake in the corpus shows before the model is loaded
            model = open_model(settings)
            prompts = load_passages(settings, model)
        if on_estimate is not None:
            on_estimate(_estimate(model, prompts, settings))
        records = folder / "records"
        records.mkdir()
        findings = _investigate(model, prompts, settings, timings, progress, records)
        with _timed(timings, "write"):
            _write_records(records, findings)
            _write_tables(folder / "tables", findings)
            seconds = time.perf_counter() - started
            found = (findings.statistics.domains, findings.dcds, findings.detectors, findings.comparisons)
            summary = summarise(_name(model.name), *found, seconds) | {"classifier": findings.classifier}
            write_json(folder / "summary.json", summary)
            write_json(folder / MANIFEST, _manifest(settings, model, prompts, timings, seconds))
            draw_figures(folder)
            write_report(folder)
        del findings  # it maps a file in the folder, which must be closed where open files cannot be moved
    return out


def open_model(settings: Settings) -> HookedModel:
    """Load the model of the settings and check that k fits it."""
    model = load_model(
        settings.model, device=settings.device, dtype=settings.dtype, allow_download=settings.allow_download
    )
    if settings.k > model.d_model:
        raise ValueError(
            f"k is {settings.k}, but {model.name} has {model.d_model} residual dimensions; choose a smaller k"
        )
    return model


def load_passages(settings: Settings, model: HookedModel | None = None) -> list[Prompt]:
    """The passages of the corpus; documents are cut so that a passage fits the model.

    A token stands for at least one character in nearly all text, so a passage has fewer characters than the context has
    tokens; what is still too long raises when it is tokenised, unless truncation was asked for.
    """
    longest = settings.max_characters if model is None else min(settings.max_characters, model.context_length - 1)
    return load_corpus(
        settings.corpus,
        domains=settings.domains,
        seed=settings.seed,
        limit=PRESETS[settings.preset].documents_per_domain,
        max_characters=longest,
        allow_download=settings.allow_download,
    )


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
        split="identify",
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


def _investigate(
    model: HookedModel,
    prompts: Sequence[Prompt],
    settings: Settings,
    timings: dict[str, float],
    progress: StageProgress | None,
    records: Path,
) -> Findings:
    with _timed(timings, "statistics"):
        statistics, rows = survey(model, prompts, settings, progress, records / ROWS)
        selected = select(rows, settings.k)
    dcds = tuple(dcd for group in selected.values() for dcd in group)
    with _timed(timings, "detectors"):
        detectors = label(model, prompts, statistics, dcds, settings, progress)
    with _timed(timings, "steering"):
        measured = measure_steering(
            model,
            prompts,
            neutral_prompts(),
            selected,
            kl_levels=PRESETS[settings.preset].kl_levels,
            seed=settings.seed,
            preset=settings.preset,
            rows=rows,
            progress=_stage(progress, "steering"),
        )
        comparisons = against_unsteered(measured.results, seed=settings.seed)
        between = between_arms(measured.results, seed=settings.seed)
    return Findings(statistics, rows, dcds, tuple(detectors), tuple(comparisons), tuple(between), measured.classifier)


def _estimate(model: HookedModel, prompts: Sequence[Prompt], settings: Settings) -> Estimate:
    n_domains = len({prompt.domain for prompt in prompts})
    return estimate_study(
        model,
        prompts,
        neutral_prompts(),
        kl_levels=PRESETS[settings.preset].kl_levels,
        preset=settings.preset,
        n_columns=model.n_layers * min(model.d_model, n_domains * settings.k),
        batch_size=settings.batch_size,
        truncate=settings.truncate,
    )


def _write_records(folder: Path, findings: Findings) -> None:
    save_statistics(findings.statistics, folder / "statistics.safetensors")
    save_pooled_rows(findings.rows, folder / ROWS)
    save_table(list(findings.dcds), folder / "dcds.json")
    save_table(list(findings.detectors), folder / "detectors.json")
    save_table(list(findings.comparisons), folder / "comparisons.json")
    save_table(list(findings.between), folder / "between_arms.json")
    write_json(folder / "classifier.json", findings.classifier)


def _write_tables(folder: Path, findings: Findings) -> None:
    folder.mkdir()
    dimensions = sorted({dcd.dimension for dcd in findings.dcds})
    tables = {
        "dcds": dcd_frame(findings.dcds),
        "detectors": detector_frame(findings.detectors),
        "steering": comparison_frame(findings.comparisons),
        "steering_between_arms": comparison_frame(findings.between),
        "frequency": frequency_table(findings.rows)
        .reset_index()
        .melt(id_vars="domain", var_name="dimension", value_name="frequency"),
        "profiles": profile_frame(findings.statistics, dimensions),
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)


def _manifest(
    settings: Settings, model: HookedModel, prompts: Sequence[Prompt], timings: dict[str, float], seconds: float
) -> dict[str, Any]:
    counts: dict[str, dict[str, int]] = {}
    for prompt in prompts:
        of_domain = counts.setdefault(prompt.domain, dict.fromkeys(SPLITS, 0))
        of_domain[prompt.split] += 1
    return {
        "format": 1,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": replace(settings, model=_name(settings.model), corpus=_name(str(settings.corpus))),
        "preset": PRESETS[settings.preset],
        "seeds": {"corpus": settings.seed, "detectors": settings.seed, "steering": settings.seed},
        "model": {
            "name": _name(model.name),
            "fingerprint": model.fingerprint,
            "layers": model.n_layers,
            "d_model": model.d_model,
            "vocabulary": model.vocabulary_size,
            "context": model.context_length,
        },
        "data": {"corpus": corpus_hash(prompts), "neutral": corpus_hash(neutral_prompts()), "documents": counts},
        "versions": library_versions(),
        "platform": platform_facts(),
        "timings": timings,
        "seconds": seconds,
    }


def _name(source: str) -> str:
    """A model or corpus without the path of this machine: the last part of a path, anything else as it is."""
    return Path(source).resolve().name if Path(source).expanduser().exists() else source


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    timings[stage] = time.perf_counter() - started


def _stage(progress: StageProgress | None, stage: str) -> Callable[[int, int], None] | None:
    """The progress hook of one stage."""
    return None if progress is None else lambda done, total: progress(stage, done, total)
