"""What the commands do, apart from reading options: composed from the library, with its heavy imports at the top."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pandas as pd

from workbench.corpus import BUILTIN_DOMAINS
from workbench.environment import Check
from workbench.interventions import (
    Scope,
    Where,
)
from workbench.models import HookedModel, ModelError, load_model
from workbench.models.loading import SUPPORTED_ARCHITECTURES
from workbench.records import SELECTIONS, Dimension, DimensionStatistics, Prompt, Selection
from workbench.records.tables import write_csv
from workbench.study import Settings, StageProgress, load_passages, open_model, select, survey


@dataclass(frozen=True)
class Found:
    """What `workbench find` computes and `workbench label` goes on from."""

    model: HookedModel
    prompts: list[Prompt]
    statistics: DimensionStatistics
    dcds: list[Dimension]


def source_and_domains(corpus: str, domains: str | None) -> tuple[str, tuple[str, ...] | None]:
    """`--domains` is a list of names, unless it is a path or a dataset: then it is the corpus.

    Built-in names always count as names, even where a folder of that name stands beside them.
    """
    if domains is None:
        return corpus, None
    names = tuple(name.strip() for name in domains.split(",") if name.strip())
    is_path = domains.startswith("hf:") or domains.endswith(".jsonl") or os.sep in domains or Path(domains).exists()
    if not is_path or (names and set(names) <= set(BUILTIN_DOMAINS)):
        return corpus, names
    if corpus != "builtin":
        raise ValueError(f"--corpus {corpus} and --domains {domains} both name a corpus; give --domains names")
    return domains, None


def read_selection(name: str) -> Selection:
    """The selection of that name; raises if there is none."""
    for selection in SELECTIONS:
        if selection == name:
            return selection
    raise ValueError(f"unknown selection {name!r}; choose one of {', '.join(SELECTIONS)}")


def read_scope(text: str) -> Scope:
    """A named scope, or absolute positions separated by commas."""
    for where in get_args(Where):
        if where == text:
            return Scope(where)
    positions = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in positions):
        raise ValueError(
            f"unknown scope {text!r}; choose one of {', '.join(get_args(Where))}, or positions such as 3,4"
        )
    return Scope(tuple(int(part) for part in positions))


def check_file(path: Path) -> None:
    """Raise unless a file can be written at `path`; before long work, so that the work is not lost."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"cannot write {path}; name a file in a folder that can be written")


def find(settings: Settings, selection: Selection, progress: StageProgress) -> Found:
    """Load, collect statistics, select."""
    load_passages(settings)
    model = open_model(settings)
    prompts = load_passages(settings, model)
    statistics, rows = survey(model, prompts, settings, progress)
    dcds = [dcd for group in select(rows, settings.k, [selection]).values() for dcd in group]
    return Found(model, prompts, statistics, dcds)


def write_table(table: pd.DataFrame, out: Path) -> None:
    """Write a table as CSV, completely or not at all."""
    write_csv(table, out)


def causal_architectures() -> list[str]:
    """The architectures that TransformerLens supports and that are language models without an encoder."""
    return sorted(name for name in SUPPORTED_ARCHITECTURES if name.endswith(("ForCausalLM", "LMHeadModel")))


def builtin_model_check() -> Check:
    """Whether the built-in model loads, and which of its sites the load-time self-check refused."""
    try:
        model = load_model()
    except ModelError as error:
        return Check("built-in model", False, str(error))
    refused = [kind for kind, found in model.checks.items() if found != "ok"]
    detail = f"{model.n_layers} layers of {model.d_model} dimensions, hooks checked"
    return Check("built-in model", True, detail + (f", not usable: {', '.join(refused)}" if refused else ""))
