"""The main job: from a model and a corpus to DCDs, detectors, a steering comparison, masking, and a run folder with a
report."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from workbench.corpus import neutral_prompts
from workbench.costs import Estimate, masking_passages, mean_length, memory_of, seconds_of
from workbench.interventions import UNSTEERED
from workbench.masking.experiment import PLANS, planned_costs
from workbench.masking.tables import summarise_criticality
from workbench.models import HookedModel
from workbench.records import Prompt, write_json
from workbench.records.tables import write_csv
from workbench.report import write_report
from workbench.runs import MANIFEST, new_run_folder, summarise
from workbench.study.certainty import summarise_certainty
from workbench.study.planting import planted_frame
from workbench.study.settings import PRESETS, Preset, Settings, exam_items, load_passages, open_model, planted_truth
from workbench.study.stages import Findings, StageProgress, investigate, label, mask, select, survey, timed
from workbench.study.steering import SIZES, steering_run
from workbench.study.writing import manifest, source_name, write_records, write_tables
from workbench.tasks.judges import fit_classifier

__all__ = [
    "PRESETS",
    "Findings",
    "Preset",
    "Settings",
    "StageProgress",
    "label",
    "load_passages",
    "mask",
    "open_model",
    "perform",
    "run_study",
    "select",
    "survey",
]


def run_study(
    model: str = "builtin",
    *,
    corpus: str | Path = "builtin",
    domains: Sequence[str] | None = None,
    k: int = 8,
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
    out: str | Path = "runs/study",
    preset: str = "full",
) -> Path:
    """Find, label and steer the DCDs of a model over a corpus and write everything into the folder `out`.

    The folder appears only when all is done; an earlier run there is replaced, anything else is refused. The same seed
    gives the same tables. Raises `ValueError` with one clear line for whatever cannot be done as asked.
    """
    chosen = None if domains is None else tuple(domains)
    return perform(Settings(model, corpus, chosen, k, seed, device, dtype, preset), Path(out))


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
        with timed(timings, "load"):
            load_passages(settings)  # a mistake in the corpus shows before the model is loaded
            model = open_model(settings)
            prompts = load_passages(settings, model)
        if on_estimate is not None:
            on_estimate(_estimate(model, prompts, settings))
        records = folder / "records"
        records.mkdir()
        findings = investigate(model, prompts, settings, timings, progress, records)
        with timed(timings, "write"):
            write_records(records, findings)
            write_tables(folder / "tables", findings)
            truth = planted_truth(settings)
            if truth is not None:
                write_csv(planted_frame(truth, findings), folder / "tables" / "planted.csv")
            seconds = time.perf_counter() - started
            effects = [one for one in findings.steering.contrasts if one.against == UNSTEERED]
            found = (findings.statistics.domains, findings.dcds, findings.detectors, effects)
            summary = summarise(source_name(model.name), *found, seconds)
            summary |= {
                "classifier": findings.classifier,
                "masking": summarise_criticality(findings.masking),
            }
            summary |= summarise_certainty(findings.certainty)
            write_json(folder / "summary.json", summary)
            write_json(folder / MANIFEST, manifest(settings, model, prompts, timings, seconds))
            write_report(folder)
        del findings  # it maps a file in the folder, which must be closed where open files cannot be moved
    return out


def _estimate(model: HookedModel, prompts: Sequence[Prompt], settings: Settings) -> Estimate:
    """Two passes over the corpus (and two over *identify* for its conditions), the steering comparison and masking."""
    preset = PRESETS[settings.preset]
    options = {"kl_levels": preset.kl_levels, "k": settings.k, "seed": settings.seed}
    sizes, classifier = SIZES[settings.preset], fit_classifier(prompts)
    steering = steering_run(model, prompts, neutral_prompts(), None, sizes, classifier=classifier, **options).plan
    masking = planned_costs(PLANS[preset.masking], prompts, exam_items(settings), model.d_model)
    passages = masking_passages(masking)
    n_identify = sum(prompt.split == "identify" for prompt in prompts)
    passages["read"] = 2.0 * len(prompts) + (2.0 * n_identify if preset.is_thorough else 0.0)
    passages["masked"] += steering.n_positions / mean_length(model, prompts)
    passages["generated"] = float(steering.n_generated)
    options = {"batch_size": settings.batch_size, "truncate": settings.truncate}
    n_columns = model.n_layers * min(model.d_model, len({prompt.domain for prompt in prompts}) * settings.k)
    memory = memory_of(model, prompts, n_columns=n_columns, batch_size=settings.batch_size)
    return Estimate(seconds_of(model, prompts, passages, **options), memory)
