"""Run folders: made whole or not at all, read back, tabulated and drawn without a model."""

import dataclasses
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.dimensions import frequency_table
from workbench.dimensions.labels import label_curve
from workbench.figures import token_words
from workbench.masking.tables import Criticality, criticality_tables, load_criticality
from workbench.records import (
    SELECTIONS,
    BasisScore,
    Comparison,
    ConditionStability,
    Contrast,
    Damage,
    Detector,
    Dimension,
    DimensionStatistics,
    LabelScore,
    PooledRows,
    ReadingAgreement,
    RecordError,
    SelectionStability,
    StrengthCurve,
    Verdict,
    folder_lock,
    load_record,
    load_table,
    read_json,
    to_plain,
)
from workbench.records.tables import read_csv

MANIFEST = "manifest.json"
MASKING = "masking"  # folder of the criticality experiment among the records
# What a run may hold: the kind of the records where a file is a table of them. Those of a study lie in `records`.
TABLES: Mapping[str, type[Any]] = {
    "dcds": Dimension,
    "detectors": Detector,
    "verdicts": Verdict,
    "labels": LabelScore,
    "selections": SelectionStability,
    "conditions": ConditionStability,
    "readings": ReadingAgreement,
    "bases": BasisScore,
    "contrasts": Contrast,
    "curves": StrengthCurve,
    "damage": Damage,
}
OF_A_STUDY = ("statistics.safetensors", "rows.npy", "dcds.json", "detectors.json", "contrasts.json")
OF_AN_EXAM = "subjects.csv"


class RunError(ValueError):
    """A run folder is missing, unfinished, or must not be written over."""


@dataclass(frozen=True)
class Run:
    """What a run folder holds, read when it is first asked for: of a study, a comparison, or a masked exam.

    Every property raises `RecordError`, naming the file, where its record is missing or damaged; `has` tells before.
    """

    folder: Path

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise RunError(f"there is no run folder {self.folder}; make one with: workbench study --out {self.folder}")

    def path(self, name: str) -> Path:
        """Where a file of the run lies: among its records, or beside them."""
        places = [self.folder / "records" / name, self.folder / name, self.folder / "tables" / name]
        return next((place for place in places if place.exists()), places[0])

    def has(self, name: str) -> bool:
        """Whether a property of this class can be read."""
        files = {"statistics": "statistics.safetensors", "rows": "rows.npy", "frequency": "rows.npy"}
        files |= {"label_curve": "labels.json", "masking": MASKING, "masking_tables": MASKING, "exam": OF_AN_EXAM}
        if name in ("contrasts", "primary"):
            return any(self.path(f"{file}.json").is_file() for file in ("contrasts", "comparisons"))
        return name == "words" or self.path(files.get(name, f"{name}.json")).exists()

    @property
    def is_study(self) -> bool:
        """Whether the folder is that of a study: records in a folder of their own."""
        return (self.folder / "records").is_dir()

    @property
    def missing(self) -> tuple[str, ...]:
        """The files of a finished study that are not there."""
        wanted = ("manifest.json", "summary.json", *OF_A_STUDY)
        return tuple(
            name for name in wanted if not (self.has("contrasts") if "contr" in name else self.path(name).is_file())
        )

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """Settings, seeds, model, data and versions; empty where the run was not finished."""
        return self._json("manifest.json")

    @cached_property
    def summary(self) -> Mapping[str, Any]:
        """What was found, in plain values."""
        return self._json("summary.json")

    @cached_property
    def plan(self) -> Mapping[str, Any]:
        """What a comparison set out to do."""
        return self._json("plan.json")

    @cached_property
    def classifier(self) -> Mapping[str, Any]:
        """Accuracy of the domain classifier."""
        return self._json("classifier.json")

    @cached_property
    def controls(self) -> Mapping[str, float]:
        """Per domain, the fraction of the dimensions not judged that tell it apart as well as a detector must."""
        return {domain: value for domain, value in self._json("controls.json").items() if value is not None}

    @property
    def model_name(self) -> str:
        """The model as a sentence names it."""
        name = self.summary.get("model") or self.manifest.get("model", self.plan.get("model", {})).get("name")
        return "the built-in model" if name == "builtin" else str(name or "a language model")

    @cached_property
    def statistics(self) -> DimensionStatistics:
        return load_record(self.path("statistics.safetensors"), DimensionStatistics)

    @cached_property
    def rows(self) -> PooledRows:
        return load_record(self.path("rows.npy"), PooledRows)

    @cached_property
    def frequency(self) -> pd.DataFrame:
        """Fraction of each domain's prompts in which a dimension is active."""
        return frequency_table(self.rows)

    @cached_property
    def words(self) -> dict[int, tuple[str, ...]]:
        """What fires each dimension, for hover texts; empty without detectors."""
        return token_words(self.detectors) if self.has("detectors") else {}

    dcds = cached_property(lambda self: self._table("dcds"))
    detectors = cached_property(lambda self: self._table("detectors"))
    verdicts = cached_property(lambda self: self._table("verdicts"))
    labels = cached_property(lambda self: self._table("labels"))
    selections = cached_property(lambda self: self._table("selections"))
    conditions = cached_property(lambda self: self._table("conditions"))
    readings = cached_property(lambda self: self._table("readings"))
    bases = cached_property(lambda self: self._table("bases"))
    curves = cached_property(lambda self: self._table("curves"))
    damage = cached_property(lambda self: self._table("damage"))

    @cached_property
    def contrasts(self) -> tuple[Contrast, ...]:
        """All effects: of every arm against the unsteered model, and of arms against each other."""
        if self.path("contrasts.json").is_file():
            return self._table("contrasts")
        found = load_table(self.path("comparisons.json"), Comparison)
        pairs = self.path("between_arms.json")
        return tuple(map(as_contrast, [*found, *(load_table(pairs, Comparison) if pairs.is_file() else [])]))

    @property
    def primary(self) -> tuple[Contrast, ...]:
        """The effects on the metric that a task is about."""
        return tuple(one for one in self.contrasts if one.is_primary)

    @cached_property
    def label_curve(self) -> pd.DataFrame:
        """Held-out score against the fraction of dimensions labelled."""
        return label_curve(self.labels)

    @cached_property
    def masking(self) -> Criticality:
        """The experiment that masked dimensions."""
        return load_criticality(self.path(MASKING))

    @cached_property
    def masking_tables(self) -> dict[str, pd.DataFrame]:
        """Its tables by name."""
        return criticality_tables(self.masking)

    @property
    def masking_path(self) -> str:
        """Whether every dimension was masked ("full") or candidates only ("screened")."""
        return "full" if "zero" in self.masking.plan.exhaustive else "screened"

    @property
    def masking_k(self) -> int:
        """How many of the dimensions needed most are compared with the largest."""
        return self.masking.plan.k

    @cached_property
    def exam(self) -> pd.DataFrame:
        """Accuracy on every subject of an exam with single dimensions masked."""
        return read_csv(self.path(OF_AN_EXAM))

    def frame(self, name: str) -> pd.DataFrame:
        """A table that the run wrote as CSV; empty where there is none."""
        path = self.folder / "tables" / f"{name}.csv"
        return read_csv(path) if path.is_file() else pd.DataFrame()

    def _table(self, name: str) -> tuple[Any, ...]:
        return tuple(load_table(self.path(f"{name}.json"), TABLES[name]))

    def _json(self, name: str) -> dict[str, Any]:
        """A JSON object of the run, its digest checked; empty where there is none."""
        path = self.path(name)
        return read_json(path) if path.is_file() else {}


def read_run(folder: str | Path) -> Run:
    """A finished study; raises `RunError` or `RecordError`, naming what is missing."""
    run = Run(Path(folder))
    if not (run.folder / MANIFEST).is_file():
        raise RunError(f"{folder} is not a finished run: it has no {MANIFEST}; make one with: workbench study")
    gone = [name for name in run.missing if name in OF_A_STUDY]
    if gone:
        raise RecordError(f"{run.folder / 'records' / gone[0]} does not exist; was the run completed?")
    return run


def as_contrast(old: Comparison) -> Contrast:
    """An effect in the form that carries its unit and direction."""
    is_loss, is_measured = "loss" in old.metric, math.isfinite(old.effect) and math.isfinite(old.low)
    verdict = "no difference shown" if is_measured else "not measured"
    if is_measured and (old.low > 0 or old.high < 0):
        verdict = "worse" if (old.effect > 0) == is_loss else "better"
    return Contrast(
        task=f"{old.metric.replace(' ', '-')}/{old.domain}",
        domain=old.domain,
        arm=f"{old.method} ({old.selection})" if old.selection else old.method,
        role="control" if old.method in ("top-k", "random-k") else "method",
        metric=old.metric,
        unit="nats per token" if is_loss else "difference in fraction",
        higher_is_better=not is_loss,
        is_primary=True,
        budget="kl",
        level=old.budget,
        against=old.against,
        setting=f"layer {old.layer}" if old.layer >= 0 else "",
        **{name: getattr(old, name) for name in ("strength", "kl", "effect", "low", "high", "n", "note")},
        **dict.fromkeys(("in_norms", "in_sds", "p", "q"), math.nan),
        n_missing=0,
        verdict=verdict,
        minimum_detectable_effect=(old.high - old.low) / 2,
    )


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
    except BaseException as error:
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        if isinstance(error, OSError) and error.filename is None:  # from a write: the disk is full, say
            raise RunError(f"cannot write {out} ({error.strerror or error}); name another folder") from error
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
    comparisons: Sequence[Comparison | Contrast],
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
