"""Who takes part in a comparison: the tasks, what all of them share, and one arm with what is fitted for it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from workbench.comparison.damage import openings
from workbench.comparison.fitting import Variant, fit_arm
from workbench.comparison.spec import Spec, SpecError
from workbench.comparison.store import CellStore
from workbench.interventions import FitContext, MethodCard, Setting
from workbench.models import HookedModel
from workbench.records import BudgetKind, Prompt, Split
from workbench.tasks.base import Metric, Scores, Task
from workbench.tasks.metrics import NeutralText


@dataclass(frozen=True, eq=False)
class Contest:
    """One task of a comparison: the domain it is about ("" if none), and how directions are pooled over tokens.

    `n_new` tokens are generated and `n_positions` run per item, as the plan reckons. `others` are tasks of one kind on
    other domains, which no arm is chosen by: they show what steering breaks there.
    """

    task: Task
    domain: str
    pooling: Literal["mean", "last"]
    n_positions: float
    n_new: int
    others: tuple[Task, ...] = ()


@dataclass(frozen=True, eq=False)
class Bench:
    """What all tasks share: model, specification, cells, and the neutral text that damage is measured on.

    `openings` of neutral texts are continued by every arm where its task writes nothing.
    """

    model: HookedModel
    spec: Spec
    store: CellStore
    neutral: NeutralText
    openings: tuple[str, ...]

    def n_items(self, split: Split) -> int:
        """How many items of a split are scored at most."""
        return self.spec.sizes.n_tune if split == "tune" else self.spec.sizes.n_test


def make_bench(model: HookedModel, spec: Spec, store: CellStore, neutral: Sequence[Prompt]) -> Bench:
    """Take the neutral text of a comparison; which passages is settled by the first seed."""
    if len(neutral) < 2:
        raise SpecError(f"{len(neutral)} neutral passages are too few to measure damage on; give at least 2")
    order = np.random.default_rng([spec.seeds[0], 1]).permutation(len(neutral))
    texts = [neutral[index].text for index in order[: spec.sizes.n_neutral]]
    measured = NeutralText(model, texts, n_tokens=spec.sizes.n_neutral_tokens)
    return Bench(model, spec, store, measured, openings(texts))


@dataclass(frozen=True, eq=False)
class Entrant:
    """One arm (one draw) on one task with one seed; `twin` names an earlier task that is fitted on the same data."""

    bench: Bench
    contest: Contest
    context: FitContext
    layers: tuple[int, ...]
    arm: MethodCard
    draw: int
    seed: int
    twin: str = ""

    @property
    def metric(self) -> Metric:
        """The one that settings are chosen by."""
        return self.contest.task.metrics[0]

    def settings(self, kind: BudgetKind, level: float) -> dict[str, Setting]:
        """All settings that are tried, at a budget of coordinates with that many units."""
        exact_k = int(level) if kind == "coordinates" else None
        settings = self.arm.settings(self.layers, self.bench.spec.k, self.context.n_heads, exact_k)
        return {setting.name: setting for setting in settings}

    def variant(self, kind: BudgetKind, level: float, name: str) -> Variant:
        """One setting, fitted; raises `NotApplicable` where the data do not allow it."""
        setting = replace(self.settings(kind, level)[name], draw=self.draw)
        return fit_arm(self.arm, self.context, setting, self.bench.spec.scope)

    def baseline(self, split: Split, *, is_prompted: bool = False) -> Scores:
        task = self.contest.task.prompted() if is_prompted else self.contest.task
        return task.score(self.bench.model, split, n=self.bench.n_items(split), seed=self.seed)
