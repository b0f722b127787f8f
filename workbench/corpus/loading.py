"""Load domain corpora and contrast pairs; every source becomes the same list of prompts."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.corpus.documents import (
    Columns,
    Document,
    builtin_documents,
    checked_document,
    domain_name,
    files_by_domain,
    read_files,
)
from workbench.corpus.passages import to_prompts
from workbench.corpus.rows import TABLES, CorpusError, Row, hub_dataset, read_rows, text_of
from workbench.records import Pair, Prompt

if TYPE_CHECKING:
    import pandas as pd

BUILTIN_DOMAINS: tuple[str, ...] = ("mathematics", "biology", "law", "code", "physics", "literature", "humanities")
NEUTRAL = "neutral"

_SOURCES = (
    "'builtin', a folder of text with one sub-folder or file per domain, a table with a text and a domain column "
    "(.jsonl, .json, .csv, .tsv, .parquet), or hf:owner/name"
)
Texts = Mapping[str, Sequence[str]]


def load_corpus(
    source: "str | Path | Texts | pd.DataFrame | Sequence[str]" = "builtin",
    *,
    text_column: str = "text",
    domain_column: str = "domain",
    domains: Sequence[str] | None = None,
    seed: int = 0,
    limit: int | None = None,
    max_characters: int = 1500,
    allow_download: bool = False,
) -> list[Prompt]:
    """Load the passages of at least two domains, domain by domain.

    `source` is "builtin"; a folder with one sub-folder or one file per domain (any UTF-8 text, or tables of rows with a
    text and perhaps a split; hidden files, a README and a licence are left out); a table with a text, a domain and
    perhaps a split column (.jsonl, .json, .csv, .tsv, .parquet, or a DataFrame); lists of texts by domain; or
    "hf:owner/name[:configuration]", which is `load_hf_dataset` and the only case in which `allow_download` matters.
    `domains` chooses and orders; None takes all. `seed` draws the splits of sources that carry none (40/20/40 percent
    per domain) and what `limit` (passages per domain, in the proportions of the splits) keeps. Documents longer than
    `max_characters` are cut by `cut_passages`. Names are `domain/number`, numbered before anything is dropped. Raises
    `CorpusError`.
    """
    options: dict[str, Any] = {"seed": seed, "limit": limit, "max_characters": max_characters}
    columns = Columns(text_column, domain_column)
    if isinstance(source, str) and source.startswith("hf:"):
        name, _, configuration = source.removeprefix("hf:").partition(":")
        options |= {"configuration": configuration or None, "domains": domains, "allow_download": allow_download}
        return load_hf_dataset(name, text_column=text_column, domain_column=domain_column, **options)
    if isinstance(source, str) and source == "builtin":
        documents = {domain: builtin_documents(domain) for domain in _choose(BUILTIN_DOMAINS, domains, source)}
    elif isinstance(source, str | Path) and Path(source).is_dir():
        files = files_by_domain(Path(source), domains or ())
        documents = {domain: read_files(files[domain], domain, columns) for domain in _choose(files, domains, source)}
    else:
        rows, place = _rows_of(source, columns)
        by_domain = _group(checked_document(entry, origin, None, columns) for entry, origin in rows)
        documents = {domain: by_domain[domain] for domain in _choose(by_domain, domains, place)}
    return to_prompts(documents, **options)


def _rows_of(source: "str | Path | Texts | pd.DataFrame | Sequence[str]", columns: Columns) -> tuple[list[Row], str]:
    """The rows of a table, a frame or lists of texts, and what messages call the source."""
    if isinstance(source, Mapping):
        rows = [
            ({columns.text: text, columns.domain: domain}, f"text {index} of {domain}")
            for domain, texts in source.items()
            for index, text in enumerate([texts] if isinstance(texts, str) else texts)
        ]
        return rows, "the mapping"
    if not isinstance(source, str | Path):
        import pandas as pd  # slow to load, and only frames need it

        if isinstance(source, pd.DataFrame):
            rows = [(entry, f"row {index} of the frame") for index, entry in enumerate(source.to_dict("records"))]
            return [({str(key): value for key, value in entry.items()}, place) for entry, place in rows], "the frame"
        raise CorpusError(f"a {type(source).__name__} says no domain of its texts; give lists by domain, or {_SOURCES}")
    path = Path(source)
    if not path.is_file():
        raise CorpusError(f"there is no file or folder {str(source)!r}; give {_SOURCES}")
    if path.suffix.lower() not in TABLES:
        raise CorpusError(f"{path} is a single file, and a corpus needs two domains; give {_SOURCES}")
    return read_rows(path), str(path)


def load_hf_dataset(
    name: str,
    *,
    configuration: str | None = None,
    revision: str | None = None,
    dataset_split: str = "train",
    text_column: str = "text",
    domain_column: str = "domain",
    split_column: str | None = None,
    domains: Sequence[str] | None = None,
    seed: int = 0,
    limit: int | None = None,
    max_characters: int = 1500,
    allow_download: bool = False,
) -> list[Prompt]:
    """Load passages from a Hugging Face dataset with a text and a domain column; otherwise as `load_corpus`.

    Nothing is downloaded unless `allow_download` is True, which fetches the whole dataset repository: without it the
    dataset must lie in the Hugging Face cache of this machine. `dataset_split` is the dataset's own split to read;
    `split_column`, where given, holds identify, tune or test. Class labels become their names. Since a published
    dataset cannot be edited, rows without text are left out, and so are passages that stand in two domains or splits (a
    logged warning counts these). Reads the whole split into memory.
    """
    dataset = hub_dataset(name, configuration, revision, dataset_split, allow_download)
    wanted = [text_column, domain_column, *([split_column] if split_column else [])]
    missing = [column for column in wanted if column not in dataset.column_names]
    if missing:
        raise CorpusError(
            f"dataset {name} has no column {missing[0]!r}, only {', '.join(dataset.column_names)}; "
            "name the columns in load_hf_dataset(..., text_column=..., domain_column=...)"
        )
    labels = getattr(dataset.features[domain_column], "names", None)
    documents = []
    for index, row in enumerate(dataset.select_columns(wanted)):
        domain = row[domain_column]
        if isinstance(domain, int):
            domain = labels[domain] if labels and domain >= 0 else str(domain)
        entry = {"text": row[text_column], "domain": domain, "split": row[split_column] if split_column else None}
        if entry["text"] and str(entry["text"]).strip():
            documents.append(checked_document(entry, f"row {index} of {name}", None))
    by_domain = _group(documents)
    chosen = {domain: by_domain[domain] for domain in _choose(by_domain, domains, name)}
    return to_prompts(chosen, seed=seed, limit=limit, max_characters=max_characters, keep_ambiguous=False)


def neutral_prompts() -> list[Prompt]:
    """The 60 built-in passages of everyday text that belong to no domain; their domain is "neutral"."""
    return to_prompts({NEUTRAL: builtin_documents(NEUTRAL)}, seed=0, limit=None, max_characters=1500)


def load_pairs(path: str | Path) -> list[Pair]:
    """Read contrast pairs {positive, negative} from JSON lines, a JSON list or any other table."""
    entries = read_rows(Path(path))
    if not entries:
        raise CorpusError(f"{path} holds no pairs; write one {{positive, negative}} per line")
    pairs = []
    for entry, origin in entries:
        positive, negative = (text_of(entry, key, origin) for key in ("positive", "negative"))
        if positive == negative:
            raise CorpusError(f"{origin}: positive and negative are the same text; a pair must show a contrast")
        pairs.append(Pair(positive=positive, negative=negative))
    return pairs


def corpus_hash(prompts: Sequence[Prompt]) -> str:
    """SHA-256 over names, domains, splits and texts; the order of the prompts does not matter."""
    rows = sorted(json.dumps([prompt.name, prompt.domain, prompt.split, prompt.text]) for prompt in prompts)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _group(documents: Iterable[Document]) -> dict[str, list[Document]]:
    by_domain: dict[str, list[Document]] = {}
    for document in documents:
        by_domain.setdefault(document.domain, []).append(document)
    return by_domain


def _choose(available: Iterable[str], domains: Sequence[str] | None, source: str | Path) -> list[str]:
    """The domains to load, in the order asked for."""
    known = list(available)
    asked = domains if domains is None or isinstance(domains, str) else [domain_name(domain) for domain in domains]
    if not known:
        raise CorpusError(f"{source} is empty; give {_SOURCES}")
    if NEUTRAL in known:
        raise CorpusError(f"{source} has a domain {NEUTRAL!r}, the name of text that belongs to none; rename it")
    if isinstance(asked, str):
        raise CorpusError(f"domains is the text {domains!r}; give a list, such as [{domains!r}, ...]")
    unknown = [domain for domain in asked or () if domain not in known]
    if unknown:
        raise CorpusError(f"unknown domain {unknown[0]!r}; {source} has {', '.join(known)}")
    chosen = list(dict.fromkeys(asked)) if asked is not None else known
    if len(chosen) < 2:
        which = f"only the domain {chosen[0]!r}" if chosen else "no domain"
        owner = f"{source} has" if domains is None else "you asked for"
        raise CorpusError(f"{owner} {which}; a domain is compared with others, so at least two are needed")
    return chosen
