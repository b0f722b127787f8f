"""Texts as they are read, from what ships, from text files and from JSON lines, each checked and with its place."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from workbench.records import SPLITS, Split


class CorpusError(ValueError):
    """A corpus or a file of pairs cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Document:
    """A text as it was read: `split` is None where the source carries none, `origin` is its place for messages."""

    text: str
    domain: str
    split: Split | None
    origin: str


def read_text(path: Path) -> str:
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


def builtin_documents(domain: str) -> list[Document]:
    name = f"{domain}.jsonl"
    text = resources.files("workbench").joinpath("builtin", "passages", name).read_text(encoding="utf-8")
    return json_documents(text, name, domain)


def files_by_domain(folder: Path) -> dict[str, list[Path]]:
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


def read_files(paths: Iterable[Path], domain: str) -> list[Document]:
    documents = []
    for path in paths:
        text = read_text(path)
        if path.suffix == ".jsonl":
            documents += json_documents(text, str(path), domain)
        else:
            documents.append(Document(text, domain, None, str(path)))
    return documents


def json_documents(text: str, origin: str, domain: str | None) -> list[Document]:
    """One document per line. Lines end at line feeds only: JSON text may hold other separators that Python counts."""
    documents = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            place = f"line {number} of {origin}"
            documents.append(checked_document(parse_json(line, place), place, domain))
    return documents


def checked_document(entry: Any, origin: str, domain: str | None) -> Document:
    """Check one entry; `domain` is what its file says, None if the entry must say it."""
    text = text_field(entry, "text", origin)
    stated = domain if domain is not None and "domain" not in entry else text_field(entry, "domain", origin).strip()
    if domain is not None and stated != domain:
        raise CorpusError(f"{origin} says domain {stated!r}, but its file says {domain!r}; remove one of the two")
    split = entry.get("split")
    if split is not None and split not in SPLITS:
        raise CorpusError(f"{origin} has split {split!r}; expected {', '.join(SPLITS)}, or none at all")
    return Document(text, stated, split, origin)


def parse_json(text: str, origin: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{origin} is not valid JSON ({error}); correct or remove it") from error


def text_field(entry: Any, key: str, origin: str) -> str:
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
