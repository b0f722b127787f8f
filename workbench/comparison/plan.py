"""What a comparison will do and cost, known before it starts: who runs where, how many cells, tokens, time, memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workbench.comparison.arms import spread_layers
from workbench.comparison.damage import N_OPENINGS, N_WRITTEN
from workbench.comparison.spec import ModelShape, SizeSpec, Spec, SpecError
from workbench.comparison.store import CellKey, Stage, check_distinct
from workbench.interventions import CONTROLS, PROMPT_ONLY, UNSTEERED, MethodCard, SteeringError, arm_named, method_named
from workbench.models.batches import LOGITS_BYTES

EVALUATIONS_PER_SEARCH = 3.0  # typical number of strengths tried until KL is within 10 % of the target
CURVE_PASSES = 13.0  # passes over tuning items and neutral text, typically, for a strength curve
NEUTRAL_PASSES: dict[Stage, float] = {"search": EVALUATIONS_PER_SEARCH, "test": 1.0, "curve": CURVE_PASSES / 2}
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
CURVE_LEVEL = 0.0
OPTIMISATION_PASSES = 4  # forward passes that a step of learned scaling is worth: both ends, forward and backward


@dataclass(frozen=True)
class TaskFacts:
    """What a plan needs to know of one task: why arms cannot run, and the work of scoring one item.

    `unmet[arm]` is the reason, "" where it runs. `n_positions` is the mean number of token positions run per item, all
    answers included; `n_new` the tokens generated per item; `n_elsewhere` items of other domains are scored beside
    every test. `n_fit` texts of each side are fitted on. `is_twin`: an earlier task is fitted on the same data.
    """

    name: str
    unmet: Mapping[str, str]
    n_tune: int
    n_test: int
    n_positions: float
    n_new: int
    n_elsewhere: int = 0
    n_fit: int = 0
    is_twin: bool = False


@dataclass(frozen=True)
class Work:
    """How many items of a task are scored, items of other domains beside them, and texts run otherwise.

    `n_written` texts of its own have their loss measured, `n_fitted` are run to fit the arms.
    """

    n_items: float
    n_elsewhere: int
    n_written: int
    n_fitted: float

    @property
    def n_passes(self) -> float:
        """Texts that are run without being scored."""
        return self.n_elsewhere + self.n_written + self.n_fitted


@dataclass(frozen=True)
class Plan:
    """The cells of a comparison and what they cost: positions run at once, and tokens generated one by one.

    `matrix[task][arm]` is "" where the arm runs and the reason where it does not. `work` says by task how often texts
    are run, `neutral_passes` how often the neutral text is, `writings` how often its openings are continued.
    """

    matrix: Mapping[str, Mapping[str, str]]
    layers: tuple[int, ...]
    cells: tuple[CellKey, ...]
    work: Mapping[str, "Work"]
    neutral_passes: float
    writings: int
    n_positions: float
    n_generated: float


def arms_of_spec(spec: Spec) -> tuple[MethodCard, ...]:
    """The methods asked for, then every control; raises `SpecError` for an unknown method."""
    try:
        methods = tuple(method_named(name) for name in spec.methods)
    except SteeringError as error:
        raise SpecError(f"{error} (controls are always run)") from error
    return methods + tuple(CONTROLS.values())


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
    writings = 0
    neutral = spec.sizes.n_neutral * (spec.sizes.n_neutral_tokens + 1)
    for task in facts:
        own = [
            key
            for arm in arms
            if not task.unmet[arm.name]
            for seed in spec.seeds
            for key in _cells_of_arm(spec, task.name, arm, layers, n_heads, seed)
        ]
        cells += own
        one = work[task.name] = _work(spec, task, own)
        passes += sum(0 if task.is_twin and key.stage == "search" else NEUTRAL_PASSES[key.stage] for key in own)
        writings += 0 if task.n_new else sum(key.stage == "test" for key in own)
        positions += (one.n_items + one.n_passes) * task.n_positions + one.n_written * task.n_new
        generated += one.n_items * task.n_new
    positions += passes * neutral
    generated += writings * N_OPENINGS * N_WRITTEN
    check_distinct(cells)
    matrix = {task.name: {arm.name: task.unmet[arm.name] for arm in arms} for task in facts}
    return Plan(matrix, layers, tuple(cells), work, passes, writings, positions, generated)


def _work(spec: Spec, task: TaskFacts, cells: Sequence[CellKey]) -> Work:
    tune, test = min(spec.sizes.n_tune, task.n_tune), min(spec.sizes.n_test, task.n_test)
    n_tests = sum(key.stage == "test" for key in cells)
    items = {"search": float(tune), "test": float(test), "curve": CURVE_PASSES / 2 * tune}
    return Work(
        n_items=sum(items[key.stage] for key in cells),
        n_elsewhere=n_tests * task.n_elsewhere,
        n_written=n_tests * test if task.n_new else 0,
        n_fitted=0.0 if task.is_twin else _fitted(spec, task, cells),
    )


def _fitted(spec: Spec, task: TaskFacts, cells: Sequence[CellKey]) -> float:
    """Texts run to fit the arms of a task: the rows that all share, then what every setting of a method needs."""
    sizes, both_sides = spec.sizes, 2.0 * task.n_fit
    cost = {"rows": 0.0, "once": 0.0, "per setting": both_sides}
    cost["optimisation"] = (
        OPTIMISATION_PASSES * sizes.n_optimisation_steps * min(sizes.n_optimisation_prompts, task.n_fit)
    )
    settings = {
        (key.arm, key.setting, key.seed, key.level if key.budget == "coordinates" else 0)
        for key in cells
        if key.stage == "search"
    }
    once = {(arm, seed) for arm, _, seed, _ in settings if arm_named(arm).cost == "once"}
    return both_sides * (len(spec.seeds) + len(once)) + sum(cost[arm_named(arm).cost] for arm, *_ in settings)


def _cells_of_arm(
    spec: Spec, task: str, arm: MethodCard, layers: Sequence[int], n_heads: int, seed: int
) -> list[CellKey]:
    if arm.name in (UNSTEERED, PROMPT_ONLY):
        return [CellKey(task, arm.name, 0, "test", "-", "none", 0.0, seed)]
    cells = []
    for draw in range(draws_of(spec, arm)):
        for kind, level in spec.budgets.levels():
            if kind == "coordinates" and not arm.takes_count:
                continue
            exact_k = int(level) if kind == "coordinates" else None
            settings = [setting.name for setting in arm.settings(layers, spec.k, n_heads, exact_k)]
            cells += [CellKey(task, arm.name, draw, "search", s, kind, level, seed) for s in settings]
            cells.append(CellKey(task, arm.name, draw, "test", "chosen", kind, level, seed))
    if spec.sizes.curves and seed == spec.seeds[0]:
        cells.append(CellKey(task, arm.name, 0, "curve", "chosen", "none", CURVE_LEVEL, seed))
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
