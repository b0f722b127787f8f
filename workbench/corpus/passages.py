"""From documents to prompts: cut into passages, repetitions dropped, split into *identify*, *tune* and *test*.

What is drawn in one domain depends on the seed and on the texts of that domain alone, neither on their order nor on the
other domains.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from workbench.corpus.documents import CorpusError, Document
from workbench.records import SPLITS, Prompt, Split

MINIMUM_PASSAGES = 6
IDENTIFY_SHARE, TUNE_SHARE = 0.4, 0.2

_BOUNDARIES = tuple(re.compile(pattern) for pattern in (r"\n[ \t]*\n", r"\n", r"(?<=[.!?])\s", r"\s"))


def cut_passages(text: str, max_characters: int) -> list[str]:
    """Cut a document into passages of at most `max_characters`; a shorter one stays whole.

    Each cut falls at the last blank line of the second half of what fits; where that half has none, at its last line
    end, then sentence end, then space, then anywhere. Only white space around the cuts is lost; the indentation of a
    passage's first line is kept.
    """
    if max_characters < 1:
        raise CorpusError(f"max_characters is {max_characters}; a passage needs at least one character")
    passages, start = [], 0
    while start < len(text):
        end, after = len(text), len(text)
        if end - start > max_characters:
            end, after = _cut_point(text, start, max_characters)
        passage = re.sub(r"\A(?:[^\S\n]*\n)+", "", text[start:end]).rstrip()
        if passage:
            passages.append(passage)
        start = after
    return passages


def _cut_point(text: str, start: int, max_characters: int) -> tuple[int, int]:
    """Where the passage that begins at `start` ends, and where the next one begins."""
    latest = start + max_characters
    for boundary in _BOUNDARIES:
        matches = [m for m in boundary.finditer(text, start, latest + 1) if m.start() >= start + max_characters / 2]
        if matches:
            return matches[-1].start(), matches[-1].end()
    return latest, latest


def to_prompts(
    documents: Mapping[str, Sequence[Document]], *, seed: int, limit: int | None, max_characters: int
) -> list[Prompt]:
    if limit is not None and limit < MINIMUM_PASSAGES:
        raise CorpusError(f"limit is {limit}; at least {MINIMUM_PASSAGES} passages per domain are needed")
    prompts: list[Prompt] = []
    home: dict[str, Document] = {}
    for domain, of_domain in documents.items():
        passages = _distinct_passages(of_domain, max_characters, home)
        if not passages:
            raise CorpusError(f"domain {domain!r} has no text; add some or leave the domain out")
        if len(passages) < MINIMUM_PASSAGES:
            raise CorpusError(
                f"domain {domain!r} has {len(passages)} different passages, at least {MINIMUM_PASSAGES} are needed; "
                f"add text, or cut finer with max_characters below {max_characters}"
            )
        texts = [text for _, text, _ in passages]
        splits = _splits(domain, texts, [document for _, _, document in passages], seed)
        kept = _proportional_draw(domain, texts, splits, len(texts) if limit is None else limit, seed)
        prompts += [Prompt(texts[i], domain, f"{domain}/{passages[i][0]}", splits[i]) for i in kept]
    return prompts


def _distinct_passages(
    documents: Iterable[Document], max_characters: int, home: dict[str, Document]
) -> list[tuple[int, str, Document]]:
    """Number, text and document of every passage but repetitions; `home` remembers who had a text first."""
    passages = []
    cut = [(text, document) for document in documents for text in cut_passages(document.text, max_characters)]
    for number, (text, document) in enumerate(cut):
        key = " ".join(text.split())
        first = home.get(key)
        if first is None:
            home[key] = document
            passages.append((number, text, document))
            continue
        where = f"the same text stands in {first.origin} and {document.origin}"
        if first.domain != document.domain:
            domains = f"{first.domain!r} and {document.domain!r}"
            raise CorpusError(f"{where}, as {domains}; a passage belongs to one domain: remove one of them")
        if first.split != document.split:
            raise CorpusError(f"{where}, in different splits; remove one of them")
    return passages


def _splits(domain: str, texts: Sequence[str], documents: Sequence[Document], seed: int) -> list[Split]:
    """The splits that the source carries; where it carries none, drawn in the shares 40/20/40."""
    stated: list[Split] = [document.split for document in documents if document.split is not None]
    if stated:
        without = [document for document in documents if document.split is None]
        if without:
            raise CorpusError(
                f"{without[0].origin} has no split, others of domain {domain!r} have; state it for all or for none"
            )
        empty = [split for split in SPLITS if split not in stated]
        if empty:
            raise CorpusError(f"domain {domain!r} has no passage in split {empty[0]!r}; add some, or state no splits")
        return stated
    n_identify = round(IDENTIFY_SHARE * len(texts))
    n_tune = round(TUNE_SHARE * len(texts))
    order = sorted(range(len(texts)), key=lambda i: _lot(seed, domain, texts[i]))
    splits: list[Split] = ["test"] * len(texts)
    for rank, index in enumerate(order[: n_identify + n_tune]):
        splits[index] = "identify" if rank < n_identify else "tune"
    return splits


def _proportional_draw(domain: str, texts: Sequence[str], splits: Sequence[Split], limit: int, seed: int) -> list[int]:
    """Which `limit` passages to keep, in the proportions of the splits; a larger limit only adds to them."""
    sizes = Counter(splits)
    seen: Counter[str] = Counter()
    quantile: dict[int, float] = {}
    for index in sorted(range(len(texts)), key=lambda i: _lot(seed, domain, texts[i])):
        quantile[index] = (seen[splits[index]] + 0.5) / sizes[splits[index]]
        seen[splits[index]] += 1
    order = sorted(range(len(texts)), key=lambda i: (quantile[i], SPLITS.index(splits[i])))
    return sorted(order[:limit])


def _lot(seed: int, domain: str, text: str) -> bytes:
    """A draw that depends on nothing but the seed, the domain and the text, whatever its white space."""
    return hashlib.sha256(json.dumps([seed, domain, " ".join(text.split())]).encode()).digest()
