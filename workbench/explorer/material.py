"""What the explorer shows, gathered once: the records of a run folder, or of a model over a corpus."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from workbench.activations import collect, collect_columns
from workbench.corpus import corpus_hash, load_corpus
from workbench.dimensions import find_dcds, find_verdicts
from workbench.dimensions.detectors import find_detectors
from workbench.dimensions.verdicts import MIN_PASSAGES
from workbench.models import HookedModel, load_model
from workbench.models.loading import BUILTIN
from workbench.records import (
    SELECTIONS,
    Detector,
    Dimension,
    DimensionStatistics,
    PooledRows,
    Prompt,
    Split,
    Verdict,
)
from workbench.runs import read_run

Progress = Callable[[int, int], None]  # (prompts done, prompts in all)

DOCUMENTS_PER_DOMAIN = 60
ENOUGH_IN: tuple[Split, ...] = ("identify", "test")


class ExplorerError(ValueError):
    """The explorer is asked for something that its records do not hold; the message says what to do."""


@dataclass(frozen=True)
class Material:
    """The records behind map and cards. Without `model` nothing is steered; without `prompts` contexts are those of
    the detectors alone. The prompt addresses of `statistics` count in `prompts`."""

    name: str
    statistics: DimensionStatistics
    rows: PooledRows
    dcds: tuple[Dimension, ...]
    detectors: tuple[Detector, ...]
    verdicts: tuple[Verdict, ...] = ()
    model: HookedModel | None = None
    prompts: tuple[Prompt, ...] = ()

    @property
    def n_layers(self) -> int:
        return self.statistics.mean.shape[1]

    @property
    def d_model(self) -> int:
        return self.statistics.mean.shape[2]

    @cached_property
    def evidence(self) -> dict[tuple[str, int], Dimension]:
        """Magnitude, frequency and reach of every dimension in every domain, ranked by magnitude."""
        every = find_dcds(self.rows, k=self.d_model)
        return {(dimension.domain, dimension.dimension): dimension for dimension in every}

    def chosen(self, domain: str) -> list[int]:
        """The domain-critical dimensions of a domain, selected by magnitude."""
        return [dcd.dimension for dcd in self.dcds if (dcd.domain, dcd.selection) == (domain, "magnitude")]


def from_run(folder: Path, *, model: HookedModel | None = None, prompts: Sequence[Prompt] | None = None) -> Material:
    """The records of a run folder; with its model they can be steered with, with its prompts every context is shown.

    A run of the built-in model or corpus finds these by itself; those of another are passed in, as they were for the
    run. Raises `ExplorerError` where model or prompts are not the ones that the run was made with.
    """
    run = read_run(folder)
    settings, made_with = run.manifest["settings"], run.manifest["model"]
    if model is None and made_with["name"] == BUILTIN:
        model = load_model()
    if model is not None and model.fingerprint != made_with["fingerprint"]:
        raise ExplorerError(
            f"{folder} was made with another model ({made_with['name']}, {made_with['fingerprint'][:8]}) than "
            f"{model.name} ({model.fingerprint[:8]}); make the run again with: workbench study --out {folder}"
        )
    if prompts is None and model is not None and settings["corpus"] == BUILTIN:
        prompts = load_corpus(
            BUILTIN,
            domains=settings["domains"],
            seed=settings["seed"],
            limit=run.manifest["preset"]["documents_per_domain"],
            max_characters=min(settings["max_characters"], model.context_length - 1),
        )
    if prompts is not None and corpus_hash(prompts) != run.manifest["data"]["corpus"]:
        raise ExplorerError(
            f"{folder} was made with other passages than these {len(prompts)}; pass those of the run, with its "
            "domains, seed and lengths, or make the run again"
        )
    verdicts = run.verdicts if run.has("verdicts") else ()
    found = (made_with["name"], run.statistics, run.rows, run.dcds, run.detectors, verdicts)
    return Material(*found, model, tuple(prompts or ()))


def from_model(
    model: HookedModel,
    prompts: Sequence[Prompt] | None = None,
    *,
    k: int = 8,
    dimensions: Sequence[int] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Material:
    """Run a model over prompts (by default 60 built-in passages per domain), select and label; nothing is written.

    Labels are looked for on the domain-critical dimensions, or on `dimensions` in every domain. Two passes over the
    prompts. Verdicts are reached without masking, so they carry no costs.
    """
    if prompts is None:
        longest = min(1500, model.context_length - 1)
        prompts = load_corpus(BUILTIN, seed=seed, limit=DOCUMENTS_PER_DOMAIN, max_characters=longest)
    statistics, rows = collect(model, prompts, statistics_split="identify", progress=progress)
    dcds = [dcd for selection in SELECTIONS for dcd in find_dcds(rows, k=k, selection=selection)]
    if dimensions is None:
        read = list({(dcd.domain, dcd.dimension): dcd for dcd in dcds}.values())
    else:
        wrong = [dimension for dimension in dimensions if not 0 <= dimension < model.d_model]
        if wrong:
            raise ExplorerError(f"dimensions {wrong} are out of range; {model.name} has 0 to {model.d_model - 1}")
        read = [each for each in find_dcds(rows, k=model.d_model) if each.dimension in dimensions]
    indices = sorted({each.dimension for each in read})
    columns = [(layer, index) for layer in range(model.n_layers) for index in indices]
    values = collect_columns(model, prompts, columns, progress=progress)
    words: dict[int, Any] = {index: model.promoted_tokens(index) for index in indices}
    detectors = find_detectors(statistics, values, read, words, prompts, seed=seed)
    verdicts = _judged(rows, read, detectors)
    return Material(model.name, statistics, rows, tuple(dcds), tuple(detectors), verdicts, model, tuple(prompts))


def _judged(rows: PooledRows, read: Sequence[Dimension], detectors: Sequence[Detector]) -> tuple[Verdict, ...]:
    """Verdicts without masking, or none where a domain has too few passages for an interval."""
    fewest = min(
        int(rows.where(split=split, domain=domain).sum()) for split in ENOUGH_IN for domain in set(rows.domains)
    )
    return tuple(find_verdicts(rows, read, detectors=detectors)) if fewest >= MIN_PASSAGES else ()
