"""Persona: does the model answer in character without being told to, and what is fitted on to make it?"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from workbench.interventions import Exchange, FittingData
from workbench.models import HookedModel
from workbench.records import Pair
from workbench.tasks.base import ItemSet, TaskError, TaskItem
from workbench.tasks.generation import Judge, MarkerJudge, WritingTask, write

MARKER = "marker"


def persona_task(
    name: str,
    items: Sequence[TaskItem],
    *,
    prompted_items: Sequence[TaskItem],
    judge: Judge | None = None,
    n_tokens: int = 40,
    temperature: float = 0.0,
) -> WritingTask:
    """Plain prompts to be answered in a persona; `prompted_items` are the same with the persona in the system line.

    Without a `judge` of its own a text is in character where it holds one of the item's answers (markers) and none of
    its distractors (markers of other personas).
    """
    names = [item.name for item in items]
    if [item.name for item in prompted_items] != names:
        raise TaskError(f"task {name}: prompted items must be the same items, in the same order, with another prompt")
    if judge is None:
        bare = [item.name for item in items if not item.answers]
        if bare:
            raise TaskError(f"task {name}: item {bare[0]} has no marker words to judge by; give some, or pass a judge")
        judge = MarkerJudge(MARKER)
    task = WritingTask(
        name,
        ItemSet(name, tuple(items)),
        judge,
        _no_data,
        n_tokens=n_tokens,
        temperature=temperature,
        prompted_items=tuple(prompted_items),
    )
    return replace(task, data=_fitting(task))


def _no_data(model: HookedModel) -> FittingData:
    raise AssertionError("replaced when the task is made")


def _fitting(task: WritingTask) -> Callable[[HookedModel], FittingData]:
    """The model's own answers to *identify* prompts, in the persona (those judged so) and plain (those not judged so).

    As published for Style Modulation Heads: a response counts for its side where the judge agrees. Pairs are the two
    prompts, each with its own response, where both count.
    """
    plain = [item for item in task.item_set.items if item.split == "identify"]
    told = [item for item in task.prompted_items if item.split == "identify"]
    # Several plain items may share one told prompt; each prompt is continued once.
    first = {item.prompt: item for item in reversed(told)}

    def fit_data(model: HookedModel) -> FittingData:
        if not plain:
            raise TaskError(f"task {task.name} has no identify items to fit on; give items of that split")
        metric = task.metrics[0]
        middle = sum(metric.bounds) / 2
        sides: list[dict[str, str]] = []
        for items, is_told in ((list(first.values()), True), (plain, False)):
            written = write(model, items, n_tokens=task.n_tokens, temperature=task.temperature)[0]
            verdicts = task.judge(written)[metric.name]
            kept = [
                one
                for one, value in zip(written, verdicts, strict=True)
                if one.text.strip() and (value > middle if is_told == metric.higher_is_better else value <= middle)
            ]
            sides.append({one.item.prompt: one.text for one in kept})
        positive, negative = sides
        if not positive or not negative:
            which = "in character when told to be" if not positive else "out of character when not told"
            raise TaskError(f"task {task.name}: {model.name} is never {which}, so there is nothing to fit on")
        pairs = [
            Pair(one.prompt + positive[one.prompt], other.prompt + negative[other.prompt])
            for other, one in zip(plain, told, strict=True)
            if one.prompt in positive and other.prompt in negative
        ]
        return FittingData(
            tuple(prompt + text for prompt, text in positive.items()),
            tuple(prompt + text for prompt, text in negative.items()),
            pairs=tuple(pairs),
            positive_exchanges=tuple(Exchange(*one) for one in positive.items()),
            negative_exchanges=tuple(Exchange(*one) for one in negative.items()),
        )

    return fit_data
