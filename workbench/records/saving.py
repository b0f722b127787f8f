"""Any record in a file: arrays as safetensors with a JSON header, plain records as a JSON table.

Every file says its kind and format, and is written complete or not at all.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from workbench.records.dimensions import Rule, TokenContext
from workbench.records.masking import ChoiceItem, ChoiceMasking, MaskingResult
from workbench.records.statistics import DimensionStatistics, PooledRows, TopTokens

FORMAT_VERSION = 1


class RecordError(ValueError):
    """A saved record is missing, damaged, or of another kind or version than expected."""


def to_plain(value: Any) -> Any:
    """A record, or a nest of tuples of records, as plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def write_whole(path: str | Path, text: str) -> None:
    """Write a text file that appears complete or not at all; folders above it are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_arrays(path: str | Path, kind: str, arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> None:
    """Write arrays as safetensors with a JSON header that says what they are; complete or not at all."""
    path = Path(path)
    metadata = {"kind": kind, "format": str(FORMAT_VERSION), "header": json.dumps(to_plain(header))}
    temporary = path.with_suffix(path.suffix + ".tmp")
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary, metadata=metadata)
    temporary.replace(path)


def load_arrays(path: str | Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save_arrays` wrote; raises `RecordError` on another kind, another version or a damaged file."""
    if not Path(path).exists():
        raise RecordError(f"{path} does not exist; was the run completed?")
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise RecordError(f"{path} is damaged ({error}); write it again") from error
    if metadata.get("kind") != kind:
        raise RecordError(f"{path} holds {metadata.get('kind', 'no record')!r}, expected {kind!r}")
    if metadata.get("format") != str(FORMAT_VERSION):
        raise RecordError(f"{path} has format {metadata.get('format')}, this version reads {FORMAT_VERSION}")
    return arrays, json.loads(metadata["header"])


def save_statistics(statistics: DimensionStatistics, path: str | Path) -> None:
    """Write statistics to one safetensors file."""
    arrays = {
        field.name: getattr(statistics, field.name)
        for field in dataclasses.fields(statistics)
        if field.name not in ("domains", "top")
    }
    arrays |= {f"top.{field.name}": getattr(statistics.top, field.name) for field in dataclasses.fields(TopTokens)}
    save_arrays(path, "DimensionStatistics", arrays, {"domains": statistics.domains})


def load_statistics(path: str | Path) -> DimensionStatistics:
    """Read what `save_statistics` wrote."""
    arrays, header = load_arrays(path, "DimensionStatistics")
    top = TopTokens(**{field.name: arrays.pop(f"top.{field.name}") for field in dataclasses.fields(TopTokens)})
    return DimensionStatistics(domains=tuple(header["domains"]), top=top, **arrays)


def save_pooled_rows(rows: PooledRows, path: str | Path) -> None:
    """Write pooled rows to a .npy file, with their names in a .json file beside it.

    Rows that are mapped from that very file stay as they are, so that a corpus of any size needs no memory here.
    """
    path = Path(path)
    mapped_from = getattr(rows.values, "filename", None)
    if mapped_from is None or Path(mapped_from) != path.resolve():
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, rows.values, allow_pickle=False)
        temporary.replace(path)
    header = {"prompts": rows.prompts, "domains": rows.domains, "splits": rows.splits, "poolings": rows.poolings}
    content = {"kind": "PooledRows", "format": FORMAT_VERSION, "header": to_plain(header)}
    write_whole(path.with_suffix(".json"), json.dumps(content))


def load_pooled_rows(path: str | Path) -> PooledRows:
    """Read what `save_pooled_rows` wrote; the rows are mapped, not read into memory."""
    path = Path(path)
    beside = path.with_suffix(".json")
    for needed in (path, beside):
        if not needed.exists():
            raise RecordError(f"{needed} does not exist; was the run completed?")
    try:
        content = json.loads(beside.read_text(encoding="utf-8"))
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise RecordError(f"{path} or {beside.name} is damaged ({error}); write it again") from error
    if content.get("kind") != "PooledRows" or content.get("format") != FORMAT_VERSION:
        raise RecordError(f"{beside} holds {content.get('kind')!r}, expected 'PooledRows' of format {FORMAT_VERSION}")
    return PooledRows(**{name: tuple(items) for name, items in content["header"].items()}, values=values)


def save_masking(result: MaskingResult, path: str | Path) -> None:
    """Write a masking result to one safetensors file."""
    header = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    arrays = {name: header.pop(name) for name in ("baseline", "loss_increase")}
    save_arrays(path, "MaskingResult", arrays, header)


def load_masking(path: str | Path) -> MaskingResult:
    """Read what `save_masking` wrote."""
    arrays, header = load_arrays(path, "MaskingResult")
    values: dict[str, Any] = dict(arrays)
    values |= {name: tuple(value) if isinstance(value, list) else value for name, value in header.items()}
    return MaskingResult(**values)


def save_choice_masking(result: ChoiceMasking, path: str | Path) -> None:
    """Write the likelihoods of choices under masking to one safetensors file."""
    header = {"mode": result.mode, "dimensions": result.dimensions, "items": result.items}
    save_arrays(path, "ChoiceMasking", {"baseline": result.baseline, "masked": result.masked}, header)


def load_choice_masking(path: str | Path) -> ChoiceMasking:
    """Read what `save_choice_masking` wrote."""
    arrays, header = load_arrays(path, "ChoiceMasking")
    items = tuple(ChoiceItem(**{**row, "choices": tuple(row["choices"])}) for row in header["items"])
    return ChoiceMasking(header["mode"], tuple(header["dimensions"]), items, **arrays)


def save_table(records: list[Any], path: str | Path) -> None:
    """Write a list of plain records (DCDs, detectors, comparisons) as JSON."""
    kind = type(records[0]).__name__ if records else "empty"
    content = {"kind": kind, "format": FORMAT_VERSION, "records": to_plain(records)}
    write_whole(path, json.dumps(content, indent=1, allow_nan=True))


def load_table(path: str | Path, kind: type[Any]) -> list[Any]:
    """Read what `save_table` wrote as records of `kind`."""
    path = Path(path)
    if not path.exists():
        raise RecordError(f"{path} does not exist; was the run completed?")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise RecordError(f"{path} is damaged ({error}); write it again") from error
    if content.get("kind") not in (kind.__name__, "empty") or content.get("format") != FORMAT_VERSION:
        raise RecordError(f"{path} holds {content.get('kind')!r}, expected {kind.__name__!r}")
    return [_from_plain(kind, row) for row in content["records"]]


def _from_plain(kind: type[Any], row: dict[str, Any]) -> Any:
    values = {}
    for field in dataclasses.fields(kind):
        value = row[field.name]
        if field.name == "top_tokens":
            value = tuple(TokenContext(**item) for item in value)
        elif field.name == "rule":
            value = Rule(**value)
        elif isinstance(value, list):
            value = tuple(value)
        values[field.name] = value
    return kind(**values)
