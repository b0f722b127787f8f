"""Effect against damage: losses, KL, budgets, the domain classifier, and the comparison of steering methods."""

from workbench.comparison.budgets import Budget, find_strength, find_strengths, kl_budget
from workbench.comparison.comparison import against_unsteered, between_arms, compare_steering, phrase
from workbench.comparison.measurement import measure_steering
from workbench.comparison.presets import PRESETS, Plan, Preset, plan
from workbench.comparison.results import LOSS, SHARE, ArmResult, Measurement
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
    "LOSS",
    "PRESETS",
    "SHARE",
    "ArmResult",
    "Budget",
    "ClassifierReport",
    "DomainClassifier",
    "Interval",
    "Measurement",
    "NeutralText",
    "Plan",
    "Preset",
    "StackedSteering",
    "against_unsteered",
    "between_arms",
    "compare_steering",
    "find_strength",
    "find_strengths",
    "fit_classifier",
    "generate_stacked",
    "is_repetitive",
    "kl_budget",
    "measure_steering",
    "paired_interval",
    "passage_losses",
    "passage_tokens",
    "phrase",
    "plan",
    "token_kl",
    "token_losses",
]
