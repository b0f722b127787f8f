"""Pooled rows of the same passages under another condition, to see whether the same dimensions are selected."""

from collections.abc import Sequence
from dataclasses import replace

from workbench.activations import Progress, collect
from workbench.models import HookedModel
from workbench.records import PooledRows, Prompt, Split


def shortened_rows(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    share: float = 0.5,
    split: Split = "identify",
    batch_size: int = 32,
    truncate: bool = False,
    progress: Progress | None = None,
) -> PooledRows:
    """Rows of the passages of one split cut to a share of their characters, under their own names.

    Only magnitudes are kept (pooling `mean_abs`). For another number type load the model anew and collect the same
    passages. Raises for a share outside 0 to 1 and where nothing is in the split.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; choose a fraction between 0 and 1, such as 0.5")
    chosen = [prompt for prompt in prompts if prompt.split == split]
    if not chosen:
        raise ValueError(f"there are no passages in split {split!r}; choose another split")
    cut = [replace(prompt, text=_beginning(prompt.text, share)) for prompt in chosen]
    return collect(
        model, cut, n_top=1, poolings=("mean_abs",), batch_size=batch_size, truncate=truncate, progress=progress
    )[1]


def _beginning(text: str, share: float) -> str:
    """The first part of a text, up to the end of a word; never blank."""
    text = text.lstrip()
    length = max(8, round(share * len(text)))
    end = text.find(" ", length)
    return text if end < 0 else text[:end]
