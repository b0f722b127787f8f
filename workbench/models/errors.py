"""The one kind of error that this room raises for mistakes of its user, and the check of values that raises it."""

from collections.abc import Sequence

import torch
from torch import Tensor


class ModelError(ValueError):
    """A model cannot be loaded or used as asked; the message says what to do."""


def is_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite, without a copy of them."""
    low, high = values.detach().aminmax()
    return bool(torch.isfinite(low) & torch.isfinite(high))


def refuse_non_finite(name: str, dtype: torch.dtype, hidden: Sequence[Tensor]) -> None:
    """Raise `ModelError` with the first block whose output is not finite; `hidden` starts at the embedding."""
    first = next((index for index, values in enumerate(hidden) if not is_finite(values)), None)
    where = "in the logits" if first is None else "from the embedding on" if not first else f"from layer {first - 1} on"
    advice = "load it with --dtype bfloat16 or float32" if dtype == torch.float16 else "check weights and edits"
    kind = str(dtype).removeprefix("torch.")
    raise ModelError(f"{name}: values are NaN or infinite in {kind} {where}; {advice}")
