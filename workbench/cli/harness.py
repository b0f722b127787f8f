"""`workbench lm-eval`: the tasks of the lm-evaluation-harness on a model, steered or not."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.options import (
    MOST,
    AllowOtherWeights,
    Artefact,
    ModelOptions,
    Scope,
    Strength,
    check_table,
    words,
)

if TYPE_CHECKING:
    from workbench.harness import HarnessResult


def lm_eval(
    tasks: Annotated[str, typer.Argument(metavar="TASKS", help="Names of tasks, separated by commas.")],
    options: ModelOptions,
    artefact: Artefact = None,
    allow_other_weights: AllowOtherWeights = False,
    strength: Strength = 1.0,
    scope: Scope = None,
    include: Annotated[
        Path | None, typer.Option("--include", exists=True, file_okay=False, help="Folder with task files of your own.")
    ] = None,
    shots: Annotated[int | None, typer.Option("--shots", min=0, max=MOST, help="Examples in the prompt.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, max=MOST, help="Documents per task.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put prompts into the model's chat format.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the result to this JSON file.", callback=check_table)
    ] = None,
) -> None:
    """Evaluate a steered model on tasks of the lm-evaluation-harness, with proof that every request was steered."""
    import json
    import logging

    from workbench.cli.jobs import read_scope
    from workbench.cli.output import no_other_bars
    from workbench.harness import evaluate_harness, require_harness
    from workbench.interventions import load_steering
    from workbench.models import provenance
    from workbench.records import to_plain, write_whole
    from workbench.study import open_model

    require_harness()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    no_other_bars()
    loaded = open_model(options.settings())
    saved = None if artefact is None else load_steering(artefact, loaded, allow_other_weights=allow_other_weights)
    where = read_scope(scope) if scope is not None else "all_but_first" if saved is None else saved.scope
    result = evaluate_harness(
        loaded,
        words(tasks),
        None if saved is None else saved.steering,
        strength,
        where,
        include=include,
        n_shots=shots,
        limit=limit,
        seed=options.seed,
        chat=chat,
        allow_download=options.download,
    )
    _print(result)
    if out is not None:
        facts = {"model": {"name": loaded.name, "fingerprint": loaded.fingerprint, **provenance(loaded)}}
        facts |= {"artefact": saved.header} if saved is not None else {}
        write_whole(out, json.dumps({**to_plain(result), **to_plain(facts)}, indent=2) + "\n")
        typer.echo(f"result: {out}")


def _print(result: "HarnessResult") -> None:
    """Every metric with its standard error, and how many requests were steered."""
    for task, metrics in result.metrics.items():
        for metric, value in metrics.items():
            error = result.errors[task].get(metric)
            spread = "" if error is None or error != error else f" (standard error {error:.4f})"
            typer.echo(f"{task} {metric.removesuffix(',none')}: {value:.4f}{spread}")
    if not result.edited:
        typer.echo(f"unsteered; {result.n_requests} requests")
    else:
        counts = ", ".join(f"{site}: {n} tokens in {result.passes[site]} passes" for site, n in result.edited.items())
        typer.echo(f"steered: {result.n_steered} of {result.n_requests} requests; edited {counts}")
