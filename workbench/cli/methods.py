"""`workbench steer`, `fit`, `methods`, `layers` and `heads`: every steering method from the command line."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.options import (
    Artefact,
    Domain,
    K,
    Layer,
    ModelOptions,
    Scope,
    SelectionName,
    Strength,
    Table,
    TextOptions,
    UnitCount,
    check_table,
)

PERSONA = "pirate, robot, poet or child; or JSON lines of {prompt, positive, negative}."
Persona = Annotated[str, typer.Option("--persona", help=PERSONA)]
METHOD_HELP = (
    "cds, whole-dimension, austeer, actadd, ablation, addition, iti, sadi (on --pairs or --domain; cds on --domain), "
    "style-heads (on --persona), activation-scaling, steer-vec, dyn-scalar (on --items)."
)
SavedTo = typer.Option("--out", help="Save the fitted steering to this file.", callback=check_table)


def steer(
    options: TextOptions,
    prompt: Annotated[str, typer.Argument(help="Text to continue.")],
    domain: Domain = None,
    artefact: Artefact = None,
    method: Annotated[str, typer.Option("--method", help="cds (DCDs only) or whole-dimension.")] = "cds",
    layer: Layer = None,
    k: K = 8,
    selection: SelectionName = "magnitude",
    strength: Strength = 1.0,
    scope: Scope = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Length of the continuation.")] = 60,
    temperature: Annotated[float, typer.Option("--temperature", min=0, help="0 takes the likeliest token.")] = 0.0,
    out: Annotated[Path | None, SavedTo] = None,
) -> None:
    """Continue a text without and with steering."""
    if (domain is None) == (artefact is None):
        raise ValueError("say what to steer with: either --domain NAME or --artefact FILE")
    if artefact is not None and out is not None:
        raise ValueError("--out keeps a fitted steering, --artefact uses a saved one; give one of them")
    from workbench.cli import jobs, output

    job = jobs.SteerOptions(
        domain, method, strength, selection, layer, artefact, out, max_new_tokens, temperature, scope
    )
    with output.progress_bars() as (stage, _):
        plain, steered, steering = jobs.continuations(prompt, job, options.settings(k=k), stage)
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
    site: Annotated[str | None, typer.Option("--site", help="z, mlp_raw or resid_post, for austeer and sadi.")] = None,
    selection: SelectionName = "magnitude",
    scope: Scope = None,
) -> None:
    """Fit a steering method and save it as an artefact, for steer --artefact."""
    from workbench.cli import method_jobs, output

    job = method_jobs.FitOptions(method, out, pairs, domain, items, persona, layer, k, site, selection, scope)
    settings = options.settings(k=k if method == "cds" and k is not None else 8)
    with output.progress_bars() as (stage, _):
        fitted = method_jobs.fit(job, settings, stage)
    sites = ", ".join(str(site) for site in fitted.steering.sites)
    typer.echo(f"{type(fitted.steering).__name__} at {sites}")
    typer.echo("\n".join(fitted.notes))
    typer.echo(f'saved: {out}\ntry: workbench steer --artefact {out} "..."')


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
