"""Texts as they are read, from what ships, from text files and from tables, each checked and with its place."""

import logging
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from workbench.corpus.rows import TABLES, CorpusError, read_rows, read_text, split_of, text_lines, text_of
from workbench.records import Split

_log = logging.getLogger(__name__)

NO_TEXTS = ("readme", "license", "licence", "copying", "changelog", "contributing", "citation")  # names, any suffix
MARKED_UP = (".html", ".htm", ".xhtml", ".xml", ".rtf", ".pdf", ".doc", ".docx", ".odt", ".epub", ".ipynb")


@dataclass(frozen=True)
class Document:
    """A text as it was read: `split` is None where the source carries none, `origin` is its place for messages."""

    text: str
    domain: str
    split: Split | None
    origin: str


@dataclass(frozen=True)
class Columns:
    """The names of the fields that hold text, domain and split."""

    text: str = "text"
    domain: str = "domain"
    split: str = "split"


def domain_name(name: str) -> str:
    """A domain as it is compared and shown: composed letters (NFC), as some file systems take them apart."""
    return unicodedata.normalize("NFC", name).strip()


def builtin_documents(domain: str) -> list[Document]:
    """The passages that ship for one domain."""
    name = f"{domain}.jsonl"
    text = resources.files("workbench").joinpath("builtin", "passages", name).read_text(encoding="utf-8")
    return [checked_document(entry, place, domain) for entry, place in text_lines(text, name)]


def files_by_domain(folder: Path, asked: Collection[str] = ()) -> dict[str, list[Path]]:
    """The files of every domain: those anywhere below a sub-folder, or the one file of that name.

    Hidden files are left out, and so are a README, a licence and the like unless their name is `asked` for as a domain;
    what was left out is logged with what became which domain.
    """
    files: dict[str, list[Path]] = {}
    left_out = []
    for entry in sorted(folder.iterdir()):
        domain = domain_name(entry.name if entry.is_dir() else entry.stem)
        if entry.name.startswith("."):
            continue
        if not entry.is_dir() and domain.lower() in NO_TEXTS and domain not in asked:
            left_out.append(entry)
            continue
        if domain in files:
            raise CorpusError(
                f"{folder} has more than one entry for domain {domain!r}; put its files in one sub-folder"
            )
        files[domain] = [entry]
        if entry.is_dir():
            below = [path for path in sorted(entry.rglob("*")) if path.is_file()]
            visible = [path for path in below if "/." not in f"/{path.relative_to(folder).as_posix()}"]
            files[domain] = [path for path in visible if path.stem.lower() not in NO_TEXTS]
            left_out += [path for path in visible if path.stem.lower() in NO_TEXTS]
    names = ", ".join(f"{domain} ({len(paths)} files)" for domain, paths in files.items())
    _log.info("%s: domains %s", folder, names)
    if left_out:
        shown = ", ".join(str(path.relative_to(folder)) for path in left_out)
        _log.warning("%s: left out %s (not the text of a domain); domains are %s", folder, shown, names)
    return files


def read_files(paths: Iterable[Path], domain: str, columns: Columns | None = None) -> list[Document]:
    """The documents of files of one domain: one per text file, one per row of a table."""
    documents = []
    for path in paths:
        suffix = path.suffix.lower()
        if suffix in TABLES:
            documents += [checked_document(entry, place, domain, columns) for entry, place in read_rows(path)]
        elif suffix in MARKED_UP:
            raise CorpusError(
                f"{path} is {suffix[1:].upper()}, whose markup would be read as text; save it as plain text, or "
                f"name it {path.name}.txt to have it read as it stands"
            )
        else:
            documents.append(Document(read_text(path), domain, None, str(path)))
    return documents


def checked_document(entry: Any, origin: str, domain: str | None, columns: Columns | None = None) -> Document:
    """Check one row; `domain` is what its file says, None if the row must say it."""
    columns = columns or Columns()
    text = text_of(entry, columns.text, origin)
    has_own = domain is None or columns.domain in entry
    stated = domain_name(text_of(entry, columns.domain, origin)) if has_own else domain
    if domain is not None and stated != domain:
        raise CorpusError(f"{origin} says domain {stated!r}, but its file says {domain!r}; remove one of the two")
    split = entry.get(columns.split) or None
    return Document(text, str(stated), None if split is None else split_of(split, origin), origin)
