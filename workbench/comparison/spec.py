"""The specification of a comparison: one TOML file, or the same values from Python; unknown keys are errors."""

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from workbench.records import BudgetKind, Where
from workbench.schema import Count, Distinct, Index, Name, Positive, Seed, Several, checked, from_plain


class SpecError(ValueError):
    """A specification cannot be read or run as written; the message says which key, and what is expected."""


@checked(SpecError)
class ModelShape:
    """What a plan needs to know of a model whose weights are not at hand; the fields of its config."""

    hidden_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count
    head_dim: Count
    intermediate_size: Count
    vocab_size: Count
    tie_word_embeddings: bool = True

    @property
    def n_parameters(self) -> int:
        """Weights of a gated-MLP transformer of this shape; norms are left out (under 0.1 %)."""
        heads = self.head_dim * (2 * self.num_attention_heads + 2 * self.num_key_value_heads)
        block = self.hidden_size * (heads + 3 * self.intermediate_size)
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return embeddings + self.num_hidden_layers * block


@checked(SpecError)
class ModelSpec:
    """Which model, where and in which precision; `device_map` ("auto") spreads it over several devices.

    `attention` and `bos` are those of `load_model`; `shown_as` is what the model is called in what is written.

    `shape` and `teraflops` (what the device sustains, an assumption) are for plans that are made without weights.
    """

    name: Name = "builtin"
    device: str = "cpu"
    dtype: str = "float32"
    device_map: str = ""
    revision: str = ""
    download: bool = False
    attention: Name = "auto"
    bos: Name = "auto"
    shown_as: str = ""
    teraflops: Positive = 0.02
    shape: ModelShape | None = None


@checked(SpecError)
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


@checked(SpecError)
class BudgetSpec:
    """What every arm may cost, fixed beforehand.

    `kl`: nats per token of neutral text. `edit`: norm of the edit as a share of the median residual norm.
    `coordinates`: number of edited coordinates, at the KL level `at_kl`. `kl_limit` bounds the usable band.
    """

    kl: Annotated[tuple[Positive, ...], Distinct] = (0.03, 0.1, 0.3)
    edit: Annotated[tuple[Positive, ...], Distinct] = ()
    coordinates: Annotated[tuple[Count, ...], Distinct] = ()
    at_kl: Positive = 0.1
    kl_limit: Positive = 0.5

    def __post_init__(self) -> None:
        if not self.levels():
            raise SpecError("no budget is given; set budgets.kl = [0.1], say")

    def levels(self) -> tuple[tuple[BudgetKind, float], ...]:
        """All budgets, in the order in which they are run."""
        kinds: tuple[tuple[BudgetKind, tuple[float, ...]], ...] = (
            ("kl", self.kl),
            ("edit", self.edit),
            ("coordinates", tuple(map(float, self.coordinates))),
        )
        return tuple((kind, level) for kind, levels in kinds for level in levels)


@checked(SpecError)
class SizeSpec:
    """How much text is run; `n_layers` layers spread over the depth are searched, in every arm alike.

    `n_fit` texts (or pairs) of each side are fitted on; learned scaling takes `n_optimisation_prompts` prompts in
    `n_optimisation_steps` steps. `n_random` draws of k dimensions, `n_drawn` of noise and of shuffled labels. `curves`
    asks for strength curves with usable bands.
    """

    n_neutral: Several = 12
    n_neutral_tokens: Count = 24
    n_tune: Several = 24
    n_test: Several = 60
    n_fit: Several = 96
    n_optimisation_prompts: Count = 32
    n_optimisation_steps: Count = 60
    n_layers: Count = 3
    layers: Annotated[tuple[Index, ...], Distinct] = ()
    n_random: Annotated[int, Field(ge=5)] = 5  # fewer draws are no control
    n_drawn: Count = 1
    curves: bool = True


@checked(SpecError)
class Spec:
    """A comparison: methods and tasks, budgets, sizes and seeds. `k` coordinates are chosen where they are counted.

    `scope` is where all arms edit; "own" leaves every method its own. `controls` are run beside the methods, all of
    them by default; the unsteered model always is.
    """

    name: Name
    methods: Annotated[tuple[Name, ...], Field(min_length=1), Distinct]
    tasks: Annotated[tuple[TaskSpec, ...], Field(min_length=1)]
    model: ModelSpec = field(default_factory=ModelSpec)
    budgets: BudgetSpec = field(default_factory=BudgetSpec)
    sizes: SizeSpec = field(default_factory=SizeSpec)
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), Distinct] = (0,)
    k: Count = 16
    scope: Literal[Where, "own"] = "all_but_first"
    controls: Annotated[tuple[Name, ...], Distinct] | None = None

    def __post_init__(self) -> None:
        twice = [task.kind for task in self.tasks if self.tasks.count(task) > 1]
        if twice:
            raise SpecError(f"task {twice[0]!r} is listed twice, which would make duplicate cells; list it once")

    @property
    def digest(self) -> str:
        """Hash of everything that changes results; the plan's assumptions do not."""
        return _digest(self)

    def quick(self) -> "Spec":
        """The same comparison with one KL level, two layers, fewer items and no curves; still five random draws."""
        level = self.budgets.kl[len(self.budgets.kl) // 2] if self.budgets.kl else self.budgets.at_kl
        most = {
            "n_neutral": 4,
            "n_tune": 6,
            "n_test": 12,
            "n_fit": 24,
            "n_optimisation_prompts": 6,
            "n_optimisation_steps": 12,
            "n_layers": 2,
        }
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
        "n_optimisation_prompts": "prompts per dial",
        "n_optimisation_steps": "steps per dial",
        "n_drawn": "draws of noise and of shuffled labels",
    }
    counts = {name: (getattr(quick.sizes, name), getattr(whole.sizes, name)) for name in words}
    fewer = [f"{few} instead of {many} {words[name]}" for name, (few, many) in counts.items() if few < many]
    missing, smaller = ", ".join(parts) or "nothing", ", ".join(fewer) or "as many items"
    return f"left out: {missing}; {smaller}; still {quick.sizes.n_random} draws of random-k"


@checked(SpecError)
class MaskingSpec:
    """A table of exam accuracy under masking: subjects of a source of questions (empty: all), and what is masked.

    Of `n_candidates` dimensions, the largest by magnitude (0: all), each is masked alone on `n_identify` questions per
    subject. Those that then stand at `ranks`, the `dimensions` named here and `n_random` random ones are masked on
    `n_test` other questions. `n_positions` is the typical length of a question in tokens, for plans.
    """

    name: Name
    data: Name
    subjects: Annotated[tuple[Name, ...], Distinct] = ()
    dimensions: Annotated[tuple[Index, ...], Distinct] = ()
    model: ModelSpec = field(default_factory=ModelSpec)
    n_candidates: Index = 0
    n_identify: Several = 50
    n_test: Several = 50
    ranks: Annotated[tuple[Count, ...], Distinct] = (1, 10, 100)
    n_random: Count = 5
    n_positions: Count = 160
    seed: Index = 0

    def __post_init__(self) -> None:
        if self.n_candidates and self.n_candidates < max(self.ranks, default=0):
            raise SpecError(f"{self.n_candidates} candidates have no rank {max(self.ranks)}; raise n_candidates")

    @property
    def digest(self) -> str:
        """Hash of everything that changes results."""
        return _digest(self, ("n_positions",))


def _digest(spec: "Spec | MaskingSpec", left_out: Sequence[str] = ()) -> str:
    plain = {name: value for name, value in dataclasses.asdict(spec).items() if name not in left_out}
    for key in ("teraflops", "shape", "download", "device_map", "shown_as"):
        plain["model"].pop(key)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def read_spec(path: str | Path) -> Spec:
    """The specification in a TOML file; raises `SpecError` for what it does not know."""
    return spec_from(_toml(path), str(path))


def read_masking_spec(path: str | Path) -> MaskingSpec:
    """The specification of a masking table in a TOML file; raises as `read_spec`."""
    return from_plain(MaskingSpec, _toml(path), str(path), SpecError)


def spec_from(content: Mapping[str, Any], origin: str) -> Spec:
    """A specification from plain values; `origin` is named in errors."""
    return from_plain(Spec, content, origin, SpecError)


def _toml(path: str | Path) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}; give the path of a TOML file") from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, lists in lists without end
        raise SpecError(f"{path} is not TOML: {error}") from error
