"""Domain loss: how well the model predicts held-out passages of a domain."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

from workbench.interventions import FittingData, Scope, Where
from workbench.models import HookedModel
from workbench.tasks.base import ItemSet, ItemTask, Metric, Scores, TaskError, TaskItem
from workbench.tasks.metrics import Part
from workbench.tasks.scoring import passage_means

LOSS = Metric("domain loss", "nats per token", higher_is_better=False, bounds=(0.0, float("inf")))


@final
@dataclass(frozen=True)
class PassageTask(ItemTask):
    """Mean loss of the first `n_tokens` tokens of every passage, in nats per token.

    `context` is put in front of every passage and is not scored itself; `request` is the context of the prompt-only
    baseline.
    """

    name: str
    item_set: ItemSet
    data: Callable[[HookedModel], FittingData]
    n_tokens: int = 32
    context: str = ""
    request: str = ""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (LOSS,)

    def score_items(
        self, model: HookedModel, items: Sequence[TaskItem], parts: Sequence[Part], scope: Scope | Where, seed: int
    ) -> list[Scores]:
        texts = [item.prompt for item in items]
        losses = passage_means(model, texts, parts, scope, n_tokens=self.n_tokens, context=self.context)
        return [Scores.of(items, {LOSS.name: row}) for row in losses]

    def prompted(self) -> "PassageTask":
        if not self.request:
            raise TaskError(f"task {self.name} has no words for its wish, so there is no prompt-only baseline")
        return replace(self, name=f"{self.name}+prompt", context=self.request, request="")
