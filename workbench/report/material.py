"""What a run folder holds, read once for all sections of the report, and the small pieces that sections are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from workbench.figures import Figure, figure_fragment
from workbench.records import (
    Comparison,
    Detector,
    Dimension,
    DimensionStatistics,
    PooledRows,
    load_record,
    load_table,
    read_json,
)

MAX_DOMAINS = 12  # panels of a figure; further domains stand in the tables


@dataclass(frozen=True)
class Material:
    """What a run folder holds; `missing` names the files that are not there.

    `folder` is the run folder, for sections that read records of their own.
    """

    folder: Path
    manifest: Mapping[str, Any]
    summary: Mapping[str, Any]
    statistics: DimensionStatistics | None
    rows: PooledRows | None
    dcds: tuple[Dimension, ...]
    detectors: tuple[Detector, ...]
    comparisons: tuple[Comparison, ...]
    classifier: Mapping[str, Any]
    missing: tuple[str, ...]


def read_material(folder: Path) -> Material:
    """Read a run folder; raises ValueError where it holds no record at all."""
    records = folder / "records"
    paths = {path.name: path for path in records.glob("*")} if records.is_dir() else {}
    paths |= {name: folder / name for name in ("manifest.json", "summary.json") if (folder / name).is_file()}
    expected = ("statistics.safetensors", "rows.npy", "dcds.json", "detectors.json", "comparisons.json")
    if not any(name in paths for name in expected):
        raise ValueError(f"{folder} holds no records; make a run with: workbench study --out {folder}")
    statistics, rows = paths.get("statistics.safetensors"), paths.get("rows.npy")
    return Material(
        folder=folder,
        manifest=read_facts(paths.get("manifest.json")),
        summary=read_facts(paths.get("summary.json")),
        statistics=load_record(statistics, DimensionStatistics) if statistics else None,
        rows=load_record(rows, PooledRows) if rows else None,
        dcds=read_table(paths, "dcds.json", Dimension),
        detectors=read_table(paths, "detectors.json", Detector),
        comparisons=(
            read_table(paths, "comparisons.json", Comparison) + read_table(paths, "between_arms.json", Comparison)
        ),
        classifier=read_facts(paths.get("classifier.json")),
        missing=tuple(name for name in ("manifest.json", "summary.json", *expected) if name not in paths),
    )


def read_facts(path: Path | None) -> Mapping[str, Any]:
    """The content of a JSON file, empty where there is none."""
    return read_json(path) if path else {}


def read_table(paths: Mapping[str, Path], name: str, kind: type[Any]) -> tuple[Any, ...]:
    """The records of a table file, none where there is no file."""
    return tuple(load_table(paths[name], kind)) if name in paths else ()


def model_name(material: Material) -> str:
    """The model as a sentence names it."""
    name = material.summary.get("model") or material.manifest.get("model", {}).get("name")
    return "the built-in model" if name == "builtin" else str(name or "a language model")


def plot(figure: Figure, name: str, caption: str) -> str:
    """A figure with its caption; `name` is its anchor in the page."""
    return figure_fragment(figure, name=name, caption=caption)


def paragraph(text: str) -> str:
    """Plain text as a paragraph."""
    return f"<p>{escape(text)}</p>"


def absent(what: str) -> str:
    """The note that stands in place of what the run does not hold."""
    return f'<p class="note">This run holds no {escape(what)}, so nothing is shown here.</p>'


def shown(domains: Sequence[str]) -> tuple[list[str], str]:
    """The domains that get a panel, and a sentence about the others."""
    kept = list(domains[:MAX_DOMAINS])
    rest = f"The first {len(kept)} of {len(domains)} domains are drawn." if len(kept) < len(domains) else ""
    return kept, paragraph(rest) if rest else ""
