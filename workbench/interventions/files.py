"""The file of a steering: safetensors with a JSON header that says what the numbers mean.

The header names the operation, its sites and 0-based layers, the basis, the unit and sign of strength, the scope it was
made for, the fingerprint of the model, the hashes of the data and the library version, so that a file read elsewhere
cannot silently mean something else.
"""

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from workbench.records import RecordError, replacing

FORMAT = "workbench-steering"
FORMAT_VERSION = 2
MEANING = {
    "layers_counted_from": 0,
    "basis": "raw coordinates of the Hugging Face model, no folding or centring",
    "strength": "multiplies the delta added to the activation; 0 is the identity; unit: 1 delta as fitted",
    "sign": "positive strength moves towards the positive examples",
}


class FileError(ValueError):
    """A file is no steering artefact, or not the one that was saved."""


def write_file(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a header of plain values, complete or not at all; folders above the file are made."""
    stored = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    header = {**MEANING, **header, "library": version("dcd-workbench")}
    header["digest"] = _digest(stored, header)
    metadata = {"format": FORMAT, "version": str(FORMAT_VERSION), "header": json.dumps(header)}
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(_in_order(save(stored, metadata)))
    except RecordError as error:
        raise FileError(str(error)) from error


def _in_order(whole: bytes) -> bytes:
    """A safetensors file with the keys of its header in order, so that equal steerings are equal files."""
    end = 8 + int.from_bytes(whole[:8], "little")
    head = json.dumps(json.loads(whole[8:end]), sort_keys=True, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + whole[end:]


def read_file(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file; raises `FileError` where it is missing, damaged, altered or of another format."""
    if not Path(path).is_file():
        raise FileError(f"{path} does not exist; fit a steering and save it first")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            # Cloned, because a tensor read from a file may lie where sums round in another order.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise FileError(f"{path} is damaged or no steering artefact ({error}); save it again") from error
    if metadata.get("format") != FORMAT:
        raise FileError(f"{path} is not a steering artefact of this workbench")
    if metadata.get("version") != str(FORMAT_VERSION):
        raise FileError(
            f"{path} has artefact version {metadata.get('version')}, this library reads {FORMAT_VERSION}; update it"
        )
    try:
        header = json.loads(metadata.get("header", ""), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} has no readable header ({str(error)[:100]}); save it again") from error
    if not isinstance(header, dict):
        raise FileError(f"{path} was altered after it was saved (its header is no table of keys); save it again")
    if header.pop("digest", None) != _digest(tensors, header):
        raise FileError(f"{path} was altered after it was saved (its digest does not match); save it again")
    return tensors, header


def plain_value(value: Any) -> Any:
    """A value as JSON gives it back: tuples as lists, numbers of NumPy as Python's."""
    return json.loads(json.dumps(value, default=lambda number: number.item()))


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        raw = tensors[name].contiguous().view(torch.uint8) if tensors[name].dim() else tensors[name].reshape(1)
        digest.update(name.encode())
        digest.update(str(tuple(tensors[name].shape)).encode())
        digest.update(raw.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
