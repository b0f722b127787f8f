"""What a comparison will do and cost, known before it starts: who runs where, how many cells, tokens, time, memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from workbench.comparison.arms import spread_layers
from workbench.comparison.spec import ModelShape, ModelSpec, SizeSpec, Spec, SpecError, TaskSpec
from workbench.comparison.store import CellKey, Stage, check_distinct
from workbench.interventions import (
    CONTROLS,
    PROMPT_ONLY,
    UNSTEERED,
    MethodCard,
    SteeringError,
    arm_named,
    method_named,
)
from workbench.models.batches import LOGITS_BYTES
from workbench.models.loading import BUILTIN, find_model
from workbench.tasks.base import TaskError
from workbench.tasks.catalogue import TaskKind, task_kind

EVALUATIONS_PER_SEARCH = 3.0  # typical number of strengths tried until KL is within 10 % of the target
CURVE_PASSES = 13.0  # passes over tuning items and neutral text, typically, for a strength curve
NEUTRAL_PASSES: dict[Stage, float] = {"search": EVALUATIONS_PER_SEARCH, "test": 1.0, "curve": CURVE_PASSES / 2}
N_PREFIXES = 4  # neutral texts whose beginning every arm continues where its task generates nothing
N_CONTINUED = 16  # tokens of every continuation
N_OFF_TARGET = 6  # other domains that a domain's task is scored on
N_OFF_TARGET_ITEMS = 4  # of each of them
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
CURVE_LEVEL = 0.0
OPTIMISATION_PASSES = 4  # forward passes that a step of learned scaling is worth: both ends, forward and backward


@dataclass(frozen=True)
class TaskFacts:
    """What a plan needs to know of one task: why arms cannot run, and the work of scoring one item.

    `unmet[arm]` is the reason, "" where it runs. `n_positions` is the mean number of token positions run per item, all
    answers included; `n_new` the tokens generated per item; `n_off_target` items of other domains are scored beside
    every test. `n_fit` texts of each side are fitted on. `reuses_budgets`: an earlier task is fitted on the same data,
    so strengths are known. `is_searched` is False where settings are taken over from another task as well.
    """

    name: str
    unmet: Mapping[str, str]
    n_tune: int
    n_test: int
    n_positions: float
    n_new: int
    n_off_target: int = 0
    n_fit: int = 0
    reuses_budgets: bool = False
    is_searched: bool = True


@dataclass(frozen=True)
class Work:
    """How many items of a task are scored, items of other domains beside them, and texts run otherwise.

    `n_generated` texts of its own have their loss measured, `n_fitted` are run to fit the arms.
    """

    n_items: float
    n_off_target: int
    n_generated: int
    n_fitted: float

    @property
    def n_passes(self) -> float:
        """Texts that are run without being scored."""
        return self.n_off_target + self.n_generated + self.n_fitted


@dataclass(frozen=True)
class Plan:
    """The cells of a comparison and what they cost: positions run at once, and tokens generated one by one.

    `matrix[task][arm]` is "" where the arm runs and the reason where it does not. `work` says by task how often texts
    are run, `neutral_passes` how often the neutral text is, `continuations` how often its prefixes are continued.
    """

    matrix: Mapping[str, Mapping[str, str]]
    layers: tuple[int, ...]
    cells: tuple[CellKey, ...]
    work: Mapping[str, "Work"]
    neutral_passes: float
    continuations: int
    n_positions: float
    n_generated: float


def arms_of_spec(spec: Spec) -> tuple[MethodCard, ...]:
    """The methods asked for, then the controls, always the unsteered model; raises `SpecError` for unknown ones."""
    try:
        methods = tuple(method_named(name) for name in spec.methods)
    except SteeringError as error:
        raise SpecError(f"{error} (controls are always run)") from error
    controls = tuple(CONTROLS)
    for name in spec.controls or ():
        if name not in controls:
            raise SpecError(f"unknown control {name!r}; choose from {', '.join(controls)}")
    wanted = controls if spec.controls is None else (UNSTEERED, *spec.controls)
    return methods + tuple(CONTROLS[name] for name in dict.fromkeys(wanted))


def searched_layers(sizes: SizeSpec, n_layers: int) -> tuple[int, ...]:
    """The layers named, or `n_layers` of them spread over the depth; raises where one does not exist."""
    wrong = [layer for layer in sizes.layers if not 0 <= layer < n_layers]
    if wrong:
        raise SpecError(f"sizes.layers {wrong} are out of range; the model has layers 0 to {n_layers - 1}")
    if sizes.layers:
        return tuple(dict.fromkeys(sizes.layers))
    return spread_layers(sizes.n_layers, n_layers)


def make_plan(spec: Spec, facts: Sequence[TaskFacts], *, n_layers: int, n_heads: int) -> Plan:
    """All cells of a specification in the order in which they are run; `n_heads` counts the heads of all layers.

    Raises `SpecError` where two cells are the same.
    """
    layers = searched_layers(spec.sizes, n_layers)
    arms = arms_of_spec(spec)
    cells: list[CellKey] = []
    work: dict[str, Work] = {}
    positions = generated = passes = 0.0
    continuations = 0
    neutral = spec.sizes.n_neutral * (spec.sizes.n_neutral_tokens + 1)
    for task in facts:
        own = [
            key
            for arm in arms
            if not task.unmet[arm.name]
            for seed in spec.seeds
            for key in _cells_of_arm(spec, task, arm, layers, n_heads, seed)
        ]
        cells += own
        one = work[task.name] = _work(spec, task, own)
        passes += sum(0 if task.reuses_budgets and key.stage == "search" else NEUTRAL_PASSES[key.stage] for key in own)
        continuations += 0 if task.n_new else sum(key.stage == "test" for key in own)
        positions += (one.n_items + one.n_passes) * task.n_positions + one.n_generated * task.n_new
        generated += one.n_items * task.n_new
    positions += passes * neutral
    generated += continuations * N_PREFIXES * N_CONTINUED
    check_distinct(cells)
    matrix = {task.name: {arm.name: task.unmet[arm.name] for arm in arms} for task in facts}
    return Plan(matrix, layers, tuple(cells), work, passes, continuations, positions, generated)


def _work(spec: Spec, task: TaskFacts, cells: Sequence[CellKey]) -> Work:
    tune, test = min(spec.sizes.n_tune, task.n_tune), min(spec.sizes.n_test, task.n_test)
    n_tests = sum(key.stage == "test" for key in cells)
    items = {"search": float(tune), "test": float(test), "curve": CURVE_PASSES / 2 * tune}
    return Work(
        n_items=sum(items[key.stage] for key in cells),
        n_off_target=n_tests * task.n_off_target,
        n_generated=n_tests * test if task.n_new else 0,
        n_fitted=0.0 if task.reuses_budgets else _fitted(spec, task, cells),
    )


def _fitted(spec: Spec, task: TaskFacts, cells: Sequence[CellKey]) -> float:
    """Texts run to fit the arms of a task: the rows that all share, then what every setting of a method needs."""
    sizes, both_sides = spec.sizes, 2.0 * task.n_fit
    cost = {"rows": 0.0, "once": 0.0, "per setting": both_sides}
    cost["optimisation"] = OPTIMISATION_PASSES * sizes.n_optimisation_steps
    cost["optimisation"] *= min(sizes.n_optimisation_prompts, task.n_fit)
    settings = {
        (key.arm, key.setting, key.seed, key.level if key.budget == "coordinates" else 0)
        for key in cells
        if key.stage == "search"
    }
    once = {(arm, seed) for arm, _, seed, _ in settings if arm_named(arm).cost == "once"}
    return both_sides * (len(spec.seeds) + len(once)) + sum(cost[arm_named(arm).cost] for arm, *_ in settings)


def _cells_of_arm(
    spec: Spec, task: TaskFacts, arm: MethodCard, layers: Sequence[int], n_heads: int, seed: int
) -> list[CellKey]:
    name = task.name
    if arm.name in (UNSTEERED, PROMPT_ONLY):
        return [CellKey(name, arm.name, 0, "test", "-", "none", 0.0, seed)]
    cells = []
    for draw in range(draws_of(spec, arm)):
        for kind, level in spec.budgets.levels():
            if kind == "coordinates" and not arm.takes_count:
                continue
            exact_k = int(level) if kind == "coordinates" else None
            settings = [setting.name for setting in arm.settings(layers, spec.k, n_heads, exact_k)]
            if task.is_searched:
                cells += [CellKey(name, arm.name, draw, "search", s, kind, level, seed) for s in settings]
            cells.append(CellKey(name, arm.name, draw, "test", "chosen", kind, level, seed))
    if spec.sizes.curves and task.is_searched and seed == spec.seeds[0]:
        cells.append(CellKey(name, arm.name, 0, "curve", "chosen", "none", CURVE_LEVEL, seed))
    return cells


def draws_of(spec: Spec, arm: MethodCard) -> int:
    """How many random draws of an arm are run."""
    if not arm.is_drawn:
        return 1
    return spec.sizes.n_random if arm.name == "random-k" else spec.sizes.n_drawn


def memory_bytes(shape: ModelShape, dtype: str, n_positions: int, rows: int = 32) -> dict[str, int]:
    """Bytes that a run holds at its peak: weights, KV cache of generation, logits, the work of one layer.

    Eager attention is reckoned with: rows x heads x positions squared, twice.
    """
    if dtype not in BYTES:
        raise SpecError(f"unknown dtype {dtype!r}; choose one of {', '.join(BYTES)}")
    size = BYTES[dtype]
    cache = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * rows * n_positions * size
    attention = 2 * rows * shape.num_attention_heads * n_positions**2 * 4
    width = rows * n_positions * (shape.intermediate_size * 3 + shape.hidden_size * 4) * size
    return {
        "weights": shape.n_parameters * size,
        "KV cache": cache,
        "logits": max(2 * LOGITS_BYTES, 2 * rows * shape.vocab_size * 4),
        "one layer": attention + width,
    }


def seconds_from_shape(shape: ModelShape, teraflops: float, n_positions: float, n_generated: float = 0.0) -> float:
    """Time if the device sustains so many teraflops: 2 operations per weight and position, generation at a tenth.

    Weights of the input embedding do no arithmetic. An order of magnitude, not a promise.
    """
    if not teraflops > 0:
        raise SpecError(f"model.teraflops is {teraflops}; give what the device sustains, a positive number")
    work = shape.n_parameters - (0 if shape.tie_word_embeddings else shape.vocab_size * shape.hidden_size)
    return 2 * work * (n_positions + 10 * n_generated) / (teraflops * 1e12)


# --- without weights --------------------------------------------------------------------------------------------------


def kind_of(entry: TaskSpec) -> TaskKind:
    """The kind of task that an entry of a specification asks for; raises `SpecError` for what does not fit it."""
    options = {field.name: getattr(entry, field.name) for field in fields(entry) if field.name != "kind"}
    given = {name: value for name, value in options.items() if value not in ("", (), BUILTIN)}
    try:
        return task_kind(entry.kind, given)
    except TaskError as error:
        raise SpecError(str(error)) from error


def plan_without_weights(spec: Spec) -> tuple[Plan, ModelShape]:
    """The plan of a specification and the shape of its model, from its config alone; nothing is downloaded.

    Which arms run is what the kinds of tasks promise; with the weights at hand the data are looked at.
    """
    shape = shape_of(spec.model)
    facts = [_promised(spec, kind, label) for kind in map(kind_of, spec.tasks) for label in kind.labels]
    layers = shape.num_hidden_layers
    return make_plan(spec, facts, n_layers=layers, n_heads=layers * shape.num_attention_heads), shape


def _promised(spec: Spec, kind: TaskKind, label: str) -> TaskFacts:
    lacks = {*kind.lacks, *(() if kind.has_instruction else ("instruction",))}
    unmet = {}
    for arm in arms_of_spec(spec):
        reason = f"tasks of kind {kind.name} have no {arm.needs}" if arm.needs in lacks else ""
        lengths = f"tasks of kind {kind.name} have prompts of several lengths" if arm.needs_one_length else ""
        unmet[arm.name] = reason or lengths
    others = min(N_OFF_TARGET, max(0, len(kind.known_domains) - 1)) if kind.off_target else 0
    sizes = spec.sizes
    return TaskFacts(
        f"{kind.name}/{label}",
        unmet,
        sizes.n_tune,
        sizes.n_test,
        kind.n_positions,
        kind.n_new,
        n_off_target=N_OFF_TARGET_ITEMS * others,
        n_fit=sizes.n_fit,
    )


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
