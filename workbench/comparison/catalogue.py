"""The tasks by the names they have in specifications, and the model of a specification."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformers import AutoConfig

from workbench.comparison.contest import Prepared, prepare
from workbench.comparison.damage import N_ELSEWHERE, N_OTHERS
from workbench.comparison.entrants import Contest
from workbench.comparison.plan import Plan, TaskFacts, arms_of_spec, make_plan
from workbench.comparison.spec import ModelShape, ModelSpec, Spec, SpecError, TaskSpec
from workbench.models import HookedModel, load_model
from workbench.models.loading import BUILTIN, find_model
from workbench.records import ChoiceItem
from workbench.tasks.base import Task
from workbench.tasks.builtin import (
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

Pooling = Literal["mean", "last"]
Maker = Callable[[TaskSpec, str, HookedModel, bool], Task]
BUILTIN_DOMAINS = ("biology", "code", "humanities", "law", "literature", "mathematics", "physics")


@dataclass(frozen=True)
class TaskKind:
    """A kind of task: how it is made, and what is known of it before anything is loaded.

    `make(spec, domain, model, allow_download)` gives one task; `has_domains`: there is one per domain; `data` is what
    it reads: what ships, a file, or either. `lacks` names the fitting data it cannot give (as in `ArmKind.needs`).
    `n_positions` and `n_new` are typical positions run and tokens generated per item, for plans without weights.
    `elsewhere` is the kind of task that other domains are scored by, "" if none.
    """

    name: str
    make: Maker
    data: Literal["builtin", "file", "either"]
    has_domains: bool
    pooling: Pooling
    lacks: tuple[str, ...]
    n_positions: float
    n_new: int
    elsewhere: str = ""


@lru_cache(maxsize=4)
def _questions(source: str, allow_download: bool) -> tuple[ChoiceItem, ...]:
    """The questions of all subjects of a source, read once."""
    return tuple(load_questions(source, allow_download=allow_download))


def _exam(spec: TaskSpec, domain: str, model: HookedModel, allow_download: bool) -> Task:
    return exam_task(model, _questions(spec.data, allow_download), domain)


def _about(make: Callable[[str], Task]) -> Maker:
    """A task that is made from the name of its domain alone."""
    return lambda spec, domain, model, allow_download: make(domain)


def _refusal(spec: TaskSpec, domain: str, model: HookedModel, allow_download: bool) -> Task:
    about: Any = spec.about or "towards"
    if spec.data == BUILTIN:
        return builtin_refusal(about)
    return attack_task(model, spec.data, about, wrappers=spec.wrappers)


def _facts(spec: TaskSpec, domain: str, model: HookedModel, allow_download: bool) -> Task:
    about: Any = spec.about or "ioi"
    return builtin_facts(about)


def _trait(spec: TaskSpec, domain: str, model: HookedModel, allow_download: bool) -> Task:
    return trait_task(model, *trait_files(spec.data, spec.about), markers=spec.markers)


def _choices(spec: TaskSpec, domain: str, model: HookedModel, allow_download: bool) -> Task:
    kinds: Any = tuple(spec.about.split("+")) if spec.about else ("yes_no", "two_way")
    return builtin_choices(kinds)


NO_WORDS = ("exchanges", "dial items of one length", "words")
NO_DIAL = ("exchanges", "dial items", "dial items of one length")
NO_LENGTH = ("exchanges", "dial items of one length")
KINDS: dict[str, TaskKind] = {
    kind.name: kind
    for kind in (
        TaskKind(
            "domain-loss", lambda s, d, m, _: domain_loss(d), "builtin", True, "mean", NO_DIAL, 33.0, 0, "domain-loss"
        ),
        TaskKind(
            "domain-share", lambda s, d, m, _: domain_share(d), "builtin", True, "mean", NO_DIAL, 8.0, 32, "domain-loss"
        ),
        TaskKind(
            "domain-exam",
            lambda s, d, m, _: domain_exam(d),
            "builtin",
            True,
            "last",
            NO_LENGTH,
            160.0,
            0,
            "domain-exam",
        ),
        TaskKind("exam", _exam, "file", True, "last", NO_LENGTH, 700.0, 0, "exam"),
        TaskKind("refusal", _refusal, "either", False, "last", NO_LENGTH, 20.0, 24),
        TaskKind(
            "persona",
            lambda s, d, m, _: builtin_persona(s.about or "pirate"),
            "builtin",
            False,
            "mean",
            NO_DIAL[1:],
            24.0,
            40,
        ),
        TaskKind("trait", _trait, "file", False, "mean", NO_DIAL[1:], 60.0, 128),
        TaskKind("facts", _facts, "builtin", False, "last", NO_WORDS, 60.0, 0),
        TaskKind("choices", _choices, "builtin", False, "last", NO_LENGTH, 50.0, 0),
        TaskKind("pairs", lambda s, d, m, _: pair_task(m, s.data), "file", False, "last", NO_WORDS, 120.0, 0),
        TaskKind("items", lambda s, d, m, _: item_task(s.data), "file", False, "last", NO_WORDS, 120.0, 0),
    )
}


def kind_of(spec: TaskSpec) -> TaskKind:
    """The kind of a task by its name; raises `SpecError` for an unknown one, or for data that it cannot read."""
    if spec.kind not in KINDS:
        raise SpecError(f"unknown task {spec.kind!r}; choose one of {', '.join(KINDS)}")
    kind = KINDS[spec.kind]
    if spec.data == BUILTIN and kind.data == "file":
        raise SpecError(f"task {spec.kind!r} reads a file; name it with data = ..., or {spec.kind}=FILE in --tasks")
    if spec.data != BUILTIN and kind.data == "builtin":
        raise SpecError(f"task {spec.kind!r} is made of what ships and reads no file; leave out data = {spec.data!r}")
    if spec.domains and not kind.has_domains:
        raise SpecError(f"task {spec.kind!r} has no domains; leave them out, and say what it is about with about = ...")
    if spec.markers and kind.name != "trait":
        raise SpecError(f"task {spec.kind!r} reads no markers; they are for trait")
    if spec.about and kind.has_domains:
        raise SpecError(f"task {spec.kind!r} is about domains; give domains = [...] in place of about = {spec.about!r}")
    return kind


def domains_of(spec: TaskSpec) -> tuple[str, ...]:
    """The domains of one entry, one task each; "" stands for a task without one, or for all subjects of a file."""
    kind = kind_of(spec)
    if not kind.has_domains:
        return ("",)
    return spec.domains or (BUILTIN_DOMAINS if kind.data == BUILTIN else ("",))


def contests_of(spec: Spec, model: HookedModel) -> list[Contest]:
    """Every task of a specification, with the work that scoring an item takes on this model."""
    found = []
    for entry in spec.tasks:
        kind = kind_of(entry)
        for domain in domains_of(entry):
            task = kind.make(entry, domain, model, spec.model.download)
            others = _others(spec, entry, kind, domain, model)
            found.append(Contest(task, domain, kind.pooling, _positions(model, task, kind), kind.n_new, others))
    names = [contest.task.name for contest in found]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise SpecError(f"task {twice[0]!r} is asked for twice, which would make duplicate cells; list it once")
    return found


def _others(spec: Spec, entry: TaskSpec, kind: TaskKind, domain: str, model: HookedModel) -> tuple[Task, ...]:
    """Tasks on some other domains, drawn by the first seed: all that ship, or the other subjects listed of a file."""
    elsewhere = KINDS.get(kind.elsewhere)
    if elsewhere is None or not domain:
        return ()
    known = BUILTIN_DOMAINS if entry.data == BUILTIN else entry.domains
    rest = [one for one in known if one != domain]
    if len(rest) > N_OTHERS:
        kept = np.random.default_rng([spec.seeds[0], 17]).choice(len(rest), size=N_OTHERS, replace=False)
        rest = [rest[index] for index in sorted(kept)]
    return tuple(elsewhere.make(entry, one, model, spec.model.download) for one in rest)


def _positions(model: HookedModel, task: Task, kind: TaskKind) -> float:
    """Mean number of positions run per item: the prompt once for every answer text that is compared."""
    items = task.items("tune")[:32]
    if kind.name == "domain-loss":
        return kind.n_positions
    lengths = [len(model.text.ids(item.prompt)) for item in items]
    texts = [1 if kind.n_new else len(item.answers) + len(item.distractors) for item in items]
    return float(np.mean(np.array(lengths) * np.array(texts)))


def prepare_spec(spec: Spec) -> Prepared:
    """Load the model and the tasks of a specification, and lay out its cells; unknown names raise before loading."""
    arms_of_spec(spec)
    for entry in spec.tasks:
        kind_of(entry)
    model = open_model(spec.model)
    return prepare(spec, model, contests_of(spec, model))


# --- without weights --------------------------------------------------------------------------------------------------


def plan_without_weights(spec: Spec) -> tuple[Plan, ModelShape]:
    """The plan of a specification and the shape of its model, from its config alone; nothing is downloaded.

    Which arms run is what the kinds of tasks promise; with the weights at hand the data are looked at.
    """
    shape = shape_of(spec.model)
    facts = []
    for entry in spec.tasks:
        kind = kind_of(entry)
        about = [domain or entry.about or Path(entry.data).stem for domain in domains_of(entry)]
        n_domains = len(BUILTIN_DOMAINS) if kind.data == BUILTIN else len(domains_of(entry))
        facts += [_promised(spec, kind, f"{kind.name}/{one}", n_domains) for one in about]
    layers = shape.num_hidden_layers
    return make_plan(spec, facts, n_layers=layers, n_heads=layers * shape.num_attention_heads), shape


def _promised(spec: Spec, kind: TaskKind, name: str, n_domains: int) -> TaskFacts:
    unmet = {
        arm.name: f"tasks of kind {kind.name} have no {arm.needs}" if arm.needs in kind.lacks else ""
        for arm in arms_of_spec(spec)
    }
    others = min(N_OTHERS, n_domains - 1) * N_ELSEWHERE if kind.elsewhere else 0
    sizes = spec.sizes
    return TaskFacts(name, unmet, sizes.n_tune, sizes.n_test, kind.n_positions, kind.n_new, others, n_fit=sizes.n_fit)


def shape_of(model: ModelSpec) -> ModelShape:
    """The shape written in the specification, or that of a config in a folder or in the local cache."""
    if model.shape is not None:
        return model.shape
    folder = Path(model.name).expanduser()
    where = str(folder) if (folder / "config.json").is_file() else find_model(model.name)
    try:
        config: Any = AutoConfig.from_pretrained(where, local_files_only=True).get_text_config()
    except (OSError, ValueError) as error:
        raise SpecError(
            f"the config of {model.name!r} is not at hand; write its shape under [model.shape], or load the model once"
        ) from error
    heads = config.num_attention_heads
    return ModelShape(
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=heads,
        num_key_value_heads=getattr(config, "num_key_value_heads", heads),
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        intermediate_size=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        vocab_size=config.vocab_size,
        tie_word_embeddings=bool(config.tie_word_embeddings),
    )


def open_model(spec: ModelSpec) -> HookedModel:
    """The model of a specification, on one device, or spread over several where it has a `device_map`."""
    return load_model(
        spec.name,
        device=spec.device,
        dtype=spec.dtype,
        device_map=spec.device_map,
        revision=spec.revision or None,
        allow_download=spec.download,
    )
