"""Any record in a file, by one codec that reads the types of its fields.

    x.json          a record without arrays, or a table: a list of records of one kind
    x.safetensors   a record with arrays, at any depth
    x.npy           a record with one large array, which is mapped when it is read; the rest is in x.json beside it

Every file states its kind, its format and a digest of its content, which is checked when the file is read. Equal
records give equal files.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xxhash
from cattrs import Converter
from cattrs.errors import CattrsError
from jaxtyping import AbstractArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from workbench.records.files import (
    ARRAY,
    DIGEST,
    RecordError,
    checked,
    digest_of,
    read_object,
    replacing,
    to_plain,
    write_json,
)

FORMAT_VERSION = 2
EMPTY = "empty"
BLOCK_BYTES = 1 << 24
Record = TypeVar("Record")


def save_record(record: Any, path: str | Path) -> None:
    """Write a record to a .json, .safetensors or .npy file; complete or not at all.

    An array that is mapped from that very .npy file stays as it is, so that a corpus of any size needs no memory here.
    """
    path = Path(path)
    arrays: dict[str, np.ndarray] = {}
    content = {"kind": type(record).__name__, "format": FORMAT_VERSION, "content": to_plain(record, arrays)}
    if path.suffix == ".json":
        if arrays:
            raise RecordError(f"{path}: a {content['kind']} holds arrays; name a .safetensors file")
        write_json(path, content, keep_nan=True)
    elif path.suffix == ".npy":
        ((name, array),) = arrays.items()
        _save_mapped(array, path)
        write_json(path.with_suffix(".json"), {**content, "arrays": {name: _file_digest(path)}}, keep_nan=True)
    else:
        content["arrays"] = _array_digests(arrays)
        metadata = {"record": json.dumps({**content, DIGEST: digest_of(content)})}
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        with replacing(path) as temporary:
            try:
                save_file(contiguous, temporary, metadata=metadata)
            except SafetensorError as error:
                raise OSError(str(error)) from error


def load_record(path: str | Path, kind: type[Record]) -> Record:
    """Read a record of one kind; raises `RecordError` where the file is missing, damaged, changed or another's."""
    path = Path(path)
    if path.suffix == ".json":
        return _converted(path, _checked_header(read_object(path), path, kind), kind, {})
    if path.suffix == ".npy":
        content = _checked_header(read_object(path.with_suffix(".json")), path.with_suffix(".json"), kind)
        (name,) = content["arrays"]
        return _converted(path, content, kind, {name: _mapped(path, content["arrays"][name])})
    header, arrays = _read_arrays(path)
    content = _checked_header(header, path, kind)
    if content["arrays"] != _array_digests(arrays):
        raise RecordError(f"{path} was changed after it was written (the digest of an array does not match)")
    return _converted(path, content, kind, arrays)


def save_table(records: Iterable[Any], path: str | Path) -> None:
    """Write records of one kind (DCDs, detectors, contrasts) as a JSON table."""
    rows = list(records)
    kind = type(rows[0]).__name__ if rows else EMPTY
    write_json(path, {"kind": kind, "format": FORMAT_VERSION, "content": to_plain(rows)}, keep_nan=True)


def load_table(path: str | Path, kind: type[Record]) -> list[Record]:
    """Read what `save_table` wrote as records of `kind`."""
    path = Path(path)
    content = _checked_header(read_object(path), path, kind, EMPTY)
    return _converted(path, content, list[kind], {})


# --- parts ------------------------------------------------------------------------------------------------------------


def _checked_header(header: dict[str, Any], path: Path, kind: type, *others: str) -> dict[str, Any]:
    if header.get("format") != FORMAT_VERSION:
        raise RecordError(
            f"{path} has format {header.get('format')!r}, this version reads {FORMAT_VERSION}; write it again"
        )
    content = checked(header, path)
    if content.get("kind") not in (kind.__name__, *others):
        raise RecordError(f"{path} holds {content.get('kind')!r}, expected {kind.__name__!r}")
    return content


def _converted(path: Path, content: Mapping[str, Any], kind: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    converter = Converter(detailed_validation=False)
    converter.register_structure_hook_func(_is_array, lambda value, _: arrays[value[ARRAY]])
    try:
        return converter.structure(content["content"], kind)
    except (ValueError, TypeError, KeyError, CattrsError) as error:
        raise RecordError(f"{path} does not fit this version ({' '.join(str(error).split())})") from error


def _is_array(kind: Any) -> bool:
    return isinstance(kind, type) and (issubclass(kind, AbstractArray) or kind is np.ndarray)


def _read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and the arrays of a safetensors file, neither checked yet."""
    if not path.is_file():
        raise RecordError(f"{path} does not exist; was the run completed?")
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            header = json.loads(metadata.get("record") or json.dumps({"format": metadata.get("format")}))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise RecordError(f"{path} is damaged ({error}); write it again") from error
    return header if isinstance(header, dict) else {}, arrays


def _save_mapped(array: np.ndarray, path: Path) -> None:
    mapped_from = getattr(array, "filename", None)
    if mapped_from is None or Path(mapped_from) != path.resolve():
        with replacing(path) as temporary:
            np.save(temporary, array, allow_pickle=False)


def _mapped(path: Path, digest: str) -> np.ndarray:
    if not path.is_file():
        raise RecordError(f"{path} does not exist; was the run completed?")
    if _file_digest(path) != digest:
        raise RecordError(f"{path} was changed after it was written (its digest does not match); write it again")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise RecordError(f"{path} is damaged ({error}); write it again") from error


def _file_digest(path: Path) -> str:
    """Of all bytes of a file; XXH3, because rows may be many gigabytes (seven times as fast as SHA-256)."""
    digest = xxhash.xxh3_128()
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise RecordError(f"cannot read {path} ({error.strerror or error})") from error
    return digest.hexdigest()


def _array_digests(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    digests = {}
    for name, array in arrays.items():
        flat = np.ascontiguousarray(array).reshape(-1)
        digest = xxhash.xxh3_128(f"{array.dtype.str} {array.shape}".encode())
        digest.update(flat.view(np.uint8).data)
        digests[name] = digest.hexdigest()
    return digests
