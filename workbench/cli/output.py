"""What the command line prints: progress and estimates on stderr, tables on stdout."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from workbench.estimate import Estimate
from workbench.records import Comparison, Detector, Dimension

N_DETECTORS = 5  # shown per domain; the tables of a run hold all
N_TOKENS = 6
PLAIN_WIDTH = 140  # where the output is no terminal


@contextmanager
def progress_bars() -> Iterator[tuple[Callable[[str, int, int], None], Console]]:
    """One bar per stage on stderr, and the console to print beside them."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}

        def stage(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
            progress.update(tasks[name], completed=done, total=total)

        yield stage, console


def estimate_line(estimate: Estimate) -> str:
    """Time and memory in one line, before the long part begins."""
    minutes, seconds = divmod(round(estimate.seconds), 60)
    duration = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    return f"estimate: about {duration}, {estimate.memory_bytes / 2**30:.1f} GiB of memory; Ctrl-C leaves nothing"


def print_dcds(dcds: Sequence[Dimension]) -> None:
    """The DCDs with their evidence, and whether each is large everywhere or in this domain."""
    rows = [
        (
            dcd.domain,
            dcd.selection,
            str(dcd.dimension),
            f"{dcd.magnitude:.3g}",
            f"{dcd.magnitude_elsewhere:.3g}",
            f"{dcd.frequency:.2f}",
            f"{dcd.frequency_elsewhere:.2f}",
            dcd.reach,
        )
        for dcd in dcds
    ]
    columns = ("domain", "selection", "dimension", "magnitude", "elsewhere", "frequency", "elsewhere", "large in")
    _print_table("Domain-critical dimensions", columns, rows)


def print_detectors(detectors: Sequence[Detector]) -> None:
    """The labelled detectors, the best of each domain first."""
    labelled = [detector for detector in detectors if detector.label != "unlabelled"]
    rows = [
        (
            detector.domain,
            str(detector.layer),
            f"{detector.dimension} {detector.end}",
            detector.label,
            f"{detector.auroc:.2f} [{detector.low:.2f}, {detector.high:.2f}]",
            " ".join(repr(context.token)[1:-1] for context in detector.top_tokens[:N_TOKENS]),
        )
        for domain in dict.fromkeys(detector.domain for detector in labelled)
        for detector in sorted((d for d in labelled if d.domain == domain), key=lambda d: -d.auroc)[:N_DETECTORS]
    ]
    columns = ("domain", "layer", "dimension", "label", "AUROC on held-out text", "top tokens")
    _print_table(f"Detectors: {len(labelled)} of {len(detectors)} labelled, the best of each domain", columns, rows)


def print_comparisons(comparisons: Sequence[Comparison]) -> None:
    """Every steered arm: effect with its interval beside what it cost."""
    rows = [
        (
            item.domain,
            item.metric,
            f"{item.method} ({item.selection})" if item.selection else item.method,
            str(item.layer),
            f"{item.kl:.3f}",
            f"{item.effect:+.3f} [{item.low:+.3f}, {item.high:+.3f}]" if item.reached else "KL level not reached",
            "no difference shown" if item.reached and item.low <= 0 <= item.high else "",
        )
        for item in comparisons
    ]
    columns = ("domain", "metric", "method", "layer", "KL (nats)", "effect, 95 % interval", "")
    _print_table("Steered against unsteered, on held-out text", columns, rows)


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console()
    (console if console.is_terminal else Console(width=PLAIN_WIDTH)).print(table)
