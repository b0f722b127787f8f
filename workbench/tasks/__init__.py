"""Tasks of a comparison: domain adaptation, refusal, persona, facts, choices; on the built-in model and on yours."""

from workbench.interventions import FittingData, same_length
from workbench.tasks.base import (
    ItemSet,
    Metric,
    Scores,
    Task,
    TaskError,
    TaskItem,
)
from workbench.tasks.builtin import (
    builtin_choices,
    builtin_facts,
    builtin_persona,
    builtin_refusal,
    domain_exam,
    domain_loss,
    domain_share,
)
from workbench.tasks.generation import DomainJudge, FunctionJudge, Judge, MarkerJudge, WritingTask, Written
from workbench.tasks.passages import PassageTask
from workbench.tasks.persona import persona_task
from workbench.tasks.questions import LetteredQuestion, QuestionTask
from workbench.tasks.refusal import RefusalJudge, refusal_classifier, refusal_task

__all__ = [
    "DomainJudge",
    "FittingData",
    "FunctionJudge",
    "ItemSet",
    "Judge",
    "LetteredQuestion",
    "MarkerJudge",
    "Metric",
    "PassageTask",
    "QuestionTask",
    "RefusalJudge",
    "Scores",
    "Task",
    "TaskError",
    "TaskItem",
    "WritingTask",
    "Written",
    "builtin_choices",
    "builtin_facts",
    "builtin_persona",
    "builtin_refusal",
    "domain_exam",
    "domain_loss",
    "domain_share",
    "persona_task",
    "refusal_classifier",
    "refusal_task",
    "same_length",
]
