"""Rows of the files and data sets that tasks are made of, each with its place, so that a mistake can name its line."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.records import SPLITS, Split
from workbench.tasks.base import TaskError

SUFFIXES = ("_test", "_val", "_dev")
N_CSV_COLUMNS = 6


def read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise TaskError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} is not UTF-8 text (offset {error.start}); save it as UTF-8") from error


def parse_json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{place} is not valid JSON ({error}); correct it") from error


def json_lines(path: Path) -> list[tuple[dict[str, Any], str]]:
    """One JSON object per line, with its place for messages."""
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            place = f"line {number} of {path}"
            row = parse_json(line, place)
            if not isinstance(row, dict):
                raise TaskError(f"{place} is not a JSON object")
            rows.append((row, place))
    if not rows:
        raise TaskError(f"{path} is empty; expected one JSON object per line")
    return rows


def csv_questions(path: Path) -> list[tuple[dict[str, Any], str]]:
    """Rows of question, choices A to D and the letter of the right one, without header (one is skipped if there)."""
    stem = path.stem
    for suffix in SUFFIXES:
        stem = stem.removesuffix(suffix)
    rows = []
    for number, row in enumerate(csv.reader(io.StringIO(read_text(path), newline="")), 1):
        is_header = number == 1 and len(row) == N_CSV_COLUMNS and row[0].strip().lower() == "question"
        if not row or is_header:
            continue
        if len(row) != N_CSV_COLUMNS or row[5].strip().upper() not in ("A", "B", "C", "D"):
            raise TaskError(f"line {number} of {path}: expected question,A,B,C,D,letter, given {len(row)} columns")
        entry = {"subject": stem, "question": row[0], "choices": row[1:5], "answer": row[5]}
        rows.append((entry, f"line {number} of {path}"))
    if not rows:
        raise TaskError(f"{path} is empty; expected lines of question,A,B,C,D,letter")
    return rows


def hub_rows(source: str, allow_download: bool) -> list[tuple[dict[str, Any], str]]:
    """Rows of the test split of a dataset with MMLU's columns, from the cache unless a download is allowed."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub import snapshot_download

    name, _, configuration = source.partition(":")
    try:
        folder = snapshot_download(name, repo_type="dataset", local_files_only=not allow_download)
        dataset = load_dataset(folder, configuration or None, split="test")
    except FileNotFoundError as error:
        remedy = "check name and connection" if allow_download else "allow the download to fetch it"
        raise TaskError(f"dataset {name!r} is not in the Hugging Face cache of this machine; {remedy}") from error
    except (ValueError, OSError, DatasetsError) as error:
        raise TaskError(f"cannot load dataset {name!r}: {' '.join(str(error).split())[:200]}") from error
    return [(dict(row), f"row {index} of {name}") for index, row in enumerate(dataset)]  # pyright: ignore[reportArgumentType, reportCallIssue]


def first_entry(text: str, path: Path) -> Mapping[str, Any]:
    if text.lstrip().startswith("["):
        entries = parse_json(text, str(path))
        first = entries[0] if entries else None
    else:
        first = json_lines(path)[0][0]
    if not isinstance(first, dict):
        raise TaskError(f"{path} holds no objects; expected {{positive, negative}} or CAA's question and answers")
    return first


def text_of(entry: Any, key: str, place: str) -> str:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise TaskError(f"{place} has no {key}; give it a {key!r} that is a text and not blank")
    return value


def texts_of(entry: Mapping[str, Any], key: str, place: str) -> tuple[str, ...]:
    value = entry.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise TaskError(f"{place}: {key!r} must be a list of texts, not {value!r}")
    return tuple(value)


def split_of(value: Any, place: str) -> Split:
    if value not in SPLITS:
        raise TaskError(f"{place} has split {value!r}; expected one of {', '.join(SPLITS)}")
    return value
