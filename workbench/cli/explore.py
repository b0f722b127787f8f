"""`workbench card`: one dimension card as one HTML file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer


def card(
    dimension: Annotated[int, typer.Option("--dimension", help="Residual dimension, counted from 0.")],
    domain: Annotated[str, typer.Option("--domain", help="Domain from which it is seen.")],
    layer: Annotated[int | None, typer.Option("--layer", help="0-based; the best-labelled one by default.")] = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="Take it from this run, with its model and text, instead of anew.")
    ] = None,
    model: Annotated[str, typer.Option("--model", help="'builtin', a model folder, or a Hugging Face id.")] = "builtin",
    corpus: Annotated[
        str, typer.Option("--corpus", help="'builtin', a folder of text, a .jsonl file, or hf:owner/dataset.")
    ] = "builtin",
    domains: Annotated[
        str | None, typer.Option("--domains", help="Domains of the corpus, separated by commas; or its path.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Same seed, same card.")] = 0,
    passages: Annotated[int, typer.Option("--passages", help="Passages per domain.")] = 60,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 or mps.")] = "cpu",
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = "float32",
    download: Annotated[bool, typer.Option("--download", help="Allow downloads from the Hugging Face hub.")] = False,
    out: Annotated[Path, typer.Option("--out", help="HTML file to write.")] = Path("card.html"),
) -> None:
    """Write everything known of one dimension as one HTML file that opens offline."""
    from workbench.cli.jobs import check_file, source_and_domains
    from workbench.cli.output import progress_bars
    from workbench.explorer import Material, card_page, dimension_card, from_model, from_run
    from workbench.records import write_whole

    check_file(out)
    with progress_bars() as (stage, _):
        material: Material
        if run is not None:
            material = from_run(run)
        else:
            from workbench.corpus import load_corpus
            from workbench.models import load_model

            source, names = source_and_domains(corpus, domains)
            loaded = load_model(model, device=device, dtype=dtype, allow_download=download)
            prompts = load_corpus(
                source,
                domains=names,
                seed=seed,
                limit=passages,
                max_characters=min(1500, loaded.context_length - 1),
                allow_download=download,
            )
            _check(dimension, loaded.d_model, domain, sorted({prompt.domain for prompt in prompts}))
            chosen = [dimension]
            material = from_model(
                loaded, prompts, dimensions=chosen, seed=seed, progress=lambda done, total: stage("card", done, total)
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
