"""Tasks of a comparison: domain adaptation, refusal, persona, facts, choices; on the built-in model and on yours."""

from workbench.evaluation.tasks.base import (
    FittingData,
    ItemSet,
    Metric,
    Scores,
    Task,
    TaskError,
    TaskItem,
    same_length,
)

__all__ = ["FittingData", "ItemSet", "Metric", "Scores", "Task", "TaskError", "TaskItem", "same_length"]
