"""What a study leaves in its run folder: records, tables and the manifest."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.corpus import corpus_hash, neutral_prompts
from workbench.dimensions import dcd_frame, frequency_table, verdict_frame
from workbench.dimensions.detectors import detector_frame
from workbench.dimensions.labels import label_curve, label_frame
from workbench.environment import library_versions, platform_facts
from workbench.interventions import UNSTEERED
from workbench.masking.tables import criticality_tables, save_criticality
from workbench.models import HookedModel, provenance
from workbench.records import SPLITS, Prompt, save_record, save_table, to_plain, write_json
from workbench.records.tables import write_csv
from workbench.runs import MASKING, profile_frame
from workbench.study.settings import PRESETS, Settings
from workbench.study.stages import ROWS, Findings

CERTAINTY = ("verdicts", "selections", "conditions", "readings", "labels")  # each a table of its own


def write_records(folder: Path, findings: Findings) -> None:
    """Write everything that figures and report are drawn from; what was not measured has no file."""
    save_record(findings.statistics, folder / "statistics.safetensors")
    save_record(findings.rows, folder / ROWS)
    save_table(list(findings.dcds), folder / "dcds.json")
    save_table(list(findings.detectors), folder / "detectors.json")
    save_table(list(findings.steering.contrasts), folder / "contrasts.json")
    save_table(list(findings.steering.damages), folder / "damage.json")
    write_json(folder / "classifier.json", findings.classifier)
    for name in CERTAINTY:
        found = list(getattr(findings.certainty, name))
        if found:
            save_table(found, folder / f"{name}.json")
    write_json(folder / "controls.json", findings.certainty.controls)
    save_criticality(findings.masking, folder / MASKING)


def write_tables(folder: Path, findings: Findings) -> None:
    """Write what was found as CSV tables."""
    folder.mkdir()
    dimensions = sorted({dcd.dimension for dcd in findings.dcds})
    contrasts = findings.steering.frames["contrasts"]
    tables = {
        "dcds": dcd_frame(findings.dcds),
        "detectors": detector_frame(findings.detectors),
        "steering": contrasts[contrasts.against == UNSTEERED],
        "steering_between_arms": contrasts[contrasts.against != UNSTEERED],
        "frequency": frequency_table(findings.rows)
        .reset_index()
        .melt(id_vars="domain", var_name="dimension", value_name="frequency"),
        "profiles": profile_frame(findings.statistics, dimensions),
    }
    certainty = findings.certainty
    frames = {"verdicts": verdict_frame(certainty.verdicts), "labels": label_frame(certainty.labels)}
    frames |= {name: _frame(getattr(certainty, name)) for name in ("selections", "conditions", "readings")}
    tables |= {name: frame for name, frame in frames.items() if not frame.empty}
    if certainty.labels:
        tables["label_curve"] = label_curve(certainty.labels)
    tables |= {f"masking_{name}": table for name, table in criticality_tables(findings.masking).items()}
    for name, table in tables.items():
        write_csv(table, folder / f"{name}.csv")


def _frame(records: Sequence[Any]) -> pd.DataFrame:
    return pd.DataFrame([to_plain(item) for item in records])


def manifest(
    settings: Settings, model: HookedModel, prompts: Sequence[Prompt], timings: dict[str, float], seconds: float
) -> dict[str, Any]:
    """Settings, seeds, model, data, versions and timings of a run, without anything of this machine's paths."""
    counts: dict[str, dict[str, int]] = {}
    for prompt in prompts:
        of_domain = counts.setdefault(prompt.domain, dict.fromkeys(SPLITS, 0))
        of_domain[prompt.split] += 1
    return {
        "format": 1,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": replace(settings, model=source_name(settings.model), corpus=source_name(str(settings.corpus))),
        "preset": PRESETS[settings.preset],
        "seeds": {
            "corpus": settings.seed,
            "detectors": settings.seed,
            "steering": settings.seed,
            "masking": settings.seed,
        },
        "model": {
            "name": source_name(model.name),
            "fingerprint": model.fingerprint,
            "layers": model.n_layers,
            "d_model": model.d_model,
            "vocabulary": model.vocabulary_size,
            "context": model.context_length,
            **provenance(model),
        },
        "data": {"corpus": corpus_hash(prompts), "neutral": corpus_hash(neutral_prompts()), "documents": counts},
        "versions": library_versions(),
        "platform": platform_facts(),
        "timings": timings,
        "seconds": seconds,
    }


def source_name(source: str) -> str:
    """A model or corpus without the path of this machine: the last part of a path, anything else as it is."""
    return Path(source).resolve().name if Path(source).expanduser().exists() else source
