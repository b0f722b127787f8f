"""What `workbench fit`, `layers` and `heads` do: data for every method, from a file or from what is built in."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workbench.cli.jobs import read_scope
from workbench.corpus import corpus_hash, load_pairs
from workbench.interventions import (
    ContrastPrompt,
    FitContext,
    FittingData,
    HeadScores,
    LayerMap,
    MethodCard,
    PersonaExchanges,
    Setting,
    Steering,
    builtin_items,
    builtin_personas,
    head_scores,
    layer_map,
    load_steering,
    method_named,
    persona_exchanges,
    read_exchanges,
    read_items,
    save_steering,
    steer,
    usable_items,
)
from workbench.models import HookedModel
from workbench.models.loading import BUILTIN
from workbench.study import Settings, load_passages, open_model
from workbench.tasks.builtin import domain_fitting

OPTIONS = {
    "rows": ("pairs", "domain"),
    "texts": ("pairs", "domain"),
    "pairs": ("pairs", "domain"),
    "contrast prompts": ("items",),
    "exchanges": ("persona",),
}
TASKS = ("ccc", "ioi")
N_ITEMS = 32  # of a built-in task: enough to learn from, and quick to learn on a processor


@dataclass(frozen=True)
class FitSource:
    """What a method is fitted on, as the command line names it: one of the four."""

    pairs: Path | None = None
    domain: str | None = None
    items: str | None = None
    persona: str | None = None

    def check(self, card: MethodCard) -> None:
        """Raise unless one source is given, of a kind that the method reads."""
        given = [name for name, value in vars(self).items() if value is not None]
        needed = OPTIONS[card.needs]
        if len(given) != 1 or given[0] not in needed:
            wanted = " or ".join(f"--{name}" for name in needed)
            raise ValueError(f"--method {card.name} is fitted on {wanted}: give one of them, and nothing else")


@dataclass(frozen=True)
class FitOptions:
    """What `workbench fit` was asked for, beside the settings of the model and the corpus."""

    method: str
    out: Path
    source: FitSource
    setting: Setting
    scope: str | None

    def __post_init__(self) -> None:
        self.source.check(method_named(self.method))


@dataclass(frozen=True)
class SteerOptions:
    """What `workbench steer` was asked for, beside the settings of the model and the corpus."""

    domain: str | None
    method: str
    setting: Setting
    strength: float
    artefact: Path | None
    out: Path | None
    max_new_tokens: int
    temperature: float
    scope: str | None
    allow_other_weights: bool = False

    def __post_init__(self) -> None:
        FitSource(domain=self.domain or "").check(method_named(self.method))


@dataclass(frozen=True)
class Fitted:
    """A fitted steering, the hash of its data, and what is worth saying about it."""

    steering: Steering
    data_hash: str
    note: str


def fit(options: FitOptions, settings: Settings) -> Fitted:
    """Fit one method and save it as an artefact."""
    model = open_model(settings)
    fitted = fit_method(model, options.method, options.source, options.setting, settings)
    scope = None if options.scope is None else read_scope(options.scope)
    save_steering(options.out, fitted.steering, model, scope=scope, data_hashes={"data": fitted.data_hash})
    return fitted


def fit_method(model: HookedModel, method: str, source: FitSource, setting: Setting, settings: Settings) -> Fitted:
    """Fit a method on what the command line names, as a comparison fits it on the data of a task."""
    card = method_named(method)
    source.check(card)
    context, digest, note = fit_context(model, source, settings)
    steering = card.fit(context, setting)
    if card.needs_one_length:
        note += f", {len(context.prompts_of_one_length)} of them of one length"
    return Fitted(steering, digest, note)


def fit_context(model: HookedModel, source: FitSource, settings: Settings) -> tuple[FitContext, str, str]:
    """The data that the command line names, their hash, and their number in words."""
    context = FitContext(model, seed=settings.seed)
    if source.pairs is not None:
        pairs = tuple(load_pairs(source.pairs))
        texts = tuple(pair.positive for pair in pairs), tuple(pair.negative for pair in pairs)
        data = FittingData(*texts, pairs=pairs)
        return replace(context, data=data, pooling="last"), _file_hash(source.pairs), f"{len(pairs)} pairs"
    if source.domain is not None:
        prompts = load_passages(settings, model)
        domains = list(dict.fromkeys(prompt.domain for prompt in prompts))
        if source.domain not in domains:
            raise ValueError(f"unknown domain {source.domain!r}; choose one of {', '.join(domains)}")
        data = domain_fitting(source.domain, prompts)(model)
        note = f"{len(data.positive)} passages of {source.domain} against {len(data.negative)} of other domains"
        return replace(context, data=data, domain=source.domain), corpus_hash(prompts), note
    if source.items is not None:
        items = tuple(_items(model, source.items))
        data = FittingData(contrast_prompts=items)
        return replace(context, data=data), hashlib.sha256(repr(items).encode()).hexdigest(), f"{len(items)} items"
    assert source.persona is not None, "the options were checked"
    context, exchanges, digest = persona_context(model, source.persona, settings.seed)
    return context, digest, f"{len(exchanges.positive)} of {exchanges.n_asked} questions kept"


def _items(model: HookedModel, source: str) -> Sequence[ContrastPrompt]:
    """Items of a file as they are; of a built-in task those that fit the model."""
    if source in TASKS:
        found = usable_items(model, builtin_items(source, "identify"))
        step = max(1, len(found) // N_ITEMS)
        return found[::step][:N_ITEMS]
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"--items {source}: expected {', '.join(TASKS)}, or a file of {{prompt, correct, wrong}}")
    return read_items(path)


# --- steer ------------------------------------------------------------------------------------------------------------


def continuations(prompt: str, options: SteerOptions, settings: Settings) -> tuple[str, str, Steering]:
    """The text that follows the prompt without and with steering, and the steering."""
    scope = None if options.scope is None else read_scope(options.scope)
    model = open_model(settings)
    tokens = model.tokenize([prompt], truncate=settings.truncate, side="left")
    if options.artefact is not None:
        artefact = load_steering(options.artefact, model, allow_other_weights=options.allow_other_weights)
        steering, data_hash = artefact.steering, ""
        scope = artefact.scope if scope is None else scope
        check_prompt_length(steering, int(tokens.lengths[0]))
    else:
        fitted = fit_method(model, options.method, FitSource(domain=options.domain), options.setting, settings)
        steering, data_hash = fitted.steering, fitted.data_hash
    generation: dict[str, Any] = {
        "max_new_tokens": options.max_new_tokens,
        "temperature": options.temperature,
        "seed": settings.seed,
    }
    plain = model.decode(model.generate(tokens, **generation)[0], after=prompt)
    with steer(model, steering, options.strength, scope):
        steered = model.decode(model.generate(tokens, **generation)[0], after=prompt)
    if options.out is not None:  # last, so that a mistake that shows only now leaves no file
        save_steering(options.out, steering, model, scope=scope, data_hashes={"data": data_hash})
    return plain, steered, steering


def check_prompt_length(steering: Steering, n_tokens: int) -> None:
    """Raise where a method was learned per position, on prompts of another length."""
    if steering.prompt_length not in (None, n_tokens):
        raise ValueError(
            f"the prompt has {n_tokens} tokens, but this {type(steering).__name__} was learned on prompts of "
            f"{steering.prompt_length}; give a prompt of that length, or fit dyn-scalar"
        )


# --- personas ---------------------------------------------------------------------------------------------------------


def persona_context(model: HookedModel, source: str, seed: int) -> tuple[FitContext, PersonaExchanges, str]:
    """Exchanges of a built-in persona or of a file, to be fitted on, and a hash."""
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
    data = FittingData(positive_exchanges=exchanges.positive, negative_exchanges=exchanges.negative)
    digest = hashlib.sha256(repr(exchanges).encode()).hexdigest()
    return FitContext(model, data, seed=seed), exchanges, digest


def persona_layers(source: str, settings: Settings) -> tuple[LayerMap, PersonaExchanges]:
    """Where along the stream the persona is formed."""
    context, exchanges, _ = persona_context(open_model(settings), source, settings.seed)
    return layer_map(context.persona), exchanges


def persona_heads(source: str, settings: Settings, layer: int | None) -> tuple[HeadScores, int, PersonaExchanges]:
    """Head scores of all layers, and the layer to look at: the one asked for, or where the persona is formed."""
    model = open_model(settings)
    if layer is not None and not 0 <= layer < model.n_layers:
        raise ValueError(f"layer {layer} is out of range; {model.name} has layers 0 to {model.n_layers - 1}")
    context, exchanges, _ = persona_context(model, source, settings.seed)
    scores = head_scores(model, context.persona, seed=settings.seed)
    return scores, layer_map(context.persona).layer if layer is None else layer, exchanges


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
