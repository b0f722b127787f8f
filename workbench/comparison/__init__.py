"""Effect against damage: losses, KL, budgets, the domain classifier, and the comparison of steering methods."""

from workbench.comparison.api import Comparison, compare
from workbench.comparison.budgets import Budget, find_strength, find_strengths, kl_budget
from workbench.statistics import Interval, paired_interval
from workbench.tasks.judges import ClassifierReport, DomainClassifier, fit_classifier
from workbench.tasks.metrics import (
    NeutralText,
    StackedSteering,
    generate_stacked,
    is_repetitive,
    passage_losses,
    passage_tokens,
    token_kl,
    token_losses,
)

__all__ = [
    "Budget",
    "ClassifierReport",
    "Comparison",
    "DomainClassifier",
    "Interval",
    "NeutralText",
    "StackedSteering",
    "compare",
    "find_strength",
    "find_strengths",
    "fit_classifier",
    "generate_stacked",
    "is_repetitive",
    "kl_budget",
    "paired_interval",
    "passage_losses",
    "passage_tokens",
    "token_kl",
    "token_losses",
]
