"""Files that appear complete or not at all, and JSON objects that carry a digest of their content."""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np

ARRAY = "array"  # the key of what stands in for an array
DIGEST = "content_digest"  # the key of an object under which its digest stands


class RecordError(ValueError):
    """A file cannot be written, or is missing, damaged, or of another kind or version than expected."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A new file beside `path` that takes its place when the block ends well, and vanishes when it does not.

    Folders above it are made. Its name is used by nobody else, so that several processes may write the same file; it
    ends as `path` does. What the system refuses (disk full, permission denied) becomes a `RecordError`.
    """
    path = Path(path)
    temporary = path.with_name(f".{token_hex(8)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise RecordError(f"cannot write {path} ({reason}); make room, or name another place") from error
        raise


def write_whole(path: str | Path, text: str) -> None:
    """Write a text file that appears complete or not at all; folders above it are made."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def to_plain(value: Any, arrays: dict[str, np.ndarray] | None = None, place: str = "") -> Any:
    """A record, or a nest of records, as plain JSON values.

    Arrays are moved to `arrays`, under the name of their place ("top.value"), and {"array": name} stands in for them.
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item, arrays, f"{place}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item, arrays, f"{place}.{number}".lstrip(".")) for number, item in enumerate(value)]
    if isinstance(value, np.ndarray) and arrays is not None:
        arrays[place] = value
        return {ARRAY: place}
    return value.item() if isinstance(value, np.generic) else value


def write_json(path: str | Path, content: Any, *, keep_nan: bool = False) -> None:
    """Write a record or a mapping as a JSON object with its digest; complete or not at all.

    NaN and infinities become null, which every reader understands, unless `keep_nan`.
    """
    plain = to_plain(content)
    if not keep_nan:
        plain = _without_nan(plain)
    text = json.dumps({**plain, DIGEST: digest_of(plain)}, indent=1, allow_nan=keep_nan)
    write_whole(path, text + "\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read what `write_json` wrote; raises `RecordError` where it is missing, damaged or was changed since."""
    return checked(read_object(path), path)


def read_object(path: str | Path) -> dict[str, Any]:
    """A JSON object as it stands, its digest not checked."""
    try:
        content = json.loads(Path(path).read_bytes().decode("utf-8"))
    except FileNotFoundError as error:
        raise RecordError(f"{path} does not exist; was the run completed?") from error
    except OSError as error:
        raise RecordError(f"cannot read {path} ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is damaged ({error}); write it again") from error
    if not isinstance(content, dict):
        raise RecordError(f"{path} is damaged (it holds {type(content).__name__}, not an object); write it again")
    return content


def checked(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The content of an object that `write_json` wrote, without its digest, which must match."""
    content = dict(content)
    stated = content.pop(DIGEST, None)
    if stated is None:
        raise RecordError(f"{path} has no digest: it is damaged, or an earlier version wrote it; write it again")
    if stated != digest_of(content):
        raise RecordError(f"{path} was changed after it was written (its digest does not match); write it again")
    return content


def digest_of(content: Any) -> str:
    """SHA-256 of plain JSON values; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return value
