"""`workbench steer`, `fit`, `methods`, `layers` and `heads`: every steering method from the command line."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.options import (
    MOST,
    AllowOtherWeights,
    Artefact,
    Domain,
    Layer,
    ModelOptions,
    Scope,
    Strength,
    Table,
    TextOptions,
    UnitCount,
    check_table,
    finite,
)

PERSONA = "pirate, robot, poet or child; or JSON lines of {prompt, positive, negative}."
Persona = Annotated[str, typer.Option("--persona", help=PERSONA)]
METHOD_HELP = "Name of a method; `workbench methods` lists them."
SavedTo = typer.Option("--out", help="Save the fitted steering to this file.", callback=check_table)


def steer(
    options: TextOptions,
    prompt: Annotated[str, typer.Argument(help="Text to continue.")],
    domain: Domain = None,
    artefact: Artefact = None,
    allow_other_weights: AllowOtherWeights = False,
    method: Annotated[str, typer.Option("--method", help="See `workbench methods`; fitted on the domain.")] = "cds",
    layer: Layer = None,
    k: UnitCount = None,
    strength: Strength = 1.0,
    scope: Scope = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, max=MOST, help="Length of the continuation.")
    ] = 60,
    temperature: Annotated[
        float,
        typer.Option("--temperature", min=0, help="0 takes the likeliest token.", callback=finite("--temperature")),
    ] = 0.0,
    out: Annotated[Path | None, SavedTo] = None,
) -> None:
    """Continue a text without and with steering."""
    if (domain is None) == (artefact is None):
        raise ValueError("say what to steer with: either --domain NAME or --artefact FILE")
    if artefact is not None and out is not None:
        raise ValueError("--out keeps a fitted steering, --artefact uses a saved one; give one of them")
    from workbench.cli import method_jobs, output
    from workbench.interventions import Setting

    job = method_jobs.SteerOptions(
        domain,
        method,
        Setting(layer, k),
        strength,
        artefact,
        out,
        max_new_tokens,
        temperature,
        scope,
        allow_other_weights,
    )
    with output.progress_bars():
        plain, steered, steering = method_jobs.continuations(prompt, job, options.settings())
    sites = ", ".join(str(site) for site in steering.sites)
    typer.echo(f"{type(steering).__name__} at {sites}, strength {strength:g}")
    typer.echo(f"\n--- unsteered\n{prompt}{plain}\n\n--- steered\n{prompt}{steered}")
    if out is not None:
        typer.echo(f"\nsaved: {out}")


def fit(
    options: TextOptions,
    method: Annotated[str, typer.Option("--method", help=METHOD_HELP)],
    out: Annotated[Path, SavedTo],
    pairs: Annotated[
        Path | None,
        typer.Option(
            "--pairs", exists=True, dir_okay=False, help="JSON lines of {positive, negative}: two texts each."
        ),
    ] = None,
    domain: Domain = None,
    items: Annotated[
        str | None, typer.Option("--items", help="ccc, ioi, or JSON lines of {prompt, correct, wrong}.")
    ] = None,
    persona: Annotated[str | None, typer.Option("--persona", help=PERSONA)] = None,
    layer: Layer = None,
    k: UnitCount = None,
    scope: Scope = None,
) -> None:
    """Fit a steering method and save it as an artefact, for steer --artefact."""
    from workbench.cli import method_jobs, output
    from workbench.interventions import Setting

    source = method_jobs.FitSource(pairs, domain, items, persona)
    job = method_jobs.FitOptions(method, out, source, Setting(layer, k), scope)
    with output.progress_bars():
        fitted = method_jobs.fit(job, options.settings())
    typer.echo(repr(fitted.steering))
    typer.echo(f'fitted on {fitted.note}\nsaved: {out}\ntry: workbench steer --artefact {out} "..."')


def methods() -> None:
    """List the steering methods: what each is fitted on, and the tokens that it edits."""
    from workbench.cli.method_jobs import OPTIONS
    from workbench.interventions import METHODS

    for card in METHODS.values():
        names = ", ".join((card.name, *card.aliases))
        options = " or ".join(f"--{name}" for name in OPTIONS[card.needs])
        typer.echo(f"{names}: {card.summary} ({options}; scope {card.scope})")


def layers(options: ModelOptions, persona: Persona, out: Table = None) -> None:
    """Map where along the layers a persona is formed (style heads)."""
    from workbench.cli import jobs, method_jobs, output

    with output.progress_bars():
        found, exchanges = method_jobs.persona_layers(persona, options.settings())
    typer.echo(f"{len(exchanges.positive)} of {exchanges.n_asked} questions kept")
    output.print_layers(found)
    jobs.write_table(output.layer_frame(found), out)


def heads(options: ModelOptions, persona: Persona, layer: Layer = None, out: Table = None) -> None:
    """Score the attention heads that write a persona (style heads)."""
    from workbench.cli import jobs, method_jobs, output

    with output.progress_bars():
        scores, chosen, exchanges = method_jobs.persona_heads(persona, options.settings(), layer)
    typer.echo(f"{len(exchanges.positive)} of {exchanges.n_asked} questions kept")
    output.print_heads(scores.frame(), chosen)
    jobs.write_table(scores.frame(), out)
