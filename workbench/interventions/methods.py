"""Every steering method as one card: what it is fitted on, what a search may vary, its defaults, and how it is fitted.

The command line, comparisons, artefacts, documentation and tests read `METHODS`; nobody else knows a default. Two
variants of a method are two names.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from workbench.interventions.ablation import DirectionalAblation
from workbench.interventions.actadd import ActAdd
from workbench.interventions.austeer import AUSteer
from workbench.interventions.base import Scope, Steering, SteeringError
from workbench.interventions.caa import ContrastiveAddition
from workbench.interventions.cds import CriticalDimensionSteering
from workbench.interventions.context import FitContext, FittingData
from workbench.interventions.iti import ITI
from workbench.interventions.sadi import SADI, Elements
from workbench.interventions.scaling import ActivationScaling, DynScalar, LearnedScaling, PerPosition, SteerVec
from workbench.interventions.style_heads import HeadAblation, StyleHeads, layer_map
from workbench.interventions.unit_scores import UnitKind
from workbench.records import NotApplicable, Selection

Needs = Literal["rows", "texts", "pairs", "contrast prompts", "exchanges", "instruction"]
Search = Literal["layer", "count", "none"]
Counts = Literal["", "coordinates", "coordinates left out", "heads"]
Cost = Literal["rows", "once", "per setting", "optimisation"]
MIN_TEXTS = 4
MIN_PAIRS = 8


@dataclass(frozen=True)
class Setting:
    """One setting of a method: None is the card's default. `draw` numbers the draws of random controls."""

    layer: int | None = None
    k: int | None = None
    draw: int = 0

    @property
    def name(self) -> str:
        """What a search varied, for tables: the layer, the count, or nothing."""
        if self.layer is not None:
            return f"layer {self.layer}"
        return "-" if self.k is None else f"k {self.k}"


@dataclass(frozen=True)
class MethodCard:
    """A method by name: `fit_at` fits it at a setting of which nothing is None that the method reads.

    `needs` names the data it reads ("rows": texts, or pooled rows collected before), `search` what a comparison may
    vary, `counts` what k counts, and `k` its default: a number, or a function of the heads of all layers. `layer` is
    the default layer: the middle one, or left to the method (all layers, or one that it finds). `cost` says what
    fitting costs beyond the rows that all share. `is_positional`: its vectors belong to absolute positions of the
    prompt, and so does its scope. `needs_one_length`: prompts must have the length of those that it was fitted on.
    `is_drawn`: it depends on a random draw, several of which are averaged.
    """

    name: str
    steering: type[Steering]
    needs: Needs
    fit_at: Callable[[FitContext, Setting], Steering]
    summary: str
    search: Search = "layer"
    counts: Counts = ""
    k: int | Callable[[int], int] = 0
    layer: Literal["middle", "its own"] = "middle"
    cost: Cost = "per setting"
    is_positional: bool = False
    needs_one_length: bool = False
    is_drawn: bool = False
    role: Literal["method", "control"] = "method"
    aliases: tuple[str, ...] = ()

    @property
    def takes_count(self) -> bool:
        """Whether it can be run at a budget of coordinates."""
        return self.counts == "coordinates"

    @property
    def scope(self) -> Scope:
        """The tokens that the method's source edits."""
        return self.steering.published_scope

    def default_k(self, n_heads_in_all: int) -> int:
        """The count where none is given."""
        return self.k if isinstance(self.k, int) else self.k(n_heads_in_all)

    def fit(self, context: FitContext, setting: Setting | None = None) -> Steering:
        """The method fitted at a setting, once per context; what is None in it is the card's default.

        Raises `NotApplicable` where the data do not allow it, `SteeringError` where the setting cannot be.
        """
        setting = Setting() if setting is None else setting
        layer, k, n_layers = setting.layer, setting.k, context.model.n_layers
        if layer is None and self.layer == "middle":
            layer = n_layers // 2
        if layer is not None and not 0 <= layer < n_layers:
            raise SteeringError(f"layer {layer} is out of range; {context.model.name} has layers 0 to {n_layers - 1}")
        if k is None:
            k = self.default_k(context.n_heads)
        lacking = self.lacking(context.data, least=1) if context.collected is None or self.needs != "rows" else ""
        if lacking:
            raise NotApplicable(lacking)
        whole = replace(setting, layer=layer, k=k)
        return context.shared((self.fit_at, whole), lambda: self.fit_at(context, whole))

    def lacking(self, data: FittingData, *, least: int | None = None) -> str:
        """What the data lack to fit the method on, at least so many of each kind; "" if nothing."""
        match self.needs:
            case "rows" | "texts":
                n = min(len(data.positive), len(data.negative))
                return "" if n >= (least or MIN_TEXTS) else f"there are {n or 'no'} contrasting texts to fit on"
            case "pairs":
                n = len(data.pairs)
                return "" if n >= (least or MIN_PAIRS) else f"there are {n or 'no'} contrast pairs to fit on"
            case "exchanges":
                n = min(len(data.positive_exchanges), len(data.negative_exchanges))
                return (
                    "" if n >= (least or MIN_TEXTS) else "there are no exchanges of prompt and response of both kinds"
                )
            case "contrast prompts":
                n = len(data.contrast_prompts)
                return "" if n >= (least or MIN_TEXTS) else "there are no prompts with two answers of one token each"
        return ""

    def settings(self, layers: Sequence[int], k: int, n_heads_in_all: int, exact_k: int | None = None) -> list[Setting]:
        """What a comparison tries: a setting per layer, as many counts around the default, or the method as it is.

        `k` is the number of coordinates that a comparison gives to all methods that count them. At a budget of
        `exact_k` coordinates nothing is left to search where only the count could vary.
        """
        k = exact_k or k
        if self.search == "layer":
            is_given = self.counts in ("coordinates", "coordinates left out")
            return [Setting(layer=layer, k=k if is_given else None) for layer in layers]
        if self.search == "none":
            return [Setting()]
        if exact_k is not None:
            return [Setting(k=exact_k)]
        heads = self.default_k(n_heads_in_all), n_heads_in_all
        middle, largest = heads if self.counts == "heads" else (k, 64 * k)
        return [Setting(k=count) for count in _ladder(middle, largest, len(layers))]


def _ladder(middle: int, largest: int, n: int) -> list[int]:
    """`n` different counts: the middle one and its halves and doubles, as far as they go."""
    ladder = sorted({max(1, min(largest, round(middle * 2.0**step))) for step in range(-n, n + 1)})
    start = max(0, min(ladder.index(min(middle, largest)) - (n - 1) // 2, len(ladder) - n))
    return ladder[start : start + n]


# --- how each is fitted -----------------------------------------------------------------------------------------------


def _layer(setting: Setting) -> int:
    assert setting.layer is not None, "the card fills in the layer"
    return setting.layer


def _count(setting: Setting, n_available: int, noun: str) -> int:
    assert setting.k is not None, "the card fills in the count"
    if setting.k > n_available:
        raise NotApplicable(f"it is to choose {setting.k} {noun}, but there are {n_available}")
    return setting.k


def _cds(selection: Selection) -> Callable[[FitContext, Setting], Steering]:
    def fit(context: FitContext, setting: Setting) -> Steering:
        dimensions = context.dimensions(setting.k or 1, selection)
        return CriticalDimensionSteering.fit(
            context.model,
            context.rows,
            domain=context.domain,
            layers=[_layer(setting)],
            dimensions=dimensions,
            pooling=context.pooling,
        )

    return fit


def _caa(context: FitContext, setting: Setting) -> Steering:
    model, pooling = context.model, context.pooling
    return ContrastiveAddition.fit(model, context.rows, domain=context.domain, layer=_layer(setting), pooling=pooling)


def _addition(context: FitContext, setting: Setting) -> Steering:
    texts = context.positive, context.negative
    return ContrastiveAddition.fit_input(context.model, *texts, layer=_layer(setting), pooling=context.pooling)


def _ablation(context: FitContext, setting: Setting) -> Steering:
    texts = context.positive, context.negative
    return DirectionalAblation.fit(context.model, *texts, layer=_layer(setting), pooling=context.pooling)


def _austeer(kind: UnitKind) -> Callable[[FitContext, Setting], Steering]:
    def fit(context: FitContext, setting: Setting) -> Steering:
        model = context.model
        width = model.n_heads * model.d_head if kind == "z" else model.d_model
        layers = range(model.n_layers) if setting.layer is None else [setting.layer]
        k = _count(setting, width * len(layers), "units")
        return AUSteer.fit(model, context.pairs, kind=kind, k=k, layers=layers)

    return fit


def _actadd(context: FitContext, setting: Setting) -> Steering:
    return ActAdd.fit(context.model, context.pairs, layer=_layer(setting))


def _iti(context: FitContext, setting: Setting) -> Steering:
    return ITI.from_probes(context.probes, _count(setting, context.n_heads, "heads"))


def _sadi(kind: Elements) -> Callable[[FitContext, Setting], Steering]:
    def fit(context: FitContext, setting: Setting) -> Steering:
        model = context.model
        n = context.n_heads if kind == "z" else model.n_layers * model.d_model
        return SADI.fit(model, context.pairs, kind=kind, k=_count(setting, n, "elements"))

    return fit


def _style_heads(context: FitContext, setting: Setting) -> Steering:
    model, persona = context.model, context.persona
    layer = layer_map(persona).layer if setting.layer is None else setting.layer
    n_heads = _count(setting, model.n_heads, "heads") or min(3, model.n_heads)
    heads = context.head_scores.top(layer, n_heads)
    return StyleHeads.fit(model, persona, layer=layer, heads=heads)


def _scaling(method: type[LearnedScaling]) -> Callable[[FitContext, Setting], Steering]:
    def fit(context: FitContext, setting: Setting) -> Steering:
        objective = method.default_objective
        if context.n_optimisation_steps is not None:
            objective = replace(objective, steps=context.n_optimisation_steps)
        prompts = context.prompts_of_one_length if issubclass(method, PerPosition) else context.contrast_prompts
        layers = None if setting.layer is None else [setting.layer]
        return method.fit(context.model, prompts, layers=layers, objective=objective)

    return fit


def _scaling_card(name: str, method: type[LearnedScaling], summary: str) -> MethodCard:
    return MethodCard(
        name,
        method,
        "contrast prompts",
        _scaling(method),
        summary,
        search="none",
        layer="its own",
        cost="optimisation",
        needs_one_length=issubclass(method, PerPosition),
    )


def _units_card(name: str, kind: UnitKind, summary: str) -> MethodCard:
    card = MethodCard(name, AUSteer, "pairs", _austeer(kind), summary, "count", layer="its own")
    return replace(card, counts="coordinates", k=16)


def _cds_card(name: str, selection: Selection, summary: str) -> MethodCard:
    card = MethodCard(name, CriticalDimensionSteering, "rows", _cds(selection), summary, cost="rows")
    return replace(card, counts="coordinates", k=8)


_CAA = ContrastiveAddition
_CARDS = (
    _cds_card("cds", "magnitude", "the direction on the DCDs alone"),
    _cds_card("cds-discrimination", "discrimination", "the same on the DCDs that discriminate the domain"),
    _cds_card("cds-both", "both", "the same on those that discriminate, the largest first"),
    MethodCard(
        "caa", _CAA, "rows", _caa, "the whole direction at one block output", cost="rows", aliases=("whole-dimension",)
    ),
    MethodCard("addition", _CAA, "texts", _addition, "the whole direction at one block input"),
    _units_card("austeer", "mlp_raw", "scales consistent coordinates of MLP outputs, over all layers"),
    _units_card("austeer-heads", "z", "scales consistent coordinates of head outputs, over all layers"),
    _units_card("austeer-residual", "resid_post", "scales consistent coordinates of block outputs, over all layers"),
    MethodCard("actadd", ActAdd, "pairs", _actadd, "one vector per leading position of the prompt", is_positional=True),
    MethodCard("ablation", DirectionalAblation, "texts", _ablation, "takes one direction out of all layers"),
    # 48 of the 1,024 heads of the paper's model; a sixth of fewer than 288.
    MethodCard(
        "iti",
        ITI,
        "pairs",
        _iti,
        "shifts the heads whose probes are most accurate",
        "count",
        counts="heads",
        k=lambda n_heads: min(48, max(1, n_heads // 6)),
        layer="its own",
        cost="once",
    ),
    MethodCard(
        "sadi-heads",
        SADI,
        "pairs",
        _sadi("z"),
        "scales the heads that differ most",
        "count",
        counts="heads",
        k=lambda n_heads: min(6, n_heads),
        layer="its own",
    ),
    MethodCard(
        "sadi-mlp",
        SADI,
        "pairs",
        _sadi("mlp_raw"),
        "scales the coordinates of MLP outputs that differ most",
        "count",
        counts="coordinates",
        k=16,
        layer="its own",
    ),
    MethodCard(
        "style-heads",
        StyleHeads,
        "exchanges",
        _style_heads,
        "a persona through three heads of one layer",
        counts="heads",
        layer="its own",
        cost="once",
    ),
    _scaling_card("activation-scaling", ActivationScaling, "learned scalars per output and position"),
    _scaling_card("steer-vec", SteerVec, "learned vectors per output and position"),
    _scaling_card("dyn-scalar", DynScalar, "learned scalars read from the activation"),
)
METHODS: dict[str, MethodCard] = {card.name: card for card in _CARDS}


def method_named(name: str) -> MethodCard:
    """The card of a name or an alias, labelled by the name asked for; raises `SteeringError` for others."""
    for card in METHODS.values():
        if name == card.name or name in card.aliases:
            return replace(card, name=name)
    raise SteeringError(f"unknown method {name!r}; choose one of {', '.join(METHODS)}")


def steering_classes() -> tuple[type[Steering], ...]:
    """Every class that an artefact may hold."""
    return tuple(dict.fromkeys([*(card.steering for card in METHODS.values()), HeadAblation]))
