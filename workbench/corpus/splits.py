"""The one draw of splits, and the one draw of some of many; both depend on nothing but the seed and what is drawn."""

import hashlib
import json
from collections.abc import Iterable, Sequence

from workbench.records import SPLITS, Split

IDENTIFY_SHARE, TUNE_SHARE = 0.4, 0.2


def lot(seed: int, *parts: str) -> bytes:
    """A number that is drawn by the seed and some texts alone, whatever stands before or after them."""
    return hashlib.sha256(json.dumps([seed, *parts]).encode()).digest()


def draw_splits(texts: Iterable[str], seed: int, *scope: str) -> dict[str, Split]:
    """Every distinct text with its split, 40/20/40; at least 5 texts fill all three. `scope` may name their domain."""
    ranked = sorted(set(texts), key=lambda text: lot(seed, *scope, text))
    n_identify, n_tune = round(IDENTIFY_SHARE * len(ranked)), round(TUNE_SHARE * len(ranked))
    ends = (n_identify, n_identify + n_tune, len(ranked))
    return {text: SPLITS[sum(index >= end for end in ends)] for index, text in enumerate(ranked)}


def draw_some(n_all: int, n: int | None, seed: int | Sequence[int]) -> list[int]:
    """`n` of `n_all` indices in their own order, all of them where n is None or larger."""
    if n is None or n >= n_all:
        return list(range(n_all))
    import numpy as np  # not needed by a corpus that is read whole

    return sorted(np.random.default_rng(seed).choice(n_all, size=n, replace=False).tolist())
