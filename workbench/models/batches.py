"""Cutting work into forward passes: rows of like length together, as many as memory allows. The only place that does.

What limits a pass is its logits where those of every position are made (`LOGITS_BYTES`), and else the positions that
are run (`POSITIONS`). Several variants of every row, such as masks or steerings, share a pass where they fit.
"""

from collections.abc import Callable, Iterator, Sequence

from workbench.models.hooked import HookedModel

LOGITS_BYTES = 128 * 2**20  # float32 logits of one forward pass
POSITIONS = 2**14  # of one forward pass that makes no logits, or those of the last position only
GENERATION_ROWS = 256  # rows of one call of generate
BATCH_SIZE = 32  # passages of one batch whose activations are read at every layer
BACKWARD_FRACTION = 4  # a pass that keeps its graph gets this many times fewer rows

Limit = Callable[[int], int]  # how many rows of so many positions fit one pass


def rows_with_logits(model: HookedModel, *, bytes_per_pass: int | None = None) -> Limit:
    """Rows whose logits at every position fit a pass."""
    return lambda n_positions: (bytes_per_pass or LOGITS_BYTES) // (4 * n_positions * model.vocabulary_size)


def rows_without_logits(n_positions: int) -> int:
    """Rows that fit a pass without logits."""
    return min(GENERATION_ROWS, POSITIONS // n_positions)


def passes(lengths: Sequence[int], limit: Limit | int, n_variants: int = 1) -> Iterator[tuple[list[int], slice]]:
    """The rows of every pass and which of their variants run in it, longest rows first.

    `limit` is at least 1 whatever it says. All variants of a row run together where they fit; rows of equal length keep
    their order.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    while order:
        fitting = max(1, limit if isinstance(limit, int) else limit(lengths[order[0]]))
        n_rows = max(1, fitting // max(1, n_variants))
        rows, order = order[:n_rows], order[n_rows:]
        for variants in cut(n_variants, fitting // len(rows)):
            yield rows, variants


def cut(n: int, size: int) -> Iterator[slice]:
    """0 to n in slices of at most `size`, which counts as 1 where it is less."""
    for start in range(0, n, max(1, size)):
        yield slice(start, min(start + max(1, size), n))
