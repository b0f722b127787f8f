"""`workbench fit`, `layers` and `heads`: every steering method from the command line."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from workbench.study import Settings

ModelName = Annotated[str, typer.Option("--model", help="'builtin', a model folder, or a Hugging Face id.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Same seed, same result.")]
Persona = Annotated[
    str, typer.Option("--persona", help="pirate, robot, poet or child; or JSON lines of {prompt, positive, negative}.")
]
Table = Annotated[Path | None, typer.Option("--out", help="Write the whole table to this CSV file.")]
Download = Annotated[bool, typer.Option("--download", help="Allow downloads from the Hugging Face hub.")]


def fit(
    method: Annotated[str, typer.Option("--method", help="Name of a method; `workbench methods` lists them.")],
    out: Annotated[Path, typer.Option("--out", help="Artefact to write; use it with steer --artefact.")],
    pairs: Annotated[
        Path | None, typer.Option("--pairs", help="JSON lines of {positive, negative}: two texts each.")
    ] = None,
    domain: Annotated[str | None, typer.Option("--domain", help="This domain against all others.")] = None,
    items: Annotated[
        str | None, typer.Option("--items", help="ccc, ioi, or JSON lines of {prompt, correct, wrong}.")
    ] = None,
    persona: Annotated[
        str | None,
        typer.Option("--persona", help="A built-in persona, or JSON lines of {prompt, positive, negative}."),
    ] = None,
    layer: Annotated[int | None, typer.Option("--layer", help="0-based; chosen by the method by default.")] = None,
    k: Annotated[int | None, typer.Option("--k", help="Units, heads or dimensions; the method's by default.")] = None,
    scope: Annotated[str | None, typer.Option("--scope", help="Tokens to edit; the paper's by default.")] = None,
    model: ModelName = "builtin",
    corpus: Annotated[str, typer.Option("--corpus", help="'builtin', a folder, a .jsonl file, or hf:...")] = "builtin",
    domains: Annotated[str | None, typer.Option("--domains", help="Domains of the corpus, or its path.")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut texts longer than the context.")] = False,
    download: Download = False,
) -> None:
    """Fit a steering method and save it as an artefact."""
    from workbench.cli import jobs, method_jobs, output
    from workbench.interventions import Setting
    from workbench.study import Settings

    source = method_jobs.FitSource(pairs, domain, items, persona)
    options = method_jobs.FitOptions(method, out, source, Setting(layer, k), scope)
    path, names = jobs.source_and_domains(corpus, domains)
    settings = Settings(
        model, path, names, seed=seed, device=device, dtype=dtype, truncate=truncate, allow_download=download
    )
    with output.progress_bars():
        fitted = method_jobs.fit(options, settings)
    typer.echo(repr(fitted.steering))
    typer.echo(f'fitted on {fitted.note}\nsaved: {out}\ntry: workbench steer --artefact {out} "..."')


def methods() -> None:
    """List the steering methods: what each is fitted on, its default count, the tokens that it edits."""
    from workbench.cli.method_jobs import OPTIONS
    from workbench.interventions import METHODS

    for card in METHODS.values():
        names = ", ".join((card.name, *card.aliases))
        options = " or ".join(f"--{name}" for name in OPTIONS[card.needs])
        typer.echo(f"{names}: {card.summary} ({options}; scope {card.scope})")


def layers(
    persona: Persona,
    model: ModelName = "builtin",
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    out: Table = None,
    download: Download = False,
) -> None:
    """Map where along the layers a persona is formed (style heads)."""
    from workbench.cli import jobs, method_jobs, output

    if out is not None:
        jobs.check_file(out)
    with output.progress_bars():
        found, exchanges = method_jobs.persona_layers(persona, _settings(model, seed, device, dtype, download))
    typer.echo(f"{len(exchanges.positive)} of {exchanges.n_asked} questions kept")
    output.print_layers(found)
    if out is not None:
        jobs.write_table(output.layer_frame(found), out)
        typer.echo(f"table of cosines: {out}")


def heads(
    persona: Persona,
    layer: Annotated[int | None, typer.Option("--layer", help="0-based; where the persona forms by default.")] = None,
    model: ModelName = "builtin",
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    out: Table = None,
    download: Download = False,
) -> None:
    """Score the attention heads that write a persona (style heads)."""
    from workbench.cli import jobs, method_jobs, output

    if out is not None:
        jobs.check_file(out)
    with output.progress_bars():
        settings = _settings(model, seed, device, dtype, download)
        scores, chosen, exchanges = method_jobs.persona_heads(persona, settings, layer)
    typer.echo(f"{len(exchanges.positive)} of {exchanges.n_asked} questions kept")
    output.print_heads(scores.frame(), chosen)
    if out is not None:
        jobs.write_table(scores.frame(), out)
        typer.echo(f"table of all layers: {out}")


def _settings(model: str, seed: int, device: str, dtype: str, download: bool) -> "Settings":
    from workbench.study import Settings

    return Settings(model=model, seed=seed, device=device, dtype=dtype, allow_download=download)
