"""Domain corpora and contrast pairs, from what ships, from text files, JSON lines and Hugging Face datasets.

Every source becomes the same list of `Prompt`: long documents cut into passages, repeated passages dropped, each
domain split into *identify*, *tune* and *test*. What is drawn in one domain depends on the seed and on the texts of
that domain alone, neither on their order nor on the other domains.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from workbench.records import SPLITS, Pair, Prompt, Split

BUILTIN_DOMAINS: tuple[str, ...] = ("mathematics", "biology", "law", "code", "physics", "literature", "humanities")
NEUTRAL = "neutral"
MINIMUM_PASSAGES = 6
IDENTIFY_SHARE, TUNE_SHARE = 0.4, 0.2

_SOURCES = "'builtin', a folder of text with one sub-folder or file per domain, a .jsonl file, or hf:owner/name"
_BOUNDARIES = tuple(re.compile(pattern) for pattern in (r"\n[ \t]*\n", r"\n", r"(?<=[.!?])\s", r"\s"))


class CorpusError(ValueError):
    """A corpus or a file of pairs cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class _Document:
    """A text as it was read: `split` is None where the source carries none, `origin` is its place for messages."""

    text: str
    domain: str
    split: Split | None
    origin: str


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
        documents = {domain: _builtin_documents(domain) for domain in _choose(BUILTIN_DOMAINS, domains, source)}
    elif path.is_dir():
        files = _files_by_domain(path)
        documents = {domain: _read_files(files[domain], domain) for domain in _choose(files, domains, path)}
    elif path.is_file() and path.suffix == ".jsonl":
        by_domain = _group(_json_documents(_read_text(path), str(path), None))
        documents = {domain: by_domain[domain] for domain in _choose(by_domain, domains, path)}
    elif path.is_file():
        raise CorpusError(f"{path} is a single file, and a corpus needs two domains; give {_SOURCES}")
    else:
        raise CorpusError(f"there is no file or folder {str(source)!r}; give {_SOURCES}")
    return _to_prompts(documents, seed=seed, limit=limit, max_characters=max_characters)


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
            documents.append(_document(entry, f"row {index} of {name}", None))
    by_domain = _group(documents)
    chosen = {domain: by_domain[domain] for domain in _choose(by_domain, domains, name)}
    return _to_prompts(chosen, seed=seed, limit=limit, max_characters=max_characters)


def neutral_prompts() -> list[Prompt]:
    """The 60 built-in passages of everyday text that belong to no domain; their domain is "neutral"."""
    return _to_prompts({NEUTRAL: _builtin_documents(NEUTRAL)}, seed=0, limit=None, max_characters=1500)


def load_pairs(path: str | Path) -> list[Pair]:
    """Read contrast pairs from a JSON list of {positive, negative}, or from JSON lines of the same."""
    text = _read_text(Path(path))
    if text.lstrip().startswith("["):
        entries = [(entry, f"entry {index} of {path}") for index, entry in enumerate(_parse_json(text, str(path)))]
    else:
        lines = [(line, f"line {number} of {path}") for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        entries = [(_parse_json(line, origin), origin) for line, origin in lines]
    if not entries:
        raise CorpusError(f"{path} holds no pairs; write one {{positive, negative}} per line")
    pairs = []
    for entry, origin in entries:
        positive, negative = (_text_field(entry, key, origin) for key in ("positive", "negative"))
        if positive == negative:
            raise CorpusError(f"{origin}: positive and negative are the same text; a pair must show a contrast")
        pairs.append(Pair(positive=positive, negative=negative))
    return pairs


def corpus_hash(prompts: Sequence[Prompt]) -> str:
    """SHA-256 over names, domains, splits and texts; the order of the prompts does not matter."""
    rows = sorted(json.dumps([prompt.name, prompt.domain, prompt.split, prompt.text]) for prompt in prompts)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


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


# --- reading ----------------------------------------------------------------------------------------------------------


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror}") from error
    if b"\0" in data:
        raise CorpusError(f"{path} is not text (it holds NUL bytes); remove it, or save it as UTF-8 text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = f"byte 0x{data[error.start]:02x} at offset {error.start}"
        raise CorpusError(f"{path} is not UTF-8 text ({wrong}); remove it, or save it as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _builtin_documents(domain: str) -> list[_Document]:
    name = f"{domain}.jsonl"
    text = resources.files("workbench").joinpath("builtin", "passages", name).read_text(encoding="utf-8")
    return _json_documents(text, name, domain)


def _files_by_domain(folder: Path) -> dict[str, list[Path]]:
    """The files of every domain: those anywhere below a sub-folder, or the one file of that name."""
    files: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        domain = entry.name if entry.is_dir() else entry.stem
        if domain in files:
            raise CorpusError(
                f"{folder} has more than one entry for domain {domain!r}; put its files in one sub-folder"
            )
        below = sorted(entry.rglob("*")) if entry.is_dir() else [entry]
        visible = [path for path in below if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
        files[domain] = [path for path in visible if path.is_file()]
    return files


def _read_files(paths: Iterable[Path], domain: str) -> list[_Document]:
    documents = []
    for path in paths:
        text = _read_text(path)
        if path.suffix == ".jsonl":
            documents += _json_documents(text, str(path), domain)
        else:
            documents.append(_Document(text, domain, None, str(path)))
    return documents


def _json_documents(text: str, origin: str, domain: str | None) -> list[_Document]:
    """One document per line. Lines end at line feeds only: JSON text may hold other separators that Python counts."""
    documents = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            place = f"line {number} of {origin}"
            documents.append(_document(_parse_json(line, place), place, domain))
    return documents


def _document(entry: Any, origin: str, domain: str | None) -> _Document:
    """Check one entry; `domain` is what its file says, None if the entry must say it."""
    text = _text_field(entry, "text", origin)
    stated = domain if domain is not None and "domain" not in entry else _text_field(entry, "domain", origin).strip()
    if domain is not None and stated != domain:
        raise CorpusError(f"{origin} says domain {stated!r}, but its file says {domain!r}; remove one of the two")
    split = entry.get("split")
    if split is not None and split not in SPLITS:
        raise CorpusError(f"{origin} has split {split!r}; expected {', '.join(SPLITS)}, or none at all")
    return _Document(text, stated, split, origin)


def _parse_json(text: str, origin: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{origin} is not valid JSON ({error}); correct or remove it") from error


def _text_field(entry: Any, key: str, origin: str) -> str:
    if not isinstance(entry, dict):
        raise CorpusError(f"{origin} is not a JSON object; expected one with {key!r}")
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise CorpusError(f"{origin} has no {key}; give it a {key!r} that is a text and not blank")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(f"{origin} has half of a surrogate pair in {key!r}; correct the \\u escape") from error
    return value


def _open_dataset(name: str, configuration: str | None, revision: str | None, split: str, allow_download: bool) -> Any:
    """The dataset from its snapshot in the cache: the one road that never asks the network unless told to."""
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


# --- from documents to prompts ----------------------------------------------------------------------------------------


def _group(documents: Iterable[_Document]) -> dict[str, list[_Document]]:
    by_domain: dict[str, list[_Document]] = {}
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


def _to_prompts(
    documents: Mapping[str, Sequence[_Document]], *, seed: int, limit: int | None, max_characters: int
) -> list[Prompt]:
    if limit is not None and limit < MINIMUM_PASSAGES:
        raise CorpusError(f"limit is {limit}; at least {MINIMUM_PASSAGES} passages per domain are needed")
    prompts: list[Prompt] = []
    home: dict[str, _Document] = {}
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
    documents: Iterable[_Document], max_characters: int, home: dict[str, _Document]
) -> list[tuple[int, str, _Document]]:
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


def _splits(domain: str, texts: Sequence[str], documents: Sequence[_Document], seed: int) -> list[Split]:
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
