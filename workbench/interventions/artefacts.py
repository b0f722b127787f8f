"""Saving and loading steerings: safetensors with a JSON header that says what the numbers mean.

The header names the operation, its sites and 0-based layers, the basis, the unit and sign of strength, the scope it was
made for, the fingerprint of the model, the hashes of the data and the library version, so that a file read elsewhere
cannot silently mean something else.
"""

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from workbench.interventions.base import Combination, Scope, Steering, SteeringError, Where, check_fit
from workbench.interventions.headers import MEANING, check_header, read_header, rebuild
from workbench.interventions.methods import METHODS
from workbench.models import HookedModel, differences, provenance

FORMAT = "workbench-steering"
FORMAT_VERSION = 2


@dataclass(frozen=True)
class Artefact:
    """A loaded steering with what its file says about it."""

    steering: Steering
    scope: Scope
    header: Mapping[str, Any]


def save_steering(
    path: str | Path,
    steering: Steering,
    model: HookedModel,
    *,
    scope: Scope | Where = "all_but_first",
    data_hashes: Mapping[str, str] | None = None,
) -> None:
    """Write a steering for one model to one file; complete or not at all."""
    scope = scope if isinstance(scope, Scope) else Scope(scope)
    if isinstance(steering, Combination):
        raise SteeringError("a combination is several steerings; save its parts, and combine them after loading")
    check_fit(model, steering)
    tensors, values = {}, {}
    assert dataclasses.is_dataclass(steering)
    for field in dataclasses.fields(steering):
        value = getattr(steering, field.name)
        if isinstance(value, Tensor):
            tensors[field.name] = value.detach().cpu().contiguous()
        else:
            values[field.name] = value
    header = {
        "operation": type(steering).__name__,
        "sites": [str(site) for site in steering.sites],
        **MEANING,
        "values": values,
        "scope": dataclasses.asdict(scope),
        "model": model.name,
        "fingerprint": model.fingerprint,
        "made_with": provenance(model),
        "data": dict(data_hashes or {}),
        "library": version("dcd-workbench"),
    }
    header["digest"] = _digest(tensors, header)
    metadata = {"format": FORMAT, "version": str(FORMAT_VERSION), "header": json.dumps(header)}
    path = Path(path)
    temporary = path.with_suffix(path.suffix + ".tmp")
    try:
        save_file(tensors, temporary, metadata=metadata)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, SafetensorError):
            raise SteeringError(f"cannot write {path}: {error}") from error
        raise


def load_steering(
    path: str | Path,
    model: HookedModel,
    kinds: tuple[type[Steering], ...] = METHODS,
    *,
    allow_other_weights: bool = False,
) -> Artefact:
    """Read a steering of one of `kinds`; raises `SteeringError` if the file is damaged, unknown or of another model.

    `allow_other_weights` takes it for a sibling too, such as a fine-tune of the model that it was fitted on: layers,
    width and tokenizer have to be the same. That it was used so stands in the header as `other_weights`, and is warned.
    """
    if not Path(path).is_file():
        raise SteeringError(f"{path} does not exist; fit a steering and save it first")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            # Cloned, because a tensor read from a file may lie where sums round in another order.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise SteeringError(f"{path} is damaged or no steering artefact ({error}); save it again") from error
    if metadata.get("format") != FORMAT:
        raise SteeringError(f"{path} is not a steering artefact of this workbench")
    if metadata.get("version") != str(FORMAT_VERSION):
        raise SteeringError(
            f"{path} has artefact version {metadata.get('version')}, this library reads {FORMAT_VERSION}; update it"
        )
    header = _intact_header(path, metadata.get("header", ""), tensors)
    _check_model(path, header, model, allow_other_weights)
    known = {kind.__name__: kind for kind in kinds}
    if header["operation"] not in known:
        raise SteeringError(f"{path} holds a {header['operation']}, expected one of {', '.join(known)}")
    values = {name: _tuples(value) for name, value in (header.get("values") or {}).items()}
    steering = rebuild(path, known[header["operation"]], {**values, **tensors})
    if header["sites"] != [str(site) for site in steering.sites]:
        raise SteeringError(f"{path} names other sites than its {header['operation']} acts at; fit it again")
    check_fit(model, steering)
    where = header["scope"]["where"]
    return Artefact(
        steering,
        Scope(where if where in get_args(Where) else tuple(where), tuple(header["scope"]["exclude"])),
        header,
    )


def _check_model(path: str | Path, header: dict[str, Any], model: HookedModel, allow_other_weights: bool) -> None:
    """Raise unless a steering is of this model, or of a sibling where that is allowed, which is noted in the header."""
    is_same = header["fingerprint"] == model.fingerprint
    found = differences(header["made_with"], model, is_same_model=is_same)
    if is_same and found:
        raise SteeringError(f"{path} was fitted on this model under other settings: {'; '.join(found)}")
    if is_same:
        return
    told = f"{path} was fitted on {header['model']}, whose weights differ from those of {model.name}"
    if not allow_other_weights:
        raise SteeringError(f"{told}; if that is a sibling of it, allow other weights (--allow-other-weights)")
    if found:
        raise SteeringError(f"{told}, and it is no sibling: {'; '.join(found)}")
    header["other_weights"] = {"name": model.name, "fingerprint": model.fingerprint}
    warnings.warn(f"{told}; used all the same, as asked", stacklevel=3)


def _intact_header(path: str | Path, text: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The header of a file in which neither it nor a tensor was changed, without its digest."""
    header = read_header(path, text)
    if header.pop("digest", None) != _digest(tensors, header):
        raise SteeringError(f"{path} was altered after it was saved (its digest does not match); save it again")
    check_header(path, header)
    return header


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        raw = tensors[name].contiguous().view(torch.uint8) if tensors[name].dim() else tensors[name].reshape(1)
        digest.update(name.encode())
        digest.update(str(tuple(tensors[name].shape)).encode())
        digest.update(raw.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
