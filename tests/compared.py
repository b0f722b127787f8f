"""A question task on the tiny models: which word follows, in three splits, with subjects of two items each."""

import numpy as np

from tests.tiny import WORDS
from workbench.comparison.run import ComparisonTask
from workbench.comparison.spec import BudgetSpec, SizeSpec, Spec, TaskSpec
from workbench.records import SPLITS, Prompt
from workbench.tasks.base import ItemSet, TaskItem
from workbench.tasks.questions import QuestionTask, question_fitting

PLAIN = [word for word in WORDS if word.isalpha()]
KL = 0.05


def question_task(name: str = "words", *, n_subjects: int = 6, seed: int = 0) -> QuestionTask:
    """Items `w1 w2 w3 w4 ->` with one right and one wrong word; prompts are all of one length."""
    generator = np.random.default_rng(seed)
    items = []
    for split in SPLITS:
        for index in range(2 * n_subjects):
            words = generator.choice(PLAIN, size=6, replace=False)
            prompt, answer, other = " ".join(words[:4]), f" {words[4]}", f" {words[5]}"
            subject = f"{split} {index // 2}"
            items.append(TaskItem(f"{split}/{index}", subject, split, prompt, (answer,), (other,)))
    return QuestionTask(name, ItemSet(name, tuple(items)), question_fitting(items), primary="log odds")


def compared(name: str = "words", *, domain: str = "", seed: int = 0) -> ComparisonTask:
    return ComparisonTask(question_task(name, seed=seed), domain, "last", n_positions=10.0, n_new=0)


def neutral() -> list[Prompt]:
    generator = np.random.default_rng(7)
    texts = [" ".join(generator.choice(PLAIN, size=8)) for _ in range(6)]
    return [Prompt(text, "neutral", f"neutral/{index}", "identify") for index, text in enumerate(texts)]


def small_spec(methods: tuple[str, ...] = ("cds", "whole-dimension", "austeer"), *, curves: bool = False) -> Spec:
    sizes = SizeSpec(
        n_neutral=4, n_neutral_tokens=8, n_tune=8, n_test=12, n_fit=12, n_layers=2, n_random=5, n_drawn=1, curves=curves
    )
    budgets = BudgetSpec(kl=(KL,), at_kl=KL)
    return Spec("small", methods, (TaskSpec("words"),), budgets=budgets, sizes=sizes, k=3)
