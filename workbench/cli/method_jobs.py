"""What `workbench fit`, `layers` and `heads` do: data for every method, from a file or from what is built in."""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.cli.jobs import DOMAIN_METHODS, SteerOptions, fit_on_domain, read_scope
from workbench.corpus import corpus_hash, load_pairs
from workbench.interventions import (
    ITI,
    SADI,
    ActAdd,
    ActivationScaling,
    AUSteer,
    ContrastiveAddition,
    DialItem,
    DialReport,
    DirectionalAblation,
    DynScalar,
    HeadScores,
    LayerMap,
    PersonaActivations,
    PersonaExchanges,
    Steering,
    SteerVec,
    StyleHeads,
    builtin_items,
    builtin_personas,
    candidate_directions,
    head_scores,
    layer_map,
    persona_activations,
    persona_exchanges,
    read_exchanges,
    read_items,
    save_steering,
    usable_items,
)
from workbench.models import HookedModel
from workbench.models.loading import BUILTIN
from workbench.records import Pair, Selection
from workbench.study import Settings, StageProgress, load_passages, open_model

TEXT_METHODS = ("cds", "whole-dimension", "austeer", "actadd", "ablation", "addition", "iti", "sadi")
ITEM_METHODS = {"activation-scaling": ActivationScaling, "steer-vec": SteerVec, "dyn-scalar": DynScalar}
METHODS = (*TEXT_METHODS, "style-heads", *ITEM_METHODS)
TASKS = ("ccc", "ioi")
N_ITEMS = 32  # of a built-in task: enough to learn from, and quick to learn on a processor


@dataclass(frozen=True)
class FitOptions:
    """What `workbench fit` was asked for, beside the settings of the model and the corpus."""

    method: str
    out: Path
    pairs: Path | None
    domain: str | None
    items: str | None
    persona: str | None
    layer: int | None
    k: int | None
    site: str | None
    selection: Selection
    scope: str | None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}; choose one of {', '.join(METHODS)}")
        given = [name for name in ("pairs", "domain", "items", "persona") if getattr(self, name) is not None]
        needed = self.needed
        if len(given) != 1 or given[0] not in needed:
            wanted = " or ".join(f"--{name}" for name in needed)
            raise ValueError(f"--method {self.method} is fitted on {wanted}: give one of them, and nothing else")
        if self.site is not None and self.method not in ("austeer", "sadi"):
            raise ValueError(f"--site is for austeer and sadi; {self.method} has its own site")

    @property
    def needed(self) -> tuple[str, ...]:
        """The options that may say what the method is fitted on."""
        if self.method in ITEM_METHODS:
            return ("items",)
        if self.method == "style-heads":
            return ("persona",)
        return ("domain",) if self.method == "cds" else ("pairs", "domain")


@dataclass(frozen=True)
class Fitted:
    """A fitted steering, the hash of its data, and what is worth saying about it."""

    steering: Steering
    data_hash: str
    notes: tuple[str, ...]


def fit(options: FitOptions, settings: Settings, progress: StageProgress) -> Fitted:
    """Fit one method and save it as an artefact."""
    model = open_model(settings)
    if options.layer is not None and not 0 <= options.layer < model.n_layers:
        raise ValueError(f"layer {options.layer} is out of range; {model.name} has layers 0 to {model.n_layers - 1}")
    if options.method in ITEM_METHODS:
        fitted = _fit_items(model, options)
    elif options.method == "style-heads":
        fitted = _fit_heads(model, options, settings.seed)
    elif options.method in DOMAIN_METHODS and options.domain is not None:
        prompts = load_passages(settings, model)
        asked = SteerOptions(
            options.domain, options.method, 1.0, options.selection, options.layer, None, None, 1, 0.0, None
        )
        fitted = Fitted(fit_on_domain(model, prompts, asked, settings, progress), corpus_hash(prompts), ())
    else:
        pairs, digest = _pairs(model, options, settings)
        fitted = Fitted(_fit_pairs(model, pairs, options), digest, (f"{len(pairs)} pairs",))
    scope = fitted.steering.published_scope if options.scope is None else read_scope(options.scope)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_steering(options.out, fitted.steering, model, scope=scope, data_hashes={"data": fitted.data_hash})
    return fitted


# --- texts ------------------------------------------------------------------------------------------------------------


def _pairs(model: HookedModel, options: FitOptions, settings: Settings) -> tuple[list[Pair], str]:
    """Pairs of a file; or passages of the domain, each with one of another domain drawn from the seed."""
    if options.pairs is not None:
        return load_pairs(options.pairs), _file_hash(options.pairs)
    prompts = load_passages(settings, model)
    identify = [prompt for prompt in prompts if prompt.split == "identify"]
    domains = list(dict.fromkeys(prompt.domain for prompt in identify))
    if options.domain not in domains:
        raise ValueError(f"unknown domain {options.domain!r}; choose one of {', '.join(domains)}")
    own = [prompt.text for prompt in identify if prompt.domain == options.domain]
    others = [prompt.text for prompt in identify if prompt.domain != options.domain]
    random.Random(settings.seed).shuffle(others)
    return [Pair(one, other) for one, other in zip(own, others, strict=False)], corpus_hash(prompts)


def _fit_pairs(model: HookedModel, pairs: Sequence[Pair], options: FitOptions) -> Steering:
    layer = model.n_layers // 2 if options.layer is None else options.layer
    positive, negative = [pair.positive for pair in pairs], [pair.negative for pair in pairs]
    site, k = options.site, options.k
    kinds = ("z", "mlp_raw", "resid_post") if options.method == "austeer" else ("z", "mlp_raw")
    if site is not None and site not in kinds:
        raise ValueError(f"{options.method} does not act at {site!r}; choose one of {', '.join(kinds)}")

    def added() -> Steering:
        direction = candidate_directions(model, positive, negative, layers=[layer])[0, -1].float()
        return ContrastiveAddition(direction, layer, "resid_pre")

    fitters: dict[str, Callable[[], Steering]] = {
        "whole-dimension": lambda: ContrastiveAddition.fit(model, positive, negative, layer=layer, pooling="last"),
        "austeer": lambda: AUSteer.fit(model, pairs, kind=site or "mlp_raw", k=k or 16),  # pyright: ignore[reportArgumentType]
        "actadd": lambda: ActAdd.fit(model, pairs, layer=layer),
        "ablation": lambda: DirectionalAblation.fit(model, positive, negative, layer=layer),
        "addition": added,
        "iti": lambda: ITI.fit(model, pairs, k=k or min(48, model.n_layers * model.n_heads)),
        "sadi": lambda: SADI.fit(model, pairs, kind=site or "z", k=k or 6),  # pyright: ignore[reportArgumentType]
    }
    return fitters[options.method]()


# --- items ------------------------------------------------------------------------------------------------------------


def _fit_items(model: HookedModel, options: FitOptions) -> Fitted:
    assert options.items is not None
    method = ITEM_METHODS[options.method]
    layers = None if options.layer is None else [options.layer]
    items = _items(model, options.items, one_length=options.method != "dyn-scalar")
    steering, report = method.fit(model, items, layers=layers)
    digest = hashlib.sha256(repr(items).encode()).hexdigest()
    return Fitted(steering, digest, (f"{len(items)} items", _report_line(report)))


def _items(model: HookedModel, source: str, *, one_length: bool) -> Sequence[DialItem]:
    """Items of a file as they are; of a built-in task those that fit the model."""
    if source in TASKS:
        found = usable_items(model, builtin_items(source, "identify"), one_length=one_length)
        step = max(1, len(found) // N_ITEMS)
        return found[::step][:N_ITEMS]
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"--items {source}: expected {', '.join(TASKS)}, or a file of {{prompt, correct, wrong}}")
    return read_items(path)


def _report_line(report: DialReport) -> str:
    return (
        f"after {report.n_steps} steps {report.flips_up:.0%} of the items say the correct answer at strength 1 and "
        f"{report.flips_down:.0%} the wrong one at -1; KL over other tokens {report.kl:.2g} nats"
    )


# --- personas ---------------------------------------------------------------------------------------------------------


def persona_data(model: HookedModel, source: str, seed: int) -> tuple[PersonaExchanges, PersonaActivations, str]:
    """Exchanges of a built-in persona or of a file, their activations over response tokens, and a hash."""
    path = Path(source)
    if path.is_file():
        exchanges = read_exchanges(path)
    elif source not in builtin_personas():
        raise ValueError(
            f"--persona {source}: expected one of {', '.join(builtin_personas())}, or a file of "
            "{prompt, positive, negative}"
        )
    elif model.name != BUILTIN:
        raise ValueError(f"the built-in personas are prompts for the built-in model; give {model.name} a file instead")
    else:
        exchanges = persona_exchanges(model, source, seed=seed)
    activations = persona_activations(model, exchanges.positive, exchanges.negative)
    return exchanges, activations, hashlib.sha256(repr(exchanges).encode()).hexdigest()


def persona_layers(source: str, settings: Settings) -> tuple[LayerMap, PersonaExchanges]:
    """Where along the stream the persona is formed."""
    exchanges, activations, _ = persona_data(open_model(settings), source, settings.seed)
    return layer_map(activations), exchanges


def persona_heads(source: str, settings: Settings, layer: int | None) -> tuple[HeadScores, int, PersonaExchanges]:
    """Head scores of all layers, and the layer to look at: the one asked for, or where the persona is formed."""
    model = open_model(settings)
    if layer is not None and not 0 <= layer < model.n_layers:
        raise ValueError(f"layer {layer} is out of range; {model.name} has layers 0 to {model.n_layers - 1}")
    exchanges, activations, _ = persona_data(model, source, settings.seed)
    scores = head_scores(model, activations, seed=settings.seed)
    return scores, layer_map(activations).layer if layer is None else layer, exchanges


def _fit_heads(model: HookedModel, options: FitOptions, seed: int) -> Fitted:
    assert options.persona is not None
    exchanges, activations, digest = persona_data(model, options.persona, seed)
    layer = layer_map(activations).layer if options.layer is None else options.layer
    heads = head_scores(model, activations, seed=seed).top(layer, options.k or min(3, model.n_heads))
    note = f"{len(exchanges.positive)} of {exchanges.n_asked} questions kept"
    steering = StyleHeads.fit(model, activations, layer=layer, heads=heads)
    return Fitted(steering, digest, (note, f"layer {layer}, heads {', '.join(map(str, heads))}"))


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
