"""The kinds of tasks by the names they have in specifications: one class each, with its own options.

What is known of a kind before anything is loaded (typical lengths, which fitting data it gives) stands in the class,
so that a comparison can be planned without weights.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, cast, get_args

from workbench.models import HookedModel
from workbench.models.loading import BUILTIN
from workbench.records import ChoiceItem
from workbench.tasks.base import Task, TaskError
from workbench.tasks.builtin import (
    Choices,
    Facts,
    builtin_choices,
    builtin_facts,
    builtin_persona,
    builtin_refusal,
    domain_exam,
    domain_loss,
    domain_share,
)
from workbench.tasks.files import attack_task, exam_task, item_task, pair_task, trait_files, trait_task
from workbench.tasks.loaders import load_questions
from workbench.tasks.refusal import Direction

BUILTIN_DOMAINS = ("biology", "code", "humanities", "law", "literature", "mathematics", "physics")


@dataclass(frozen=True)
class TaskKind(ABC):
    """A kind of task with its options, which are the fields of its class.

    `lacks` names the fitting data it cannot give, `n_positions` and `n_new` are typical positions run and tokens
    generated per item. Other domains are scored by tasks of the kind `off_target`, if that is not "".
    """

    name: ClassVar[str]
    pooling: ClassVar[Literal["mean", "last"]] = "last"
    lacks: ClassVar[tuple[str, ...]] = ("exchanges",)
    n_positions: ClassVar[float]
    n_new: ClassVar[int] = 0
    off_target: ClassVar[str] = ""

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """What its tasks are about, one each: domains, or a single label; as after the slash of their names."""

    @abstractmethod
    def make(self, label: str, model: HookedModel, *, allow_download: bool = False) -> Task:
        """The task about one of the labels."""

    @property
    def known_domains(self) -> tuple[str, ...]:
        """The domains that its tasks, and those of other domains, can be about; none for tasks without."""
        return ()

    @property
    def has_instruction(self) -> bool:
        """Whether its tasks have a prompt-only baseline."""
        return True


@dataclass(frozen=True)
class _OfDomains(TaskKind):
    """A task per domain of the built-in passages or questions; by default of all."""

    domains: tuple[str, ...] = BUILTIN_DOMAINS

    @property
    def labels(self) -> tuple[str, ...]:
        return self.domains

    @property
    def known_domains(self) -> tuple[str, ...]:
        return BUILTIN_DOMAINS


@dataclass(frozen=True)
class DomainLossKind(_OfDomains):
    """Loss on passages of a domain."""

    name, pooling, n_positions, off_target = "domain-loss", "mean", 33.0, "domain-loss"
    lacks = ("exchanges", "contrast prompts")

    def make(self, label: str, model: HookedModel, *, allow_download: bool = False) -> Task:
        return domain_loss(label)


@dataclass(frozen=True)
class DomainShareKind(_OfDomains):
    """Fraction of continuations that are classified as the domain."""

    name, pooling, n_positions, n_new, off_target = "domain-share", "mean", 8.0, 32, "domain-loss"
    lacks = ("exchanges", "contrast prompts")

    def make(self, label: str, model: HookedModel, *, allow_download: bool = False) -> Task:
        return domain_share(label)


@dataclass(frozen=True)
class DomainExamKind(_OfDomains):
    """The exam that ships, by domain."""

    name, n_positions, off_target = "domain-exam", 160.0, "domain-exam"

    def make(self, label: str, model: HookedModel, *, allow_download: bool = False) -> Task:
        return domain_exam(label)


@dataclass(frozen=True)
class ExamKind(TaskKind):
    """Multiple-choice questions from a file or the hub, by subject; without subjects all together."""

    data: str
    domains: tuple[str, ...] = ()
    name, n_positions, off_target = "exam", 700.0, "exam"

    @property
    def labels(self) -> tuple[str, ...]:
        return self.domains or ("all",)

    @property
    def known_domains(self) -> tuple[str, ...]:
        return self.domains

    def make(self, label: str, model: HookedModel, *, allow_download: bool = False) -> Task:
        return exam_task(model, _questions(self.data, allow_download), label if self.domains else "")


@lru_cache(maxsize=4)
def _questions(source: str, allow_download: bool) -> tuple[ChoiceItem, ...]:
    """The questions of all subjects of a source, read once."""
    return tuple(load_questions(source, allow_download=allow_download))


@dataclass(frozen=True)
class _About(TaskKind):
    """A single task about something."""

    about: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        return (self.about,)


@dataclass(frozen=True)
class RefusalKind(_About):
    """Refusing, or not, as `about` says; `wrappers` are texts with {request} in them, for refusal as a defence."""

    about: Direction = "towards"  # pyright: ignore[reportIncompatibleVariableOverride]
    data: str = BUILTIN
    wrappers: tuple[str, ...] = ()
    name, n_positions, n_new = "refusal", 20.0, 24

    def make(self, label: str, model: HookedModel, *, allow_download: bool = False) -> Task:
        if self.data == BUILTIN:
            return builtin_refusal(self.about)
        return attack_task(model, self.data, self.about, wrappers=self.wrappers)


@dataclass(frozen=True)
class PersonaKind(_About):
    """Answering in a persona that ships."""

    about: str = "pirate"
    name, pooling, n_positions, n_new = "persona", "mean", 24.0, 40
    lacks = ("contrast prompts",)

    def make(self, label: str, model: HookedModel, *, allow_download: bool = False) -> Task:
        return builtin_persona(self.about)


@dataclass(frozen=True)
class TraitKind(_About):
    """Showing a trait that files describe; `markers` are words that give it away."""

    data: str = ""
    markers: tuple[str, ...] = ()
    name, pooling, n_positions, n_new = "trait", "mean", 60.0, 128
    lacks = ("contrast prompts",)

    def make(self, label: str, model: HookedModel, *, allow_download: bool = False) -> Task:
        return trait_task(model, *trait_files(self.data, self.about), markers=self.markers)


@dataclass(frozen=True)
class FactsKind(_About):
    """Facts, and conflicts between what is known and what the prompt says."""

    about: Facts = "ioi"  # pyright: ignore[reportIncompatibleVariableOverride]
    name, n_positions = "facts", 60.0

    @property
    def has_instruction(self) -> bool:
        return self.about.startswith("ccc")

    def make(self, label: str, model: HookedModel, *, allow_download: bool = False) -> Task:
        return builtin_facts(self.about)


@dataclass(frozen=True)
class ChoicesKind(_About):
    """Yes or no, this or that; `about` joins kinds of choices with "+"."""

    about: str = "yes_no+two_way"
    name, n_positions = "choices", 50.0

    def make(self, label: str, model: HookedModel, *, allow_download: bool = False) -> Task:
        return builtin_choices(cast("tuple[Choices, ...]", tuple(self.about.split("+"))))


@dataclass(frozen=True)
class _FromFile(TaskKind):
    """A single task from a file."""

    data: str
    n_positions = 120.0

    @property
    def labels(self) -> tuple[str, ...]:
        return (Path(self.data).stem,)

    @property
    def has_instruction(self) -> bool:
        return False


@dataclass(frozen=True)
class PairsKind(_FromFile):
    """Contrast pairs from a file: which continuation is likelier?"""

    name = "pairs"

    def make(self, label: str, model: HookedModel, *, allow_download: bool = False) -> Task:
        return pair_task(model, self.data)


@dataclass(frozen=True)
class ItemsKind(_FromFile):
    """Items with answers and distractors from a file."""

    name = "items"

    def make(self, label: str, model: HookedModel, *, allow_download: bool = False) -> Task:
        return item_task(self.data)


KINDS: dict[str, type[TaskKind]] = {
    kind.name: kind
    for kind in (
        DomainLossKind,
        DomainShareKind,
        DomainExamKind,
        ExamKind,
        RefusalKind,
        PersonaKind,
        TraitKind,
        FactsKind,
        ChoicesKind,
        PairsKind,
        ItemsKind,
    )
}


def task_kind(name: str, options: Mapping[str, Any]) -> TaskKind:
    """A kind by its name with its options; raises `TaskError` for what it does not know or needs."""
    if name not in KINDS:
        raise TaskError(f"unknown task {name!r}; choose one of {', '.join(KINDS)}")
    known = {field.name: field for field in fields(KINDS[name])}
    needs_file = "data" in known and known["data"].default in (MISSING, "")
    for option in options:
        if option == "data" and "data" not in known:
            raise TaskError(f"task {name!r} is made of what ships and reads no file; leave out data")
        if option not in known:
            has = f"its options are {', '.join(known)}"
            raise TaskError(f"task {name!r} has no option {option!r}; {has}")
    if needs_file and "data" not in options:
        raise TaskError(f"task {name!r} reads a file; name it with data = ..., or {name}=FILE in --tasks")
    choices: Sequence[str] = {RefusalKind: get_args(Direction), FactsKind: get_args(Facts)}.get(KINDS[name], ())
    if choices and options.get("about", choices[0]) not in choices:
        raise TaskError(f"task {name!r} is not about {options['about']!r}; choose one of {', '.join(choices)}")
    return KINDS[name](**options)


def off_target_tasks(
    kind: TaskKind, domains: Sequence[str], model: HookedModel, *, allow_download: bool = False
) -> tuple[Task, ...]:
    """Tasks on other domains, which show what steering for one of them breaks there."""
    if not kind.off_target:
        return ()
    made = kind if kind.name == kind.off_target else KINDS[kind.off_target]()
    return tuple(made.make(domain, model, allow_download=allow_download) for domain in domains)
