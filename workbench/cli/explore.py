"""`workbench card`: one dimension card as one HTML file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.options import MOST, Layer, TextOptions, check_table


def card(
    options: TextOptions,
    dimension: Annotated[int, typer.Option("--dimension", min=0, max=MOST, help="Residual dimension, counted from 0.")],
    domain: Annotated[str, typer.Option("--domain", help="Domain from which it is seen.")],
    layer: Layer = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", exists=True, file_okay=False, help="Read this run, with its model and text."),
    ] = None,
    passages: Annotated[int, typer.Option("--passages", min=2, max=MOST, help="Passages per domain.")] = 60,
    out: Annotated[Path, typer.Option("--out", help="HTML file to write.", callback=check_table)] = Path("card.html"),
) -> None:
    """Write everything known of one dimension as one HTML file that opens offline."""
    from workbench.cli.output import progress_bars
    from workbench.explorer import Material, card_page, dimension_card, from_model, from_run
    from workbench.records import write_whole

    with progress_bars() as (stage, _):
        material: Material
        if run is not None:
            material = from_run(run)
        else:
            from workbench.corpus import load_corpus
            from workbench.study import open_model

            source, names = options.source
            loaded = open_model(options.settings())
            prompts = load_corpus(
                source,
                domains=names,
                seed=options.seed,
                limit=passages,
                max_characters=min(options.max_characters, loaded.context_length - 1),
                allow_download=options.download,
            )
            _check(dimension, loaded.d_model, domain, sorted({prompt.domain for prompt in prompts}))
            chosen = [dimension]
            material = from_model(
                loaded,
                prompts,
                dimensions=chosen,
                seed=options.seed,
                progress=lambda done, total: stage("card", done, total),
            )
    made = dimension_card(material, dimension, domain, layer)
    write_whole(out, card_page(made))
    typer.echo(f"dimension {dimension} in {domain}, layer {made.layer}: {out}")


def _check(dimension: int, d_model: int, domain: str, domains: Sequence[str]) -> None:
    """Raise for a dimension or a domain that does not exist, before activations are collected."""
    if not 0 <= dimension < d_model:
        raise ValueError(f"dimension {dimension} is out of range; this model has 0 to {d_model - 1}")
    if domain not in domains:
        raise ValueError(f"unknown domain {domain!r}; choose one of {', '.join(domains)}")
