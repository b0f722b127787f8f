"""What the command line prints: progress and estimates on stderr, tables on stdout."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from shutil import get_terminal_size

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from transformers.utils import logging

from workbench.cli.terminal import drawn_on, plain
from workbench.costs import Estimate
from workbench.figures.comparison import UNSTEERED, budget_name, is_measured
from workbench.interventions import LayerMap
from workbench.records import Contrast, Detector, Dimension, Selection
from workbench.token_classes import visible

N_DETECTORS = 5  # shown per domain; the tables of a run hold all
N_TOKENS = 6
PLAIN_WIDTH = get_terminal_size((100, 24)).columns  # where the output is no terminal; COLUMNS sets it


@contextmanager
def progress_bars() -> Iterator[tuple[Callable[[str, int, int], None], Console]]:
    """One bar per stage on stderr, and the console to print beside them; nothing before the first stage."""
    no_other_bars()
    console = Console(file=drawn_on(sys.stderr))
    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=console)
    tasks: dict[str, TaskID] = {}

    def stage(name: str, done: int, total: int) -> None:
        progress.start()
        if name not in tasks:
            tasks[name] = progress.add_task(plain(name), total=total)
        progress.update(tasks[name], completed=done, total=total)

    try:
        yield stage, console
    finally:
        if tasks:
            progress.stop()


def no_other_bars() -> None:
    """Keep transformers from drawing a bar of its own when it loads weights."""
    logging.disable_progress_bar()


def estimate_line(estimate: Estimate) -> str:
    """Time and memory in one line, before the long part begins."""
    minutes, seconds = divmod(round(estimate.seconds), 60)
    duration = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    return f"estimate: about {duration}, {estimate.memory_bytes / 2**30:.1f} GiB of memory; Ctrl-C leaves nothing"


def print_dcds(dcds: Sequence[Dimension], selection: Selection) -> None:
    """The DCDs of one selection with their evidence, and whether each is large everywhere or in this domain."""
    rows = [
        (
            dcd.domain,
            str(dcd.dimension),
            f"{dcd.magnitude:.3g}",
            f"{dcd.magnitude_elsewhere:.3g}",
            f"{dcd.frequency:.2f}",
            f"{dcd.frequency_elsewhere:.2f}",
            dcd.reach,
        )
        for dcd in dcds
    ]
    columns = ("domain", "dimension", "magnitude", "elsewhere", "frequency", "elsewhere", "large in")
    _print_table(f"Domain-critical dimensions by {selection}", columns, rows)


def print_overview(dcds: Sequence[Dimension]) -> None:
    """One row per domain: its DCDs by magnitude, and those that discriminate it with their frequencies."""
    rows = []
    for domain in dict.fromkeys(dcd.domain for dcd in dcds):
        own = [dcd for dcd in dcds if dcd.domain == domain]
        largest = [
            f"{dcd.dimension}{'' if dcd.reach == 'every domain' else '*'}"
            for dcd in own
            if dcd.selection == "magnitude"
        ]
        telling = [
            f"{dcd.dimension} ({dcd.frequency:.2f} / {dcd.frequency_elsewhere:.2f})"
            for dcd in own
            if dcd.selection == "discrimination"
        ]
        rows.append((domain, " ".join(largest), ", ".join(telling) or "none"))
    columns = ("domain", "by magnitude (* not large in every domain)", "by discrimination (frequency here / elsewhere)")
    _print_table("Domain-critical dimensions", columns, rows)


def print_detectors(detectors: Sequence[Detector]) -> None:
    """The labelled detectors, the best of each domain first; a dimension stands once, at its best layer."""
    labelled = [detector for detector in detectors if detector.label != "unlabelled"]
    best: dict[tuple[str, int], Detector] = {}
    for detector in sorted(labelled, key=lambda one: -one.auroc):
        best.setdefault((detector.domain, detector.dimension), detector)
    rows = [
        (
            detector.domain,
            str(detector.layer),
            f"{detector.dimension} {detector.end}",
            detector.label,
            f"{detector.auroc:.2f} [{detector.low:.2f}, {detector.high:.2f}]",
            _counted([visible(context.token) for context in detector.top_tokens]),
        )
        for domain in dict.fromkeys(detector.domain for detector in labelled)
        for detector in [one for (where, _), one in best.items() if where == domain][:N_DETECTORS]
    ]
    columns = ("domain", "layer", "dimension", "label", "AUROC on held-out text", "top tokens")
    _print_table(f"Detectors: {len(labelled)} of {len(detectors)} labelled, the best of each domain", columns, rows)


def _counted(tokens: Sequence[str]) -> str:
    """The distinct tokens in order of their first place, each with how often it is there: `.×6  !`."""
    counts = Counter(tokens)
    return "  ".join(f"{token}×{n}" if n > 1 else token for token, n in list(counts.items())[:N_TOKENS])


def print_effects(contrasts: Sequence[Contrast]) -> None:
    """For every arm and budget: on how many tasks it is better, worse, or shows no difference to unsteered."""
    groups: dict[tuple[str, str, str], list[Contrast]] = {}
    for one in contrasts:
        if one.against == UNSTEERED and one.is_primary:
            budget = "" if one.budget == "none" else budget_name(one.budget, one.level)
            groups.setdefault((one.metric, one.arm, budget), []).append(one)
    rows = []
    for head, own in groups.items():
        effects = [one.effect for one in own if is_measured(one)]
        mean = f"{sum(effects) / len(effects):+.3f}" if effects else ""
        words = ("better", "no difference shown", "worse", "not measured")
        rows.append((*head, mean, *(str(sum(one.verdict == word for one in own)) for word in words)))
    columns = ("metric", "method", "budget", "mean effect", "better", "not detected", "worse", "not measured")
    _print_table("Steered against unsteered on held-out text: number of tasks", columns, rows)


def layer_frame(found: LayerMap) -> pd.DataFrame:
    """The cosine similarity of every stage of the stream with every other, one row per pair."""
    stages = [f"{kind}.{layer}" for layer in range(len(found.formation)) for kind in ("resid_pre", "resid_mid")]
    rows, columns = np.indices(found.similarity.shape)
    return pd.DataFrame(
        {
            "stage": [stages[index] for index in rows.ravel()],
            "other": [stages[index] for index in columns.ravel()],
            "cosine": found.similarity.ravel(),
        }
    )


def print_layers(found: LayerMap) -> None:
    """Where the persona is formed: similarity before and after the attention of every layer, and the curve."""
    rows = []
    for layer, formation in enumerate(found.formation):
        before, after = found.similarity[2 * layer, 2 * layer + 1], found.similarity[2 * layer + 1, 2 * layer + 2 :]
        later = f"{after.mean():.3f}" if len(after) else ""
        curve = "" if np.isnan(formation) else f"{formation:+.3f}"
        rows.append((str(layer), f"{before:.3f}", later, curve, "formed here" if layer == found.layer else ""))
    columns = ("layer", "cosine before / after attention", "mean cosine with what follows", "formation", "")
    _print_table("Where the persona direction is formed", columns, rows)


def print_heads(frame: pd.DataFrame, layer: int) -> None:
    """Heads of one layer by their share of the change of its attention output."""
    own = frame.query(f"layer == {layer}").sort_values("share", ascending=False)
    rows = []
    for row in own.to_dict("records"):
        share = f"{row['share']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
        rows.append((str(row["head"]), share, f"{row['norm']:.3g}", str(row["role"])))
    columns = ("head", "share of |Delta o|^2, 95 % interval", "norm", "role")
    _print_table(f"Heads of layer {layer}", columns, rows)


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=Text(plain(title)), title_justify="left")
    for column in columns:
        table.add_column(Text(plain(column)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    console = Console(file=drawn_on(sys.stdout))
    (console if console.is_terminal else Console(width=PLAIN_WIDTH)).print(table)
