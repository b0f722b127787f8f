"""Load domain corpora and contrast pairs; every source becomes the same list of prompts."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from workbench.corpus.documents import (
    CorpusError,
    Document,
    builtin_documents,
    checked_document,
    files_by_domain,
    json_documents,
    parse_json,
    read_files,
    read_text,
    text_field,
)
from workbench.corpus.passages import to_prompts
from workbench.records import Pair, Prompt

BUILTIN_DOMAINS: tuple[str, ...] = ("mathematics", "biology", "law", "code", "physics", "literature", "humanities")
NEUTRAL = "neutral"

_SOURCES = "'builtin', a folder of text with one sub-folder or file per domain, a .jsonl file, or hf:owner/name"


def load_corpus(
    source: str | Path = "builtin",
    *,
    domains: Sequence[str] | None = None,
    seed: int = 0,
    limit: int | None = None,
    max_characters: int = 1500,
    allow_download: bool = False,
) -> list[Prompt]:
    """Load the passages of at least two domains, domain by domain.

    `source` is "builtin"; a folder with one sub-folder or one text file per domain (any UTF-8 text; hidden files are
    left out; `.jsonl` files inside hold one {text[, split]} per line); a `.jsonl` file of {text, domain[, split]}; or
    "hf:owner/name[:configuration]", which is `load_hf_dataset` with its defaults and the only case in which
    `allow_download` matters. `domains` chooses and orders; None takes all. `seed` draws the splits of sources that
    carry none (40/20/40 percent per domain) and what `limit` (passages per domain, in the proportions of the splits)
    keeps. Documents longer than `max_characters` are cut by `cut_passages`. Names are `domain/number`, numbered before
    anything is dropped. Raises `CorpusError`.
    """
    if isinstance(source, str) and source.startswith("hf:"):
        name, _, configuration = source.removeprefix("hf:").partition(":")
        return load_hf_dataset(
            name,
            configuration=configuration or None,
            domains=domains,
            seed=seed,
            limit=limit,
            max_characters=max_characters,
            allow_download=allow_download,
        )
    path = Path(source)
    if source == "builtin":
        documents = {domain: builtin_documents(domain) for domain in _choose(BUILTIN_DOMAINS, domains, source)}
    elif path.is_dir():
        files = files_by_domain(path)
        documents = {domain: read_files(files[domain], domain) for domain in _choose(files, domains, path)}
    elif path.is_file() and path.suffix == ".jsonl":
        by_domain = _group(json_documents(read_text(path), str(path), None))
        documents = {domain: by_domain[domain] for domain in _choose(by_domain, domains, path)}
    elif path.is_file():
        raise CorpusError(f"{path} is a single file, and a corpus needs two domains; give {_SOURCES}")
    else:
        raise CorpusError(f"there is no file or folder {str(source)!r}; give {_SOURCES}")
    return to_prompts(documents, seed=seed, limit=limit, max_characters=max_characters)


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
    `split_column`, where given, holds identify, tune or test. Class labels become their names. Rows without text are
    left out, since a published dataset cannot be edited. Reads the whole split into memory.
    """
    dataset = _open_dataset(name, configuration, revision, dataset_split, allow_download)
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
    return to_prompts(chosen, seed=seed, limit=limit, max_characters=max_characters)


def neutral_prompts() -> list[Prompt]:
    """The 60 built-in passages of everyday text that belong to no domain; their domain is "neutral"."""
    return to_prompts({NEUTRAL: builtin_documents(NEUTRAL)}, seed=0, limit=None, max_characters=1500)


def load_pairs(path: str | Path) -> list[Pair]:
    """Read contrast pairs from a JSON list of {positive, negative}, or from JSON lines of the same."""
    text = read_text(Path(path))
    if text.lstrip().startswith("["):
        entries = [(entry, f"entry {index} of {path}") for index, entry in enumerate(parse_json(text, str(path)))]
    else:
        lines = [(line, f"line {number} of {path}") for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        entries = [(parse_json(line, origin), origin) for line, origin in lines]
    if not entries:
        raise CorpusError(f"{path} holds no pairs; write one {{positive, negative}} per line")
    pairs = []
    for entry, origin in entries:
        positive, negative = (text_field(entry, key, origin) for key in ("positive", "negative"))
        if positive == negative:
            raise CorpusError(f"{origin}: positive and negative are the same text; a pair must show a contrast")
        pairs.append(Pair(positive=positive, negative=negative))
    return pairs


def corpus_hash(prompts: Sequence[Prompt]) -> str:
    """SHA-256 over names, domains, splits and texts; the order of the prompts does not matter."""
    rows = sorted(json.dumps([prompt.name, prompt.domain, prompt.split, prompt.text]) for prompt in prompts)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _open_dataset(name: str, configuration: str | None, revision: str | None, split: str, allow_download: bool) -> Any:
    """The dataset from its snapshot in the cache: the one road that never asks the network unless told to."""
    if find_spec("datasets") is None:
        raise CorpusError("hf: sources need the package datasets; install dcd-workbench[hub]")
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=not allow_download)
        return load_dataset(folder, configuration, split=split)
    except FileNotFoundError as error:
        remedy = "check name and connection" if allow_download else "pass allow_download=True to download it"
        state = "is not, or not completely, in the Hugging Face cache of this machine"
        raise CorpusError(f"dataset {name!r} {state}; {remedy}") from error
    except (ValueError, OSError, DatasetsError) as error:
        raise CorpusError(f"cannot load dataset {name!r}: {' '.join(str(error).split())[:300]}") from error


def _group(documents: Iterable[Document]) -> dict[str, list[Document]]:
    by_domain: dict[str, list[Document]] = {}
    for document in documents:
        by_domain.setdefault(document.domain, []).append(document)
    return by_domain


def _choose(available: Iterable[str], domains: Sequence[str] | None, source: str | Path) -> list[str]:
    """The domains to load, in the order asked for."""
    known = list(available)
    if not known:
        raise CorpusError(f"{source} is empty; give {_SOURCES}")
    if NEUTRAL in known:
        raise CorpusError(f"{source} has a domain {NEUTRAL!r}, the name of text that belongs to none; rename it")
    if isinstance(domains, str):
        raise CorpusError(f"domains is the text {domains!r}; give a list, such as [{domains!r}, ...]")
    unknown = [domain for domain in domains or () if domain not in known]
    if unknown:
        raise CorpusError(f"unknown domain {unknown[0]!r}; {source} has {', '.join(known)}")
    chosen = list(dict.fromkeys(domains)) if domains is not None else known
    if len(chosen) < 2:
        which = f"only the domain {chosen[0]!r}" if chosen else "no domain"
        owner = f"{source} has" if domains is None else "you asked for"
        raise CorpusError(f"{owner} {which}; a domain is compared with others, so at least two are needed")
    return chosen
