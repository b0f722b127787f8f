"""The most extreme tokens of every dimension, kept in one pass: only values above a rising bar are looked at again."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from workbench.records import ENDS, Activations, TopTokens


class Entries(NamedTuple):
    """Flat list of candidate tokens. A column is one (end, layer, dimension); low ends carry their values negated."""

    column: np.ndarray
    value: np.ndarray
    prompt: np.ndarray
    position: np.ndarray
    token: np.ndarray

    @classmethod
    def join(cls, parts: "Sequence[Entries]") -> "Entries":
        return cls(*(np.concatenate(field) for field in zip(*parts, strict=True)))

    def best(self, n_top: int) -> tuple["Entries", np.ndarray]:
        """The `n_top` largest values of every column, sorted, and their rank; ties go to the lowest address."""
        order = np.lexsort((self.position, self.prompt, -self.value, self.column))
        column = self.column[order]
        rank = np.arange(len(column)) - np.searchsorted(column, column)
        kept = order[rank < n_top]
        return Entries(*(field[kept] for field in self)), rank[rank < n_top]


class Extremes:
    """The top tokens of one domain at both ends of every dimension and layer.

    Candidates are gathered and sorted out only when about as many have come as the list holds: the bar that a value
    must pass rises quickly, so that later batches bring few.
    """

    def __init__(self, n_layers: int, d_model: int, n_top: int) -> None:
        self.shape = (n_layers, d_model)
        self.n_top = n_top
        self.n_seen = 0
        self.bar = np.full((len(ENDS), n_layers, 1, d_model), -np.inf, dtype=np.float32)
        self.parts = [Entries(*(np.zeros(0, dtype=kind) for kind in (np.int32, np.float32, *[np.int32] * 3)))]
        self.n_pending = 0

    def offer(self, activations: Activations) -> None:
        """Take the tokens of a batch after the first position that may enter the list."""
        values = activations.values.float()
        later = activations.positions > 0
        if self.n_seen < self.n_top:
            high, low = _own_bar(values[:, later], self.n_top)
        else:
            high, low = torch.from_numpy(self.bar).to(values.device)
        chosen = (values >= high).logical_or_(values <= -low)
        chosen[:, ~later] = False
        layer, row, dimension = chosen.nonzero(as_tuple=True)
        value = values[layer, row, dimension]
        column = layer * self.shape[1] + dimension
        is_high, is_low = value >= high.squeeze(1)[layer, dimension], value <= -low.squeeze(1)[layer, dimension]
        address = (activations.prompt_index[row], activations.positions[row], activations.token_ids[row])
        for end, kept in enumerate((is_high, is_low)):
            signed = value[kept] if end == 0 else -value[kept]
            ints = [item[kept].int().cpu().numpy() for item in (column + end * self.bar[0].size, *address)]
            self.parts.append(Entries(ints[0], signed.cpu().numpy(), *ints[1:]))
            self.n_pending += len(signed)
        filling = self.n_seen < self.n_top
        self.n_seen += int(later.sum())
        if filling or self.n_pending > self.n_top * self.bar[0].size:
            self.compact()

    def compact(self) -> np.ndarray:
        """Keep the best of what was gathered and raise the bar; returns the ranks of what is kept."""
        entries, rank = Entries.join(self.parts).best(self.n_top)
        self.parts, self.n_pending = [entries], 0
        if self.n_seen >= self.n_top:
            self.bar = entries.value[rank == self.n_top - 1].reshape(self.bar.shape)
        return rank

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The fields of `TopTokens` for this domain."""
        rank = self.compact()
        return _fill(self.parts[0], rank, (len(ENDS), *self.shape), self.n_top)


def _own_bar(
    values: Float32[Tensor, "layer token d_model"], n_top: int
) -> tuple[Float32[Tensor, "layer 1 d_model"], Float32[Tensor, "layer 1 d_model"]]:
    """The smallest value that is among the `n_top` of its own batch, at the high and (negated) at the low end."""
    if values.shape[1] < n_top:
        nothing = torch.full_like(values[:, :1], -torch.inf)
        return nothing, nothing
    high = values.topk(n_top, dim=1).values[:, -1:]
    return high, -values.topk(n_top, dim=1, largest=False).values[:, -1:]


def _fill(
    entries: Entries, rank: np.ndarray, shape: tuple[int, ...], n_top: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Value, prompt, position and token as arrays [..., layer, end, rank, d_model] from columns of `shape`.

    `shape` ends in (end, layer, d_model). Empty ranks hold NaN and -1.
    """
    n_columns = int(np.prod(shape))
    arrays = []
    for name, empty in (("value", np.nan), ("prompt", -1), ("position", -1), ("token", -1)):
        array = np.full((n_columns, n_top), empty, dtype=getattr(entries, name).dtype)
        array[entries.column, rank] = getattr(entries, name)
        arrays.append(np.moveaxis(array.reshape(*shape, n_top), (-4, -1), (-3, -2)))
    arrays[0] = arrays[0] * np.array([1, -1], dtype=np.float32)[:, None, None]
    return tuple(np.ascontiguousarray(array) for array in arrays)  # pyright: ignore[reportReturnType]


def merge_top(a: TopTokens, b: TopTokens) -> TopTokens:
    """The top tokens of two disjoint sets of prompts."""
    n_domains, n_layers, n_ends, n_top, d_model = a.value.shape
    shape = (n_domains, n_ends, n_layers, d_model)
    entries, rank = Entries.join([_flatten(a, shape), _flatten(b, shape)]).best(n_top)
    return TopTokens(*_fill(entries, rank, shape, n_top))


def _flatten(top: TopTokens, shape: tuple[int, ...]) -> Entries:
    """The filled ranks of a table as a flat list, with the domain as the outermost part of the column."""
    column = np.broadcast_to(np.arange(np.prod(shape)).reshape(shape)[..., None, :], np.moveaxis(top.value, 2, 1).shape)
    signed = top.value * np.array([1, -1], dtype=np.float32)[:, None, None]
    fields = [np.moveaxis(field, 2, 1) for field in (signed, top.prompt, top.position, top.token)]
    filled = fields[1] >= 0
    return Entries(column[filled], *(field[filled] for field in fields))
