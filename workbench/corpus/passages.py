"""From documents to prompts: cut into passages, repetitions dropped, split into *identify*, *tune* and *test*.

What is drawn in one domain depends on the seed and on the texts of that domain alone, neither on their order nor on the
other domains.
"""

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from workbench.corpus.documents import Document
from workbench.corpus.rows import CorpusError
from workbench.corpus.splits import draw_splits, lot
from workbench.records import SPLITS, Prompt, Split

_log = logging.getLogger(__name__)

MINIMUM_PASSAGES = 6

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
    documents: Mapping[str, Sequence[Document]],
    *,
    seed: int,
    limit: int | None,
    max_characters: int,
    keep_ambiguous: bool = True,
) -> list[Prompt]:
    """The passages of every domain with their splits.

    A passage that stands in two domains or two splits raises, unless `keep_ambiguous` is False: it is then left out
    everywhere, and a logged warning counts such passages.
    """
    if limit is not None and limit < MINIMUM_PASSAGES:
        raise CorpusError(f"limit is {limit}; at least {MINIMUM_PASSAGES} passages per domain are needed")
    cut = {
        domain: [(text, document) for document in of_domain for text in cut_passages(document.text, max_characters)]
        for domain, of_domain in documents.items()
    }
    ambiguous = set() if keep_ambiguous else _ambiguous(cut)
    if ambiguous:
        _log.warning("left out %d passages that stand in several domains or splits", len(ambiguous))
    prompts: list[Prompt] = []
    home: dict[str, Document] = {}
    for domain, of_domain in cut.items():
        passages = _distinct_passages(of_domain, home, ambiguous)
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


def _ambiguous(cut: Mapping[str, Sequence[tuple[str, Document]]]) -> set[str]:
    """Passages, white space aside, that stand in several domains or splits."""
    places: dict[str, set[tuple[str, str | None]]] = {}
    for domain, passages in cut.items():
        for text, document in passages:
            places.setdefault(" ".join(text.split()), set()).add((domain, document.split))
    return {key for key, where in places.items() if len(where) > 1}


def _distinct_passages(
    cut: Iterable[tuple[str, Document]], home: dict[str, Document], left_out: Collection[str]
) -> list[tuple[int, str, Document]]:
    """Number, text and document of every passage but repetitions; `home` remembers who had a text first."""
    passages = []
    for number, (text, document) in enumerate(cut):
        key = " ".join(text.split())
        if key in left_out:
            continue
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
    keys = [" ".join(text.split()) for text in texts]
    drawn = draw_splits(keys, seed, domain)
    return [drawn[key] for key in keys]


def _proportional_draw(domain: str, texts: Sequence[str], splits: Sequence[Split], limit: int, seed: int) -> list[int]:
    """Which `limit` passages to keep, in the proportions of the splits; a larger limit only adds to them."""
    sizes = Counter(splits)
    seen: Counter[str] = Counter()
    quantile: dict[int, float] = {}
    for index in sorted(range(len(texts)), key=lambda i: lot(seed, domain, " ".join(texts[i].split()))):
        quantile[index] = (seen[splits[index]] + 0.5) / sizes[splits[index]]
        seen[splits[index]] += 1
    order = sorted(range(len(texts)), key=lambda i: (quantile[i], SPLITS.index(splits[i])))
    return sorted(order[:limit])
