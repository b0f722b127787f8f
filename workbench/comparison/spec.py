"""The specification of a comparison: one TOML file, or the same values from Python; unknown keys are errors."""

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from workbench.interventions import Where
from workbench.records import BudgetKind


class SpecError(ValueError):
    """A specification cannot be read or run as written; the message says which key, and what is expected."""


@dataclass(frozen=True)
class ModelShape:
    """What a plan needs to know of a model whose weights are not at hand; the fields of its config."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tie_word_embeddings: bool = True

    @property
    def n_parameters(self) -> int:
        """Weights of a gated-MLP transformer of this shape; norms are left out (under 0.1 %)."""
        heads = self.head_dim * (2 * self.num_attention_heads + 2 * self.num_key_value_heads)
        block = self.hidden_size * (heads + 3 * self.intermediate_size)
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return embeddings + self.num_hidden_layers * block


@dataclass(frozen=True)
class ModelSpec:
    """Which model, where and in which precision; `device_map` ("auto") spreads it over several devices.

    `shape` and `teraflops` (what the device sustains, an assumption) are for plans that are made without weights.
    """

    name: str = "builtin"
    device: str = "cpu"
    dtype: str = "float32"
    device_map: str = ""
    revision: str = ""
    download: bool = False
    teraflops: float = 0.02
    shape: ModelShape | None = None


@dataclass(frozen=True)
class TaskSpec:
    """One kind of task with its data; `domains` for kinds with one task per domain (empty: all that the data have).

    `about`: the direction of refusal, the persona, or which facts or choices; "" takes the first. `data` is "builtin"
    or the path of a file. `wrappers` are texts with {request} in them, for refusal as a defence. `markers` are words
    that give a trait away.
    """

    kind: str
    data: str = "builtin"
    domains: tuple[str, ...] = ()
    about: str = ""
    wrappers: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()


@dataclass(frozen=True)
class BudgetSpec:
    """What every arm may cost, fixed beforehand.

    `kl`: nats per token of neutral text. `edit`: norm of the edit as a share of the median residual norm.
    `coordinates`: number of edited coordinates, at the KL level `at_kl`. `kl_limit` bounds the usable band.
    """

    kl: tuple[float, ...] = (0.03, 0.1, 0.3)
    edit: tuple[float, ...] = ()
    coordinates: tuple[int, ...] = ()
    at_kl: float = 0.1
    kl_limit: float = 0.5

    def levels(self) -> tuple[tuple[BudgetKind, float], ...]:
        """All budgets, in the order in which they are run."""
        kinds: tuple[tuple[BudgetKind, tuple[float, ...]], ...] = (
            ("kl", self.kl),
            ("edit", self.edit),
            ("coordinates", tuple(map(float, self.coordinates))),
        )
        return tuple((kind, level) for kind, levels in kinds for level in levels)


@dataclass(frozen=True)
class SizeSpec:
    """How much text is run; `n_layers` layers spread over the depth are searched, in every arm alike.

    `n_fit` texts (or pairs) of each side are fitted on; learned scaling takes `n_optimisation_prompts` prompts in
    `n_optimisation_steps` steps. `n_random` draws of k dimensions, `n_drawn` of noise and of shuffled labels. `curves`
    asks for strength curves with usable bands.
    """

    n_neutral: int = 12
    n_neutral_tokens: int = 24
    n_tune: int = 24
    n_test: int = 60
    n_fit: int = 96
    n_optimisation_prompts: int = 32
    n_optimisation_steps: int = 60
    n_layers: int = 3
    layers: tuple[int, ...] = ()
    n_random: int = 5
    n_drawn: int = 1
    curves: bool = True


@dataclass(frozen=True)
class Spec:
    """A comparison: methods and tasks, budgets, sizes and seeds.

    `k` is the number of coordinates that every method chooses which counts them. `scope` is where all arms edit, the
    same tokens for a fair comparison; "own" leaves every method its own.
    """

    name: str
    methods: tuple[str, ...]
    tasks: tuple[TaskSpec, ...]
    model: ModelSpec = field(default_factory=ModelSpec)
    budgets: BudgetSpec = field(default_factory=BudgetSpec)
    sizes: SizeSpec = field(default_factory=SizeSpec)
    seeds: tuple[int, ...] = (0,)
    k: int = 16
    scope: str = "all_but_first"

    def __post_init__(self) -> None:
        _check(self)

    @property
    def digest(self) -> str:
        """Hash of everything that changes results; the plan's assumptions do not."""
        return _digest(self)

    def quick(self) -> "Spec":
        """The same comparison with one KL level, two layers, fewer items and no curves; still five random draws."""
        level = self.budgets.kl[len(self.budgets.kl) // 2] if self.budgets.kl else self.budgets.at_kl
        most = {"n_neutral": 4, "n_tune": 6, "n_test": 12, "n_fit": 24, "n_layers": 2}
        most |= {"n_optimisation_prompts": 6, "n_optimisation_steps": 12}
        fewer = {name: min(count, getattr(self.sizes, name)) for name, count in most.items()}
        sizes = dataclasses.replace(self.sizes, **fewer, layers=(), n_drawn=1, curves=False)
        budgets = dataclasses.replace(self.budgets, kl=(level,), edit=(), coordinates=())
        tasks = tuple(dataclasses.replace(task, domains=task.domains[:1]) for task in self.tasks)
        return dataclasses.replace(
            self, name=f"{self.name}-quick", sizes=sizes, budgets=budgets, tasks=tasks, seeds=self.seeds[:1]
        )


def left_out(whole: Spec, quick: Spec) -> str:
    """What a quick comparison leaves out of the whole one, in words."""
    budgets = set(whole.budgets.levels()) - set(quick.budgets.levels())
    domains = sum(len(one.domains) - len(other.domains) for one, other in zip(whole.tasks, quick.tasks, strict=True))
    parts = [f"{len(budgets)} of {len(whole.budgets.levels())} budgets"] if budgets else []
    parts += [f"{domains} domains"] if domains else []
    parts += [f"{len(whole.seeds) - 1} of {len(whole.seeds)} seeds"] if len(whole.seeds) > 1 else []
    parts += ["strength curves and usable bands"] if whole.sizes.curves else []
    words = {
        "n_layers": "settings searched per arm",
        "n_tune": "tuning items",
        "n_test": "test items",
        "n_fit": "texts fitted on",
        "n_neutral": "neutral passages",
        "n_optimisation_prompts": "prompts of learned scaling",
        "n_optimisation_steps": "steps of learned scaling",
        "n_drawn": "draws of noise and of shuffled labels",
    }
    counts = {name: (getattr(quick.sizes, name), getattr(whole.sizes, name)) for name in words}
    fewer = [f"{few} instead of {many} {words[name]}" for name, (few, many) in counts.items() if few < many]
    missing, smaller = ", ".join(parts) or "nothing", ", ".join(fewer) or "as many items"
    return f"left out: {missing}; {smaller}; still {quick.sizes.n_random} draws of random-k"


@dataclass(frozen=True)
class MaskingSpec:
    """A table of exam accuracy under masking: subjects of a source of questions (empty: all), and what is masked.

    Of `n_candidates` dimensions, the largest by magnitude (0: all), each is masked alone on `n_identify` questions per
    subject. Those that then stand at `ranks`, the `dimensions` named here and `n_random` random ones are masked on
    `n_test` other questions. `n_positions` is the typical length of a question in tokens, for plans.
    """

    name: str
    data: str
    subjects: tuple[str, ...] = ()
    dimensions: tuple[int, ...] = ()
    model: ModelSpec = field(default_factory=ModelSpec)
    n_candidates: int = 0
    n_identify: int = 50
    n_test: int = 50
    ranks: tuple[int, ...] = (1, 10, 100)
    n_random: int = 5
    n_positions: int = 160
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.n_identify, self.n_test) < 2:
            raise SpecError("n_identify and n_test must be at least 2: one question gives no accuracy worth a row")
        if min(self.ranks, default=1) < 1 or self.n_candidates < 0 or self.n_random < 1:
            raise SpecError("ranks count from 1, n_candidates from 0 (all), and n_random is at least 1")
        if self.n_candidates and self.n_candidates < max(self.ranks, default=0):
            raise SpecError(f"{self.n_candidates} candidates have no rank {max(self.ranks)}; raise n_candidates")
        for word, items in (("subject", self.subjects), ("dimension", self.dimensions), ("rank", self.ranks)):
            twice = [item for item in items if items.count(item) > 1]
            if twice:
                raise SpecError(f"{word} {twice[0]!r} is listed twice; list it once")

    @property
    def digest(self) -> str:
        """Hash of everything that changes results."""
        return _digest(self, ("n_positions",))


def _digest(spec: "Spec | MaskingSpec", left_out: Sequence[str] = ()) -> str:
    plain = {name: value for name, value in dataclasses.asdict(spec).items() if name not in left_out}
    for key in ("teraflops", "shape", "download", "device_map"):
        plain["model"].pop(key)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def read_spec(path: str | Path) -> Spec:
    """The specification in a TOML file; raises `SpecError` for what it does not know."""
    return spec_from(_toml(path), str(path))


def read_masking_spec(path: str | Path) -> MaskingSpec:
    """The specification of a masking table in a TOML file; raises as `read_spec`."""
    values = _toml(path)
    if "model" in values:
        values["model"] = _model(values["model"], str(path))
    return _part(MaskingSpec, values, str(path))


def _toml(path: str | Path) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}; give the path of a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not TOML: {error}") from error


def spec_from(content: Mapping[str, Any], origin: str) -> Spec:
    """A specification from plain values; `origin` is named in errors."""
    values = dict(content)
    tasks = values.pop("tasks", ())
    if not isinstance(tasks, list | tuple) or not all(isinstance(task, Mapping) for task in tasks):
        raise SpecError(f"{origin}: tasks are a list of tables, [[tasks]] with kind = ...")
    parts: dict[str, Any] = {"tasks": tuple(_part(TaskSpec, task, f"{origin} [[tasks]]") for task in tasks)}
    if "model" in values:
        parts["model"] = _model(values.pop("model"), origin)
    for name, kind in (("budgets", BudgetSpec), ("sizes", SizeSpec)):
        if name in values:
            parts[name] = _part(kind, values.pop(name), f"{origin} [{name}]")
    return _part(Spec, values | parts, origin)


def _model(content: Any, origin: str) -> ModelSpec:
    model = dict(_table(content, f"{origin} [model]"))
    if "shape" in model:
        model["shape"] = _part(ModelShape, model["shape"], f"{origin} [model.shape]")
    return _part(ModelSpec, model, f"{origin} [model]")


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise SpecError(f"{where}: expected a table of keys, given {value!r}")
    return value


def _part(kind: type[Any], content: Any, where: str) -> Any:
    known = {field.name: field for field in dataclasses.fields(kind)}
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in _table(content, where).items()}
    unknown = [name for name in given if name not in known]
    if unknown:
        raise SpecError(f"{where}: unknown key {unknown[0]!r}; known keys are {', '.join(known)}")
    for name, value in given.items():
        _check_type(value, str(known[name].type), f"{where}: {name}")
    missing = [
        name
        for name, item in known.items()
        if name not in given and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise SpecError(f"{where}: {missing[0]!r} is missing")
    return kind(**{name: _as_float(value, str(known[name].type)) for name, value in given.items()})


def _as_float(value: Any, annotation: str) -> Any:
    """Whole numbers as floats where a float is meant."""
    if "float" not in annotation:
        return value
    return tuple(map(float, value)) if isinstance(value, tuple) else float(value)


def _check_type(value: Any, annotation: str, where: str) -> None:
    words = {"str": (str,), "int": (int,), "float": (float, int), "bool": (bool,)}
    name = annotation.removeprefix("<class '").removesuffix("'>")
    if name in words:
        if not isinstance(value, words[name]) or (isinstance(value, bool) and name != "bool"):
            raise SpecError(f"{where} = {value!r} should be of type {name}")
    elif name.startswith("tuple["):
        element = words.get(name.removeprefix("tuple[").split(",")[0])
        if not isinstance(value, tuple) or (element and not all(isinstance(item, element) for item in value)):
            raise SpecError(f"{where} = {value!r} should be a list of {name.removeprefix('tuple[').split(',')[0]}")


def _check(spec: Spec) -> None:
    if not spec.methods or not spec.tasks:
        raise SpecError(f"specification {spec.name!r} needs at least one method and one task")
    for word, items in (("method", spec.methods), ("task", spec.tasks), ("seed", spec.seeds)):
        twice = [item for item in items if items.count(item) > 1]
        if twice:
            shown = twice[0].kind if isinstance(twice[0], TaskSpec) else twice[0]
            raise SpecError(f"{word} {shown!r} is listed twice, which would make duplicate cells; list it once")
    levels = spec.budgets.levels()
    if not levels:
        raise SpecError("no budget is given; set budgets.kl = [0.1], say")
    for kind, level in levels:
        if not 0 < level < float("inf"):
            raise SpecError(f"budget {kind} = {level} must be a positive number")
        if levels.count((kind, level)) > 1:
            raise SpecError(f"budget {kind} = {level:g} is listed twice, which would make duplicate cells")
    if not spec.seeds:
        raise SpecError("no seed is given; set seeds = [0]")
    scopes = (*get_args(Where), "own")
    if spec.scope not in scopes:
        raise SpecError(f"unknown scope {spec.scope!r}; choose one of {', '.join(scopes)}")
    sizes = spec.sizes
    if min(sizes.n_neutral, sizes.n_tune, sizes.n_test, sizes.n_fit) < 2:
        raise SpecError("n_neutral, n_tune, n_test and n_fit must be at least 2: one item gives no interval")
    if sizes.n_random < 5:
        raise SpecError(f"sizes.n_random is {sizes.n_random}; random-k needs at least 5 draws to be a control")
    if spec.k < 1 or sizes.n_layers < 1 or sizes.n_drawn < 1:
        raise SpecError("k, sizes.n_layers and sizes.n_drawn must be at least 1")
