"""What the commands do, apart from reading options: composed from the library, with its heavy imports at the top."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import typer

from workbench.cli.options import read_where
from workbench.corpus import corpus_hash
from workbench.environment import Check
from workbench.interventions import (
    ContrastiveAddition,
    CriticalDimensionSteering,
    Scope,
    Steering,
    load_steering,
    save_steering,
    steer,
)
from workbench.models import HookedModel, ModelError, load_model
from workbench.records import Dimension, DimensionStatistics, Prompt, Selection
from workbench.records.tables import write_csv
from workbench.study import Settings, StageProgress, load_passages, open_model, select, survey

DOMAIN_METHODS = ("cds", "whole-dimension")  # fitted on a domain against all others


@dataclass(frozen=True)
class Found:
    """What `workbench find` computes and `workbench label` goes on from."""

    model: HookedModel
    prompts: list[Prompt]
    statistics: DimensionStatistics
    dcds: list[Dimension]


@dataclass(frozen=True)
class SteerOptions:
    """What `workbench steer` was asked for, beside the settings of the model and the corpus."""

    domain: str | None
    method: str
    strength: float
    selection: Selection
    layer: int | None
    artefact: Path | None
    out: Path | None
    max_new_tokens: int
    temperature: float
    scope: str | None

    def __post_init__(self) -> None:
        if self.method not in DOMAIN_METHODS:
            raise ValueError(f"unknown method {self.method!r}; choose one of {', '.join(DOMAIN_METHODS)}")


def read_scope(text: str) -> Scope:
    """A named scope, or absolute positions separated by commas."""
    return Scope(read_where(text))


def find(settings: Settings, selection: Selection, progress: StageProgress) -> Found:
    """Load, collect statistics, select."""
    model = open_model(settings)
    prompts = load_passages(settings, model)
    statistics, rows = survey(model, prompts, settings, progress)
    dcds = [dcd for group in select(rows, settings.k, [selection]).values() for dcd in group]
    return Found(model, prompts, statistics, dcds)


def write_table(table: pd.DataFrame, out: Path | None) -> None:
    """Write a table as CSV, completely or not at all, if a file is named."""
    if out is not None:
        write_csv(table, out)
        typer.echo(f"table: {out}")


def continuations(
    prompt: str, options: SteerOptions, settings: Settings, progress: StageProgress
) -> tuple[str, str, Steering]:
    """The text that follows the prompt without and with steering, and the steering."""
    scope = Scope() if options.scope is None else read_scope(options.scope)
    model = open_model(settings)
    tokens = model.tokenize([prompt], truncate=settings.truncate, side="left")
    if options.artefact is not None:
        artefact = load_steering(options.artefact, model)
        steering, prompts = artefact.steering, []
        scope = artefact.scope if options.scope is None else scope
        check_prompt_length(steering, int(tokens.lengths[0]))
    else:
        prompts = load_passages(settings, model)
        steering = fit_on_domain(model, prompts, options, settings, progress)
    generation: dict[str, Any] = {
        "max_new_tokens": options.max_new_tokens,
        "temperature": options.temperature,
        "seed": settings.seed,
    }
    plain = model.decode(model.generate(tokens, **generation)[0], after=prompt)
    with steer(model, steering, options.strength, scope):
        steered = model.decode(model.generate(tokens, **generation)[0], after=prompt)
    if options.out is not None:  # last, so that a mistake that shows only now leaves no file
        options.out.parent.mkdir(parents=True, exist_ok=True)
        save_steering(options.out, steering, model, scope=scope, data_hashes={"corpus": corpus_hash(prompts)})
    return plain, steered, steering


def check_prompt_length(steering: Steering, n_tokens: int) -> None:
    """Raise where a method was learned per position, on prompts of another length."""
    if steering.prompt_length not in (None, n_tokens):
        raise ValueError(
            f"the prompt has {n_tokens} tokens, but this {type(steering).__name__} was learned on prompts of "
            f"{steering.prompt_length}; give a prompt of that length, or fit dyn-scalar"
        )


def fit_on_domain(
    model: HookedModel, prompts: list[Prompt], options: SteerOptions, settings: Settings, progress: StageProgress
) -> Steering:
    """Fit on the passages to identify on: those of the domain against those of all others."""
    identify = [prompt for prompt in prompts if prompt.split == "identify"]
    domains = list(dict.fromkeys(prompt.domain for prompt in identify))
    if options.domain not in domains:
        raise ValueError(f"unknown domain {options.domain!r}; choose one of {', '.join(domains)}")
    layer = model.n_layers // 2 if options.layer is None else options.layer
    if not 0 <= layer < model.n_layers:
        raise ValueError(f"layer {layer} is out of range; {model.name} has layers 0 to {model.n_layers - 1}")
    positive = [prompt.text for prompt in identify if prompt.domain == options.domain]
    negative = [prompt.text for prompt in identify if prompt.domain != options.domain]
    if options.method == "whole-dimension":
        return ContrastiveAddition.fit(model, positive, negative, layer=layer)
    selection = options.selection
    _, rows = survey(model, identify, settings, progress)
    dimensions = [dcd.dimension for dcd in select(rows, settings.k, [selection])[options.domain, selection]]
    return CriticalDimensionSteering.fit(model, positive, negative, layers=[layer], dimensions=dimensions)


def builtin_model_check() -> Check:
    """Whether the built-in model loads, and which of its sites the load-time self-check refused."""
    try:
        model = load_model()
    except ModelError as error:
        return Check("built-in model", False, str(error))
    refused = [kind for kind, found in model.checks.items() if found != "ok"]
    detail = f"{model.n_layers} layers of {model.d_model} dimensions, hooks checked"
    return Check("built-in model", True, detail + (f", not usable: {', '.join(refused)}" if refused else ""))
