"""What the commands do, apart from reading options: composed from the library, with its heavy imports at the top."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import typer

from workbench.cli.options import read_where
from workbench.environment import Check
from workbench.interventions import Scope
from workbench.models import HookedModel, ModelError, load_model
from workbench.records import Dimension, DimensionStatistics, Prompt, Selection
from workbench.records.tables import write_csv
from workbench.study import Settings, StageProgress, load_passages, open_model, select, survey


@dataclass(frozen=True)
class Found:
    """What `workbench find` computes and `workbench label` goes on from."""

    model: HookedModel
    prompts: list[Prompt]
    statistics: DimensionStatistics
    dcds: list[Dimension]


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


def builtin_model_check() -> Check:
    """Whether the built-in model loads, and which of its sites the load-time self-check refused."""
    try:
        model = load_model()
    except ModelError as error:
        return Check("built-in model", False, str(error))
    refused = [kind for kind, found in model.checks.items() if found != "ok"]
    detail = f"{model.n_layers} layers of {model.d_model} dimensions, hooks checked"
    return Check("built-in model", True, detail + (f", not usable: {', '.join(refused)}" if refused else ""))
