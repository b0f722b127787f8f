"""The door to comparisons: from a model and a few words, or from a specification, to contrasts with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from workbench.comparison.plan import N_OFF_TARGET, arms_of_spec, kind_of
from workbench.comparison.run import CellProgress, ComparisonTask, Run, prepare, run_comparison
from workbench.comparison.spec import BudgetSpec, ModelSpec, SizeSpec, Spec, SpecError, TaskSpec
from workbench.comparison.tables import Outcomes
from workbench.corpus import neutral_prompts
from workbench.models import HookedModel, load_model
from workbench.records import Contrast, Prompt, describe
from workbench.tasks.base import Task
from workbench.tasks.catalogue import KINDS, TaskKind, off_target_tasks


@dataclass(frozen=True, eq=False)
class Comparison:
    """What methods and controls do on tasks at equal cost: one `Contrast` per arm, metric, budget and opponent."""

    run: Run = field(repr=False)
    outcomes: Outcomes = field(repr=False)

    @property
    def contrasts(self) -> tuple[Contrast, ...]:
        return self.outcomes.contrasts

    def frame(self, name: str = "contrasts") -> pd.DataFrame:
        """One of the tables: contrasts, domains, fronts, damage, bands, applicability or settings."""
        if name not in self.outcomes.frames:
            raise ValueError(f"there is no table {name!r}; choose one of {', '.join(self.outcomes.frames)}")
        return self.outcomes.frames[name]

    def __repr__(self) -> str:
        """What methods do on the primary metric of every task, one line each."""
        lines = [describe(one) for one in self.contrasts if one.is_primary and one.role == "method"]
        return "\n".join([f"Comparison on {self.run.model.name}, {len(self.contrasts)} contrasts", *lines])


def compare(
    model: HookedModel,
    *,
    methods: Sequence[str],
    tasks: Sequence[str | TaskSpec | Task],
    kl: float | Sequence[float] = 0.1,
    k: int = 16,
    seed: int = 0,
    sizes: SizeSpec | None = None,
    neutral: Sequence[Prompt] | None = None,
    folder: str | Path | None = None,
    progress: CellProgress | None = None,
) -> Comparison:
    """Compare steering methods with each other and with all controls on tasks, at equal KL to the unsteered model.

    `tasks` are words (`"domain-loss:law"`, `"refusal:away"`, `"items=my.jsonl"`), entries of a specification, or tasks
    of your own. `kl` is in nats per token of `neutral` text (the text that ships by default). Settings are chosen on
    *tune* and reported once on *test*. Cells are kept in `folder`, where the same call resumes, or in a temporary one.
    Raises `SpecError` for unknown methods and tasks, `CellError` where the folder belongs to another comparison.
    """
    levels = (float(kl),) if isinstance(kl, int | float) else tuple(map(float, kl))
    own = [task for task in tasks if not isinstance(task, str | TaskSpec)]
    entries = [
        task_entry(task) if isinstance(task, str) else task for task in tasks if isinstance(task, str | TaskSpec)
    ]
    named = tuple(entries) + tuple(TaskSpec(task.name) for task in own)
    given = ModelSpec(name=model.name)
    budgets = BudgetSpec(kl=levels, at_kl=levels[len(levels) // 2])
    sizes = SizeSpec(curves=False) if sizes is None else sizes
    spec = Spec("compare", tuple(methods), named, given, budgets, sizes, (seed,), k)
    made = [one for entry in entries for one in _tasks_of_entry(spec, entry, model)]
    made += [ComparisonTask(task, "", "mean", 60.0, 0) for task in own]
    run = prepare(spec, model, _distinct(made))
    neutral = neutral_prompts() if neutral is None else neutral
    if folder is not None:
        return Comparison(run, run_comparison(run, Path(folder), neutral, progress=progress))
    with TemporaryDirectory() as temporary:
        return Comparison(run, run_comparison(run, Path(temporary) / "run", neutral, progress=progress))


def task_entry(text: str) -> TaskSpec:
    """A task from words: refusal, refusal:away, domain-loss:law, items=my.jsonl, trait:humorous=personas."""
    head, _, data = text.partition("=")
    kind, _, about = head.partition(":")
    has_domains = kind in KINDS and any(name == "domains" for name in KINDS[kind].__dataclass_fields__)
    options: dict[str, Any] = {"domains": (about,)} if has_domains else {"about": about}
    given: dict[str, Any] = (options if about else {}) | ({"data": data} if data else {})
    return TaskSpec(kind, **given)


def tasks_of_spec(spec: Spec, model: HookedModel) -> list[ComparisonTask]:
    """Every task of a specification, with the work that scoring an item takes on this model."""
    return _distinct([one for entry in spec.tasks for one in _tasks_of_entry(spec, entry, model)])


def _tasks_of_entry(spec: Spec, entry: TaskSpec, model: HookedModel) -> list[ComparisonTask]:
    kind = kind_of(entry)
    found = []
    for label in kind.labels:
        task = kind.make(label, model, allow_download=spec.model.download)
        domain = label if label in kind.known_domains else ""
        others = [one for one in kind.known_domains if one != domain] if domain else []
        if len(others) > N_OFF_TARGET:
            kept = np.random.default_rng([spec.seeds[0], 17]).choice(len(others), size=N_OFF_TARGET, replace=False)
            others = [others[index] for index in sorted(kept)]
        off_target = off_target_tasks(kind, others, model, allow_download=spec.model.download)
        found.append(ComparisonTask(task, domain, kind.pooling, _positions(model, task, kind), kind.n_new, off_target))
    return found


def _distinct(tasks: list[ComparisonTask]) -> list[ComparisonTask]:
    names = [task.name for task in tasks]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise SpecError(f"task {twice[0]!r} is asked for twice, which would make duplicate cells; list it once")
    return tasks


def _positions(model: HookedModel, task: Task, kind: TaskKind) -> float:
    """Mean number of positions run per item: the prompt once for every answer text that is compared."""
    if kind.name == "domain-loss":
        return kind.n_positions
    items = task.items("tune")[:32]
    lengths = [len(model.text.ids(item.prompt)) for item in items]
    texts = [1 if kind.n_new else len(item.answers) + len(item.distractors) for item in items]
    return float(np.mean(np.array(lengths) * np.array(texts)))


def prepare_spec(spec: Spec) -> Run:
    """Load the model and the tasks of a specification, and lay out its cells; unknown names raise before loading."""
    arms_of_spec(spec)
    for entry in spec.tasks:
        kind_of(entry)
    model = open_model(spec.model)
    return prepare(spec, model, tasks_of_spec(spec, model))


def open_model(spec: ModelSpec) -> HookedModel:
    """The model of a specification, on one device, or spread over several where it has a `device_map`."""
    return load_model(
        spec.name,
        device=spec.device,
        dtype=spec.dtype,
        device_map=spec.device_map,
        revision=spec.revision or None,
        allow_download=spec.download,
        attention=spec.attention,
        bos=spec.bos,
        shown_as=spec.shown_as,
    )
