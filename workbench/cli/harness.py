"""`workbench lm-eval`: the tasks of the lm-evaluation-harness on a model, steered or not."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from workbench.harness import HarnessResult


def lm_eval(
    tasks: Annotated[str, typer.Argument(metavar="TASKS", help="Names of tasks, separated by commas.")],
    model: Annotated[str, typer.Option("--model", help="'builtin', a model folder, or a Hugging Face id.")] = "builtin",
    artefact: Annotated[
        Path | None, typer.Option("--artefact", help="A saved steering; without one: unsteered.")
    ] = None,
    strength: Annotated[float, typer.Option("--strength", help="Times the steering's own edit.")] = 1.0,
    scope: Annotated[
        str | None, typer.Option("--scope", help="Which tokens are edited; by default what the file says.")
    ] = None,
    include: Annotated[Path | None, typer.Option("--include", help="Folder with task files of your own.")] = None,
    shots: Annotated[int | None, typer.Option("--shots", help="Examples in the prompt.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Documents per task.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put prompts into the model's chat format.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Draws the examples.")] = 0,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 or mps.")] = "cpu",
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = "float32",
    download: Annotated[bool, typer.Option("--download", help="Allow downloads from the Hugging Face hub.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write the result to this JSON file.")] = None,
) -> None:
    """Evaluate a steered model on tasks of the lm-evaluation-harness, with proof that every request was steered."""
    import json
    import logging

    from workbench.cli.jobs import read_scope
    from workbench.cli.output import no_other_bars
    from workbench.harness import HarnessError, evaluate_harness, require_harness
    from workbench.interventions import Scope, load_steering
    from workbench.models import load_model
    from workbench.records import to_plain

    require_harness()
    if out is not None and not out.parent.is_dir():
        raise HarnessError(f"folder {out.parent} does not exist; make it, or choose another --out")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    no_other_bars()
    loaded = load_model(model, device=device, dtype=dtype, allow_download=download)
    saved = None if artefact is None else load_steering(artefact, loaded)
    where = read_scope(scope) if scope is not None else Scope() if saved is None else saved.scope
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    result = evaluate_harness(
        loaded,
        names,
        None if saved is None else saved.steering,
        strength,
        where,
        include=include,
        n_shots=shots,
        limit=limit,
        seed=seed,
        chat=chat,
        allow_download=download,
    )
    _print(result)
    if out is not None:
        out.write_text(json.dumps(to_plain(result), indent=2) + "\n", encoding="utf-8")
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
