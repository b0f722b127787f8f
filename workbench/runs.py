"""Run folders: made whole or not at all, read back, tabulated and drawn without a model."""

import dataclasses
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.dimensions import frequency_table
from workbench.figures import (
    Section,
    best_per_domain,
    contexts_html,
    detector_caption,
    detector_figure,
    effect_caption,
    effect_figure,
    figure_fragment,
    first_position_caption,
    first_position_figure,
    frequency_caption,
    frequency_figure,
    magnitude_caption,
    magnitude_figure,
    profile_caption,
    profile_figure,
    token_words,
    write_figure,
    write_page,
)
from workbench.records import (
    SELECTIONS,
    Comparison,
    Detector,
    Dimension,
    DimensionStatistics,
    PooledRows,
    folder_lock,
    load_record,
    load_table,
    read_json,
    to_plain,
)

MANIFEST = "manifest.json"
MASKING = "masking"  # folder of the criticality experiment among the records
RARE = 0.05  # dimensions active in a smaller share of every domain's prompts are not drawn
N_BEST = 10  # detectors per domain
N_PROFILES = 24


class RunError(ValueError):
    """A run folder is missing, unfinished, or must not be written over."""


@dataclass(frozen=True)
class Run:
    """The records of a finished run, as they lie in its folder."""

    manifest: Mapping[str, Any]
    statistics: DimensionStatistics
    rows: PooledRows
    dcds: tuple[Dimension, ...]
    detectors: tuple[Detector, ...]
    comparisons: tuple[Comparison, ...]


def check_output(out: Path) -> None:
    """Raise unless `out` is free, an empty folder or an earlier run, and can be written."""
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file; name a folder for the run with --out")
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise RunError(f"{out} holds something that is not a run; name a new or empty folder with --out")
    existing = next(path for path in (out.absolute().parent, *out.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise RunError(f"cannot write {out}: {existing} is not a folder that can be written; choose another --out")


@contextmanager
def new_run_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out` that takes its place when the block ends well and vanishes when it does not.

    An earlier run at `out` stays untouched until then. Raises `LockedError` where another process writes `out`.
    """
    check_output(out)
    out = out.absolute()
    made = [parent for parent in out.parents if not parent.exists()]
    unfinished = out.with_name(f".{out.name}.unfinished-{os.getpid()}")
    try:
        with folder_lock(out):
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            try:
                yield unfinished
                _replace(out, unfinished)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    except BaseException:
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise


def _replace(out: Path, finished: Path) -> None:
    earlier = out.with_name(f".{out.name}.earlier-{os.getpid()}")
    if out.exists():
        out.rename(earlier)
    try:
        finished.rename(out)
    except BaseException:
        if earlier.exists():
            earlier.rename(out)
        raise
    shutil.rmtree(earlier, ignore_errors=True)


def read_run(folder: str | Path) -> Run:
    """Read the records of a finished run; raises `RunError` or `RecordError`, naming what is missing."""
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"there is no run folder {folder}; make one with: workbench study --out {folder}")
    if not (folder / MANIFEST).is_file():
        raise RunError(f"{folder} is not a finished run: it has no {MANIFEST}; make one with: workbench study")
    records = folder / "records"
    return Run(
        manifest=read_json(folder / MANIFEST),
        statistics=load_record(records / "statistics.safetensors", DimensionStatistics),
        rows=load_record(records / "rows.npy", PooledRows),
        dcds=tuple(load_table(records / "dcds.json", Dimension)),
        detectors=tuple(load_table(records / "detectors.json", Detector)),
        comparisons=tuple(load_table(records / "comparisons.json", Comparison)),
    )


def draw_figures(folder: str | Path) -> list[Path]:
    """Draw the figures of a run from its records into `figures/`, each a file that opens without a network."""
    run = read_run(folder)
    out = Path(folder) / "figures"
    out.mkdir(exist_ok=True)
    words = token_words(run.detectors)
    frequency = frequency_table(run.rows)
    drawn = [
        ("magnitudes", magnitude_figure(run.statistics, words=words), magnitude_caption(run.statistics)),
        ("first_positions", first_position_figure(run.statistics), first_position_caption(run.statistics)),
        ("detectors", detector_figure(run.detectors, N_BEST), detector_caption(run.detectors)),
    ]
    if frequency.to_numpy().max() >= RARE:  # otherwise no column would be left to draw
        figure = frequency_figure(frequency, at_least=RARE, words=words)
        drawn.append(("frequency", figure, frequency_caption(frequency)))
    for metric in dict.fromkeys(comparison.metric for comparison in run.comparisons):
        name = "".join(sign if sign.isalnum() else "_" for sign in f"effect_{metric}")
        drawn.append((name, effect_figure(run.comparisons, metric), effect_caption(run.comparisons, metric)))
    paths = [write_figure(figure, out / f"{name}.html", caption=caption) for name, figure, caption in drawn]
    return [*paths, _draw_profiles(run, out), _draw_contexts(run, out)]


def _draw_profiles(run: Run, folder: Path) -> Path:
    """One page with the profile over layers of the first DCDs of every domain and selection."""
    dimensions = list(dict.fromkeys(dcd.dimension for dcd in sorted(run.dcds, key=lambda dcd: dcd.rank)))[:N_PROFILES]
    sections = [
        Section(
            f"dimension-{dimension}",
            f"Dimension {dimension}",
            figure_fragment(
                profile_figure(run.statistics, dimension),
                name=f"profile-{dimension}",
                caption=profile_caption(run.statistics, dimension),
            ),
        )
        for dimension in dimensions
    ]
    return write_page(folder / "profiles.html", title="Dimensions over layers", lead="", sections=sections)


def _draw_contexts(run: Run, folder: Path) -> Path:
    """One page with the top tokens in context of the best detectors of every domain."""
    sections = [
        Section(
            f"detector-{index}",
            f"{detector.domain}, dimension {detector.dimension}, layer {detector.layer}: {detector.label}",
            contexts_html(detector),
        )
        for index, detector in enumerate(best_per_domain(run.detectors, N_BEST))
    ]
    return write_page(folder / "contexts.html", title="Top tokens in context", lead="", sections=sections)


def comparison_frame(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """One row per steered arm and budget."""
    columns = [field.name for field in dataclasses.fields(Comparison)]
    return pd.DataFrame([dataclasses.asdict(comparison) for comparison in comparisons], columns=columns)


def profile_frame(statistics: DimensionStatistics, dimensions: Sequence[int]) -> pd.DataFrame:
    """Magnitude (activation units) and frequency (fraction of prompts) of chosen dimensions, per domain and layer."""
    rows = [
        {
            "domain": domain,
            "layer": layer,
            "dimension": dimension,
            "mean": float(statistics.mean[index, layer, dimension]),
            "standard_deviation": math.sqrt(statistics.variance[index, layer, dimension]),
            "mean_magnitude": float(statistics.mean_magnitude[index, layer, dimension]),
            "max_magnitude": float(statistics.max_magnitude[index, layer, dimension]),
            "frequency": float(statistics.frequency[index, layer, dimension]),
        }
        for index, domain in enumerate(statistics.domains)
        for layer in range(statistics.mean.shape[1])
        for dimension in dimensions
    ]
    return pd.DataFrame(rows)


def summarise(
    model: str,
    domains: Sequence[str],
    dcds: Sequence[Dimension],
    detectors: Sequence[Detector],
    comparisons: Sequence[Comparison],
    seconds: float,
) -> dict[str, Any]:
    """The content of `summary.json`: what was found, in plain values.

    `dcds` holds the default reading, selection by magnitude; `dcds_by_selection` all of them.
    """
    by_selection = {
        selection: {
            domain: [_dcd(dcd) for dcd in dcds if (dcd.domain, dcd.selection) == (domain, selection)]
            for domain in domains
        }
        for selection in SELECTIONS
    }
    return {
        "model": model,
        "domains": list(domains),
        "dcds": by_selection["magnitude"],
        "dcds_by_selection": by_selection,
        "detectors": [
            {
                "domain": detector.domain,
                "layer": detector.layer,
                "dimension": detector.dimension,
                "end": detector.end,
                "label": detector.label,
                "auroc": detector.auroc,
                "top_tokens": [context.token for context in detector.top_tokens],
            }
            for detector in detectors
        ],
        "steering": [to_plain(comparison) for comparison in comparisons],
        "seconds": seconds,
    }


def _dcd(dcd: Dimension) -> dict[str, Any]:
    names = ("dimension", "magnitude", "frequency", "frequency_elsewhere", "rank", "reach")
    return {name: getattr(dcd, name) for name in names}
