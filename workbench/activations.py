"""Running a model over a corpus: streams of activations, statistics, pooled rows and single columns in one pass.

Working memory is one batch, whatever the size of the corpus; pooled rows go to a memory-mapped file if a path is given.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.dimensions.masking import is_delimiter
from workbench.dimensions.statistics import POOLINGS, StatisticsFold, reduce_prompts
from workbench.models import Call, HookedModel
from workbench.models.batches import BATCH_SIZE, passes
from workbench.records import (
    SPLITS,
    Activations,
    DimensionStatistics,
    PooledRows,
    Prompt,
    Site,
    Split,
    TokenColumns,
    Tokens,
)

Progress = Callable[[int, int], None]  # (prompts done, prompts in all)


def capture(model: HookedModel, tokens: Tokens, sites: Sequence[Site]) -> Float[Tensor, "site batch pos width"]:
    """Activations of one batch at the given sites, padding included, as a copy in the model's dtype.

    All sites must have the same width (z is n_heads * d_head wide, everything else d_model).
    """
    widths = {model.width(site) for site in sites}
    if len(widths) != 1:
        raise ValueError(f"sites of different width cannot be captured together: {', '.join(map(str, sites))}")
    index = {site: number for number, site in enumerate(sites)}
    values = torch.empty((len(sites), *tokens.ids.shape, widths.pop()), dtype=model.dtype, device=model.device)

    def copy(activation: Tensor, site: Site, call: Call) -> None:
        values[index[site]].copy_(activation)

    with model.hooked(dict.fromkeys(sites, copy)):
        model.run(tokens)
    return values


def batches(
    model: HookedModel, prompts: Sequence[Prompt], *, batch_size: int = BATCH_SIZE, truncate: bool = False
) -> Iterator[tuple[list[int], Tokens]]:
    """Right-padded batches of one domain and split each, longest first, with the indices of their prompts.

    Control tokens that a document quotes are read as plain text, and warned of with their number.
    """
    quoted = sum(model.text.count_control_tokens(prompt.text) for prompt in prompts)
    if quoted:
        warnings.warn(f"{quoted} control tokens quoted in the documents are read as plain text", stacklevel=2)
    groups: dict[tuple[str, Split], list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault((prompt.domain, prompt.split), []).append(index)
    for indices in groups.values():
        for rows, _ in passes([len(prompts[index].text) for index in indices], batch_size):
            chosen = [indices[row] for row in rows]
            yield chosen, model.tokenize([prompts[index].text for index in chosen], truncate=truncate, literal=True)


def stream(
    model: HookedModel,
    prompts: Sequence[Prompt],
    sites: Sequence[Site],
    *,
    batch_size: int = BATCH_SIZE,
    truncate: bool = False,
    progress: Progress | None = None,
) -> Iterator[Activations]:
    """Activations of real tokens, batch by batch; every batch is of one domain and split, and holds whole prompts.

    Tokens of a prompt stand together in reading order. Prompts longer than the context raise unless `truncate`.
    """
    _check_prompts(prompts)
    done = 0
    for chosen, tokens in batches(model, prompts, batch_size=batch_size, truncate=truncate):
        values = capture(model, tokens, sites)
        rows = torch.tensor(chosen, device=tokens.ids.device)[:, None].expand_as(tokens.ids)
        if bool(tokens.mask.all()):
            flat = values.flatten(1, 2)
            ids, rows, positions = tokens.ids.flatten(), rows.flatten(), tokens.positions.flatten()
        else:
            flat = values[:, tokens.mask]
            ids, rows, positions = tokens.ids[tokens.mask], rows[tokens.mask], tokens.positions[tokens.mask]
        delimiters = _delimiters(model, ids)
        yield Activations(prompts[chosen[0]].domain, tuple(sites), flat, ids, rows, positions, delimiters)
        done += len(chosen)
        if progress is not None:
            progress(done, len(prompts))


def _check_prompts(prompts: Any) -> None:
    """Raise unless there are prompts, and all of them are records."""
    wrong = (
        prompts if isinstance(prompts, str | Prompt) else next((p for p in prompts if not isinstance(p, Prompt)), None)
    )
    if wrong is not None:
        raise ValueError(
            f"expected a list of Prompt records, given {wrong!r:.60}; make them with load_corpus, or as "
            'Prompt(text, domain, name, "identify")'
        )
    if not prompts:
        raise ValueError("no prompts to run; check the corpus and its split")


def _delimiters(model: HookedModel, ids: Int[Tensor, "token"]) -> Bool[Tensor, "token"]:
    """Which tokens end a sentence, a clause or a line."""
    distinct, inverse = ids.unique(return_inverse=True)
    chosen = [is_delimiter(text) for text in model.token_texts(distinct.tolist())]
    return torch.tensor(chosen, device=ids.device)[inverse]


def collect(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    split: Split | None = None,
    statistics_split: Split | None = None,
    layers: Sequence[int] | None = None,
    n_top: int = 20,
    batch_size: int = BATCH_SIZE,
    poolings: Sequence[str] = POOLINGS,
    rows_path: Path | None = None,
    truncate: bool = False,
    progress: Progress | None = None,
) -> tuple[DimensionStatistics, PooledRows]:
    """One pass over the corpus: statistics per domain, layer and dimension, and one pooled row per prompt.

    With `split` only its passages are run. With `statistics_split` all are run and have a row, but the statistics are
    of that split alone. Prompt addresses in the statistics count in `prompts`. With `rows_path` (a .npy file) rows go
    to that file as they come, and the result maps it; otherwise they stay in memory: prompts x poolings x layers x
    d_model x 4 bytes. Raises on NaN or infinite activations, naming the layer.
    """
    _check_prompts(prompts)
    for given in (split, statistics_split):
        if given not in (None, *SPLITS):
            raise ValueError(f"unknown split {given!r}; choose one of {', '.join(SPLITS)}")
    if isinstance(layers, int):
        raise ValueError(f"layers is {layers}, expected a list of layers; write layers=[{layers}]")
    kept = [index for index, prompt in enumerate(prompts) if split in (None, prompt.split)]
    chosen = [prompts[index] for index in kept]
    if not chosen:
        raise ValueError(f"there are no passages in split {split!r}; choose another split")
    sites = model.residual_sites(layers)
    fold = StatisticsFold(tuple(dict.fromkeys(p.domain for p in chosen)), len(sites), model.d_model, n_top=n_top)
    shape = (len(chosen), len(poolings), len(sites), model.d_model)
    values = np.empty(shape, dtype=np.float32) if rows_path is None else _RowFile(rows_path, shape)
    addresses = torch.tensor(kept)
    for batch in stream(model, chosen, sites, batch_size=batch_size, truncate=truncate, progress=progress):
        is_counted = statistics_split in (None, chosen[int(batch.prompt_index[0])].split)
        batch = replace(batch, prompt_index=addresses.to(batch.prompt_index.device)[batch.prompt_index])
        reductions = fold.update(batch) if is_counted else reduce_prompts(batch)
        values[np.searchsorted(kept, reductions.prompt_index)] = reductions.pool(poolings)
    pooled = PooledRows(
        tuple(prompt.name for prompt in chosen),
        tuple(prompt.domain for prompt in chosen),
        tuple(prompt.split for prompt in chosen),
        tuple(poolings),
        values.mapped() if isinstance(values, _RowFile) else values,
    )
    return fold.result(), pooled


def collect_columns(
    model: HookedModel,
    prompts: Sequence[Prompt],
    columns: Sequence[tuple[int, int]],
    *,
    batch_size: int = BATCH_SIZE,
    truncate: bool = False,
    progress: Progress | None = None,
) -> TokenColumns:
    """Activations of chosen (layer, dimension) columns at every real token: tokens x columns x 4 bytes of memory."""
    if not columns:
        raise ValueError("no columns asked for; pass (layer, dimension) pairs")
    wrong = [pair for pair in columns if not (0 <= pair[0] < model.n_layers and 0 <= pair[1] < model.d_model)]
    if wrong:
        raise ValueError(
            f"columns {wrong[:3]} are out of range; expected layer < {model.n_layers} and dimension < {model.d_model}"
        )
    layers = sorted({layer for layer, _ in columns})
    at = torch.tensor([layers.index(layer) for layer, _ in columns], device=model.device)
    dimension = torch.tensor([dimension for _, dimension in columns], device=model.device)
    pieces, ids, rows, positions = [], [], [], []
    sites = model.residual_sites(layers)
    for batch in stream(model, prompts, sites, batch_size=batch_size, truncate=truncate, progress=progress):
        pieces.append(batch.values[at, :, dimension].T.float().cpu().numpy())
        ids.append(batch.token_ids.cpu().numpy())
        rows.append(batch.prompt_index.cpu().numpy())
        positions.append(batch.positions.cpu().numpy())
    prompt_index = np.concatenate(rows)
    order = np.argsort(prompt_index, kind="stable")
    return TokenColumns(
        columns=tuple((int(layer), int(index)) for layer, index in columns),
        values=np.concatenate(pieces)[order],
        token_text=tuple(model.token_texts(np.concatenate(ids)[order].tolist())),
        prompt_index=prompt_index[order],
        positions=np.concatenate(positions)[order],
        prompts=tuple(prompt.name for prompt in prompts),
        domains=tuple(prompt.domain for prompt in prompts),
        splits=tuple(prompt.split for prompt in prompts),
    )


class _RowFile:
    """A .npy file that is written row by row; a mapped array would count its written pages as working memory."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path = path
        self.row_bytes = 4 * int(np.prod(shape[1:]))
        with path.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            self.start = file.tell()
            file.truncate(self.start + shape[0] * self.row_bytes)

    def __setitem__(self, indices: np.ndarray, rows: np.ndarray) -> None:
        with self.path.open("r+b") as file:
            for index, row in zip(indices.tolist(), rows.astype("<f4"), strict=True):
                file.seek(self.start + index * self.row_bytes)
                file.write(row.tobytes())

    def mapped(self) -> np.ndarray:
        return np.load(self.path, mmap_mode="r")


def shortened_rows(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    fraction: float = 0.5,
    split: Split = "identify",
    batch_size: int = BATCH_SIZE,
    truncate: bool = False,
    progress: Progress | None = None,
) -> PooledRows:
    """Rows of the passages of one split cut to a fraction of their characters, under their own names.

    Only magnitudes are kept (pooling `mean_abs`). For another number type load the model anew and collect the same
    passages. Raises for a fraction outside 0 to 1 and where nothing is in the split.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}; choose a fraction between 0 and 1, such as 0.5")
    chosen = [prompt for prompt in prompts if prompt.split == split]
    if not chosen:
        raise ValueError(f"there are no passages in split {split!r}; choose another split")
    cut = [replace(prompt, text=_beginning(prompt.text, fraction)) for prompt in chosen]
    return collect(
        model, cut, n_top=1, poolings=("mean_abs",), batch_size=batch_size, truncate=truncate, progress=progress
    )[1]


def _beginning(text: str, fraction: float) -> str:
    """The first part of a text, up to the end of a word; never blank."""
    text = text.lstrip()
    length = max(8, round(fraction * len(text)))
    end = text.find(" ", length)
    return text if end < 0 else text[:end]
