"""Reading domain-critical dimensions as detectors: which tokens fire them, what these share, how well that holds.

A label is a token class of `lexicons`, chosen on the *identify* documents and scored on the *test* documents of the
domain, so that the score is free of the choice. The score is the AUROC of the activation, class against all other
tokens of the domain: the chance that a token of the class fires the dimension more than another token, 0.5 by luck.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Float64, Int

from workbench.records import (
    ENDS,
    UNLABELLED,
    Detector,
    Dimension,
    DimensionStatistics,
    Prompt,
    Split,
    TokenColumns,
    TokenContext,
)
from workbench.statistics import auroc, auroc_interval, resample_counts
from workbench.token_classes import class_members

N_TOP = 20
N_SHOWN = 10
MIN_AUROC = 0.75
MIN_SHARE = 0.5
MIN_LIFT = 2.0
MIN_TOKENS = 10
MIN_DOCUMENTS = 4
N_RESAMPLES = 500
_SPECIAL = re.compile(r"\s*(?:<[^<>]*>|\[[A-Z]+\])\s*")  # <s>, <|endoftext|>, [CLS]: not text of the document

Words = tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True)
class TokenTable:
    """The tokens of one domain and split, first positions left out; `document` counts the documents from 0."""

    values: Float32[np.ndarray, "token column"]
    members: Bool[np.ndarray, "token class"]
    document: Int[np.ndarray, "token"]

    @property
    def is_supported(self) -> Bool[np.ndarray, "class"]:
        """Classes with enough tokens, inside and outside, from enough documents to be told from luck."""
        supported = np.ones(self.members.shape[1], dtype=bool)
        for members in (self.members, ~self.members):
            n_documents = [len(np.unique(self.document[column])) for column in members.T]
            supported &= (members.sum(axis=0) >= MIN_TOKENS) & (np.array(n_documents) >= MIN_DOCUMENTS)
        return supported


def find_detectors(
    statistics: DimensionStatistics,
    columns: TokenColumns,
    dcds: Sequence[Dimension],
    promoted: Mapping[int, Words],
    prompts: Sequence[Prompt],
    *,
    seed: int = 0,
) -> list[Detector]:
    """Read every DCD at every layer in `columns` as a detector, in the order of `dcds`, then layers.

    The high end reads large activations as firing, the low end small (negative) ones. Both ends are candidates: those
    that get a label are returned; if none does, the one whose top token is larger in magnitude, unlabelled. Of the
    classes that reach AUROC 0.75, half of the top 20 tokens and twice their share of all tokens on *identify*, the
    label is the one with the largest product of AUROC and share of top tokens. `top_tokens` come from
    `statistics.top`, whose prompt addresses count in `prompts`. `promoted` holds, per dimension, the words that a
    positive and a negative write to it promote; they are passed on as they are, whatever the end.
    """
    pairs = list(dict.fromkeys((dcd.domain, dcd.dimension) for dcd in dcds))
    at = {column: number for number, column in enumerate(columns.columns)}
    _check(statistics, columns, pairs)
    texts = document_texts(columns)
    names, members = class_members(texts, columns.prompt_index)
    contexts = _Contexts(columns, texts, prompts)
    detectors = []
    for domain in dict.fromkeys(domain for domain, _ in pairs):
        dimensions = [dimension for owner, dimension in pairs if owner == domain]
        readings = [
            (layer, dimension) for dimension in dimensions for layer, d in sorted(columns.columns) if d == dimension
        ]
        chosen = [at[reading] for reading in readings]
        identify = token_table(columns, members, domain, "identify", chosen)
        held_out = token_table(columns, members, domain, "test", chosen)
        labels = choose_labels(identify, identify.is_supported & held_out.is_supported)
        weights = document_weights(held_out, seed)
        for number, (layer, dimension) in enumerate(readings):
            extremes = statistics.top.value[statistics.domains.index(domain), layer, :, 0, dimension]
            for end in _ends_to_report(labels[:, number], extremes):
                label = int(labels[end, number])
                score = _score(held_out, number, label, end, weights)
                shown = contexts.top(statistics, domain, layer, dimension, end)
                name = names[label] if label >= 0 else UNLABELLED
                words = promoted.get(dimension, ((), ()))
                detectors.append(Detector(domain, layer, dimension, ENDS[end], name, *score, shown, *words))
    return detectors


def token_table(
    columns: TokenColumns, members: Bool[np.ndarray, "token class"], domain: str, split: Split, chosen: Sequence[int]
) -> TokenTable:
    """The tokens of one domain and split with the chosen columns; position 0 is left out."""
    of_prompt = (np.array(columns.domains) == domain) & (np.array(columns.splits) == split)
    rows = np.flatnonzero(of_prompt[columns.prompt_index] & (columns.positions > 0))
    if len(rows) == 0:
        raise ValueError(f"domain {domain!r} has no tokens in split {split!r}; labels need identify and test documents")
    document = np.unique(columns.prompt_index[rows], return_inverse=True)[1]
    return TokenTable(columns.values[rows][:, list(chosen)], members[rows], document)


def choose_labels(table: TokenTable, is_allowed: Bool[np.ndarray, "class"]) -> Int[np.ndarray, "end column"]:
    """The class that labels each end of each column, -1 where none passes."""
    quality, passes = label_qualities(table, is_allowed)
    best = np.where(passes, quality, -1.0).argmax(axis=2)
    return np.where(passes.any(axis=2), best, -1)


def label_qualities(
    table: TokenTable, is_allowed: Bool[np.ndarray, "class"]
) -> tuple[Float64[np.ndarray, "end column class"], Bool[np.ndarray, "end column class"]]:
    """Product of AUROC and share of the top tokens of every class, and whether the class passes as a label."""
    high = auroc(table.values, table.members)
    order = np.argsort(table.values, axis=0, kind="stable")
    base = table.members.mean(axis=0)
    qualities, passing = [], []
    for scores, top in ((high, order[-N_TOP:]), (1 - high, order[:N_TOP])):
        share = table.members[top].mean(axis=0)
        qualities.append(scores * share)
        passing.append(is_allowed & (scores >= MIN_AUROC) & (share >= MIN_SHARE) & (share >= MIN_LIFT * base))
    return np.stack(qualities), np.stack(passing)


def document_weights(table: TokenTable, seed: int) -> Float64[np.ndarray, "resample document"]:
    """How often each document is drawn in every bootstrap resample of the documents."""
    n_documents = int(table.document.max()) + 1
    return resample_counts(n_documents, N_RESAMPLES, np.random.default_rng(seed))


def detector_frame(detectors: Sequence[Detector]) -> pd.DataFrame:
    """One row per detector; tokens and words joined by spaces, line breaks written as ↵."""
    names = ["domain", "layer", "dimension", "end", "label", "auroc", "low", "high", "n_tokens"]
    rows = [
        [
            *(getattr(detector, name) for name in names),
            _joined([context.token for context in detector.top_tokens]),
            _joined(detector.promoted),
            _joined(detector.suppressed),
        ]
        for detector in detectors
    ]
    return pd.DataFrame(rows, columns=[*names, "top_tokens", "promoted", "suppressed"])


def _joined(tokens: Sequence[str]) -> str:
    return " ".join(re.sub(r"[\r\n]", "↵", token).strip(" ") or "␣" for token in tokens)


def _check(statistics: DimensionStatistics, columns: TokenColumns, pairs: Sequence[tuple[str, int]]) -> None:
    known = {dimension for _, dimension in columns.columns}
    for domain, dimension in pairs:
        if dimension not in known:
            raise ValueError(
                f"dimension {dimension} was not collected; pass its columns to collect_columns(model, prompts, "
                f"[(layer, {dimension}), ...])"
            )
        if domain not in statistics.domains:
            raise ValueError(f"no statistics of domain {domain!r}; there are {', '.join(statistics.domains)}")
    n_layers = statistics.top.value.shape[1]
    if any(layer >= n_layers for layer, _ in columns.columns):
        raise ValueError(f"columns go beyond the {n_layers} layers of the statistics; collect both at the same layers")


def document_texts(columns: TokenColumns) -> tuple[str, ...]:
    """The text of every token, empty where it is a special token at the start."""
    pairs = zip(columns.token_text, columns.positions.tolist(), strict=True)
    return tuple("" if position == 0 and _SPECIAL.fullmatch(text) else text for text, position in pairs)


def _ends_to_report(labels: Int[np.ndarray, "end"], extremes: Float32[np.ndarray, "end"]) -> list[int]:
    """Both ends if both have a label, the labelled one, or else the one whose top token has the larger magnitude."""
    labelled = np.flatnonzero(labels >= 0).tolist()
    return labelled or [int(np.argmax(np.abs(np.nan_to_num(extremes))))]


def _score(
    table: TokenTable, number: int, label: int, end: int, weights: Float64[np.ndarray, "resample document"]
) -> tuple[float, float, float, int]:
    """AUROC, its interval, and the number of tokens of the class; NaN and 0 without a label."""
    if label < 0:
        return np.nan, np.nan, np.nan, 0
    values = table.values[:, number] if ENDS[end] == "high" else -table.values[:, number]
    is_member = table.members[:, label]
    score = float(auroc(values[:, None], is_member[:, None])[0, 0])
    low, high = auroc_interval(values, is_member, table.document, weights)
    return score, min(low, score), max(high, score), int(is_member.sum())


class _Contexts:
    """Tokens with the text around them, looked up by the prompt addresses of the statistics."""

    def __init__(self, columns: TokenColumns, texts: Sequence[str], prompts: Sequence[Prompt]) -> None:
        self.texts, self.prompts, self.positions = tuple(texts), prompts, columns.positions
        index, starts = np.unique(columns.prompt_index, return_index=True)
        lengths = np.bincount(columns.prompt_index, minlength=len(columns.prompts))
        self.rows = {
            columns.prompts[number]: (start, start + int(lengths[number]))
            for number, start in zip(index.tolist(), starts.tolist(), strict=True)
        }

    def top(
        self, statistics: DimensionStatistics, domain: str, layer: int, dimension: int, end: int
    ) -> tuple[TokenContext, ...]:
        """The first of the top tokens of one domain, layer, end and dimension."""
        cell = (statistics.domains.index(domain), layer, end, slice(N_SHOWN), dimension)
        top = statistics.top
        found = zip(top.value[cell].tolist(), top.prompt[cell].tolist(), top.position[cell].tolist(), strict=True)
        return tuple(self._context(*address) for address in found if address[1] >= 0)

    def _context(self, value: float, prompt: int, position: int) -> TokenContext:
        name = self.prompts[prompt].name
        start, stop = self.rows.get(name, (0, 0))
        row = start + position
        if row >= stop or self.positions[row] != position:
            raise ValueError(
                f"prompt {name} has a top token at position {position} that was not collected with the columns"
            )
        return TokenContext(
            token=self.texts[row],
            before="".join(self.texts[max(start, row - 16) : row])[-60:],
            after="".join(self.texts[row + 1 : min(stop, row + 11)])[:40],
            value=value,
            prompt=name,
            position=position,
        )
