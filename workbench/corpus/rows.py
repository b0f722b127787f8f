"""Rows of the files and data sets that corpora and tasks are made of, each with its place for messages.

JSON lines, a JSON array of objects, CSV and TSV with a header, Parquet, and data sets of the Hugging Face hub.
"""

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from workbench.records import SPLITS, Split

Row = tuple[dict[str, Any], str]
DELIMITERS = {".csv": ",", ".tsv": "\t"}
TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


class CorpusError(ValueError):
    """A corpus, a file of rows or one of pairs cannot be used; the message says why and what to do."""


def read_text(path: Path) -> str:
    """The text of a UTF-8 file with line feeds as line ends."""
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


def read_rows(path: Path) -> list[Row]:
    """The rows of a file by its suffix; any other suffix than those of `TABLES` is read as JSON lines."""
    suffix = path.suffix.lower()
    if suffix in DELIMITERS:
        return table_rows(path, DELIMITERS[suffix])
    if suffix == ".parquet":
        return parquet_rows(path)
    text = read_text(path)
    if not text.lstrip().startswith("["):
        return text_lines(text, str(path))
    entries = parse_json(text, str(path))
    return [
        (_object(entry, f"entry {index} of {path}"), f"entry {index} of {path}") for index, entry in enumerate(entries)
    ]


def json_lines(path: Path) -> list[Row]:
    """One JSON object per line; raises where there is none."""
    rows = text_lines(read_text(path), str(path))
    if not rows:
        raise CorpusError(f"{path} is empty; expected one JSON object per line")
    return rows


def text_lines(text: str, origin: str) -> list[Row]:
    """One JSON object per line; lines end at line feeds alone, as JSON text may hold other separators."""
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            place = f"line {number} of {origin}"
            rows.append((_object(parse_json(line, place), place), place))
    return rows


def parse_json(text: str, place: str) -> Any:
    """The value of a JSON text; raises where it is none, or nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise CorpusError(f"{place} is nested too deeply to be read; correct or remove it") from error
    except ValueError as error:
        raise CorpusError(f"{place} is not valid JSON ({error}); correct or remove it") from error


def csv_records(path: Path, delimiter: str = ",") -> Iterator[tuple[list[str], str]]:
    """The records of a CSV file with their places, empty lines left out; cells may have any length."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    limit = csv.field_size_limit(sys.maxsize)
    try:
        place = f"line 1 of {path}"
        for record in reader:
            if record:
                yield record, place
            place = f"line {reader.line_num + 1} of {path}"
    except csv.Error as error:
        raise CorpusError(f"{place} is no CSV ({error}); is a quotation mark not closed, or not doubled?") from error
    finally:
        csv.field_size_limit(limit)


def table_rows(path: Path, delimiter: str = ",") -> list[Row]:
    """The rows of a CSV file under the names of its header; raises where a row has more or fewer fields."""
    records = csv_records(path, delimiter)
    names, _ = next(records, ([], ""))
    rows = []
    for record, place in records:
        if len(record) != len(names):
            raise CorpusError(
                f"{place} has {len(record)} fields for {len(names)} columns ({', '.join(names)}); put a field that "
                f"holds {delimiter!r} into quotation marks"
            )
        rows.append((dict(zip(names, record, strict=True)), place))
    return rows


def parquet_rows(path: Path) -> list[Row]:
    """The rows of a Parquet file."""
    from pyarrow import ArrowException, parquet

    try:
        entries = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise CorpusError(f"cannot read {path} as Parquet ({' '.join(str(error).split())[:200]})") from error
    return [(entry, f"row {index} of {path}") for index, entry in enumerate(entries)]


def hub_dataset(name: str, configuration: str | None, revision: str | None, split: str, allow_download: bool) -> Any:
    """A data set from its snapshot in the cache: the one road that never asks the network unless told to."""
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


# --- fields -----------------------------------------------------------------------------------------------------------


def text_of(entry: Any, key: str, place: str) -> str:
    """A field that must be a text and not blank."""
    value = entry.get(key) if isinstance(entry, Mapping) else None
    if not isinstance(value, str) or not value.strip():
        raise CorpusError(f"{place} has no {key}; give it a {key!r} that is a text and not blank")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(f"{place} has half of a surrogate pair in {key!r}; correct the \\u escape") from error
    return value


def texts_of(entry: Mapping[str, Any], key: str, place: str) -> tuple[str, ...]:
    """A field that must be a list of texts; empty where there is none."""
    value = entry.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise CorpusError(f"{place}: {key!r} must be a list of texts, not {value!r}")
    return tuple(value)


def split_of(value: Any, place: str) -> Split:
    """A stated split, which must be one of the three."""
    if value not in SPLITS:
        raise CorpusError(f"{place} has split {value!r}; expected {', '.join(SPLITS)}, or none at all")
    return value


def _object(entry: Any, place: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise CorpusError(f"{place} is not a JSON object")
    return entry
