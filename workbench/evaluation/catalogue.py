"""The tasks by the names they have in specifications, and the model of a specification."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from workbench.evaluation.contest import Prepared, prepare
from workbench.evaluation.engine import Contest
from workbench.evaluation.planning import Plan, TaskFacts, arms_of_spec, make_plan
from workbench.evaluation.spec import ModelShape, ModelSpec, Spec, SpecError, TaskSpec
from workbench.evaluation.tasks.base import Task
from workbench.evaluation.tasks.builtin import (
    builtin_choices,
    builtin_facts,
    builtin_persona,
    builtin_refusal,
    domain_exam,
    domain_loss,
    domain_share,
)
from workbench.models import HookedModel, ModelError, load_model, wrap_model
from workbench.models.loading import DTYPES, find_model

Pooling = Literal["mean", "last"]
BUILTIN_DOMAINS = ("biology", "code", "humanities", "law", "literature", "mathematics", "physics")


@dataclass(frozen=True)
class TaskKind:
    """A kind of task: how it is made, and what is known of it before anything is loaded.

    `make(spec, domain)` gives one task; `has_domains` says whether there is one per domain. `lacks` names the fitting
    data it cannot give (as in `ArmKind.needs`). `n_positions` and `n_new` are typical positions run and tokens
    generated per item, for plans without weights.
    """

    name: str
    make: Callable[[TaskSpec, str], Task]
    has_domains: bool
    pooling: Pooling
    lacks: tuple[str, ...]
    n_positions: float
    n_new: int


NO_ANSWERS = ("exchanges", "dial items", "dial items of one length")
ONE_LENGTH = ("exchanges", "dial items of one length")
KINDS: dict[str, TaskKind] = {
    kind.name: kind
    for kind in (
        TaskKind("domain-loss", lambda _, domain: domain_loss(domain), True, "mean", NO_ANSWERS, 33, 0),
        TaskKind("domain-share", lambda _, domain: domain_share(domain), True, "mean", NO_ANSWERS, 8, 32),
        TaskKind("domain-exam", lambda _, domain: domain_exam(domain), True, "last", ONE_LENGTH, 160, 0),
        TaskKind(
            "refusal", lambda spec, _: builtin_refusal(_about(spec, "towards")), False, "last", ONE_LENGTH, 20, 24
        ),
        TaskKind(
            "persona", lambda spec, _: builtin_persona(_about(spec, "pirate")), False, "mean", NO_ANSWERS[1:], 24, 40
        ),
        TaskKind("facts", lambda spec, _: builtin_facts(_about(spec, "ioi")), False, "last", ONE_LENGTH, 60, 0),
        TaskKind("choices", lambda spec, _: builtin_choices(_choices(spec)), False, "last", ONE_LENGTH, 50, 0),
    )
}


def _about(spec: TaskSpec, default: str) -> Any:
    return spec.about or default


def _choices(spec: TaskSpec) -> Any:
    return tuple(spec.about.split("+")) if spec.about else ("yes_no", "two_way")


def kind_of(spec: TaskSpec) -> TaskKind:
    """The kind of a task by its name; raises `SpecError` for an unknown one."""
    if spec.kind not in KINDS:
        raise SpecError(f"unknown task {spec.kind!r}; choose one of {', '.join(KINDS)}")
    return KINDS[spec.kind]


def tasks_of(spec: TaskSpec) -> list[tuple[str, Task]]:
    """The tasks of one entry of a specification with their domains; raises where it asks for what is not there."""
    kind = kind_of(spec)
    if spec.domains and not kind.has_domains:
        raise SpecError(f"task {spec.kind!r} has no domains; leave them out, and say what it is about with about = ...")
    if spec.about and kind.has_domains:
        raise SpecError(f"task {spec.kind!r} is about domains; give domains = [...] in place of about = {spec.about!r}")
    if not kind.has_domains:
        return [("", kind.make(spec, ""))]
    return [(domain, kind.make(spec, domain)) for domain in spec.domains or BUILTIN_DOMAINS]


def contests_of(spec: Spec, model: HookedModel) -> list[Contest]:
    """Every task of a specification, with the work that scoring an item takes on this model."""
    found = []
    for entry in spec.tasks:
        kind = kind_of(entry)
        for domain, task in tasks_of(entry):
            found.append(Contest(task, domain, kind.pooling, _positions(model, task, kind), kind.n_new))
    names = [contest.task.name for contest in found]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise SpecError(f"task {twice[0]!r} is asked for twice, which would make duplicate cells; list it once")
    return found


def _positions(model: HookedModel, task: Task, kind: TaskKind) -> float:
    """Mean number of positions run per item: the prompt once for every answer text that is compared."""
    items = task.items("tune")[:32]
    if kind.name == "domain-loss":
        return kind.n_positions
    lengths = [len(model.tokenizer(item.prompt, add_special_tokens=False)["input_ids"]) for item in items]
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
        domains = (entry.domains or BUILTIN_DOMAINS) if kind.has_domains else (entry.about,)
        facts += [_promised(spec, kind, "/".join(filter(None, (kind.name, domain)))) for domain in domains]
    layers = shape.num_hidden_layers
    return make_plan(spec, facts, n_layers=layers, n_heads=layers * shape.num_attention_heads), shape


def _promised(spec: Spec, kind: TaskKind, name: str) -> TaskFacts:
    unmet = {
        arm.name: f"tasks of kind {kind.name} have no {arm.needs}" if arm.needs in kind.lacks else ""
        for arm in arms_of_spec(spec)
    }
    return TaskFacts(name, unmet, spec.sizes.n_tune, spec.sizes.n_test, kind.n_positions, kind.n_new)


def shape_of(model: ModelSpec) -> ModelShape:
    """The shape written in the specification, or that of a config in a folder or in the local cache."""
    if model.shape is not None:
        return model.shape
    where = find_model(model.name)
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
    """The model of a specification, on one device, or spread by Accelerate where it has a `device_map`."""
    if not spec.device_map:
        return load_model(
            spec.name,
            device=spec.device,
            dtype=spec.dtype,
            revision=spec.revision or None,
            allow_download=spec.download,
        )
    if importlib.util.find_spec("accelerate") is None:
        raise ModelError("device_map needs the package accelerate; install it, or leave device_map out")
    if spec.dtype not in DTYPES:
        raise ModelError(f"unknown dtype {spec.dtype!r}; choose one of {', '.join(DTYPES)}")
    where = find_model(spec.name)
    options: dict[str, Any] = {}
    if not Path(where).is_dir():
        options = {"local_files_only": not spec.download, "revision": spec.revision or None}
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
        weights = AutoModelForCausalLM.from_pretrained(
            where,
            dtype=DTYPES[spec.dtype],
            device_map=spec.device_map,
            attn_implementation="eager",
            use_safetensors=True,
            **options,
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load model {spec.name!r}: {' '.join(str(error).split())[:200]}") from error
    return wrap_model(weights, tokenizer, name=spec.name)
