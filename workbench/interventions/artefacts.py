"""Loading saved steerings; `save_steering` writes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from workbench.interventions.base import Artefact, Combination, Scope, Steering, SteeringError, Where, check_fit
from workbench.interventions.files import FileError, read_file
from workbench.interventions.headers import check_header, rebuild
from workbench.interventions.methods import steering_classes
from workbench.models import HookedModel


def load_steering(path: str | Path, model: HookedModel, kinds: tuple[type[Steering], ...] | None = None) -> Artefact:
    """Read a steering of one of `kinds` (all methods by default), or a combination of such.

    Raises `SteeringError` if the file is damaged, unknown or of another model.
    """
    try:
        tensors, header = read_file(path)
    except FileError as error:
        raise SteeringError(str(error)) from error
    check_header(path, header)
    if header["fingerprint"] != model.fingerprint:
        raise SteeringError(f"{path} was fitted on {header['model']}, whose weights differ from those of {model.name}")
    known = {kind.__name__: kind for kind in (steering_classes() if kinds is None else kinds)}
    steering = _read(path, header, tensors, "", known)
    if header["sites"] != [str(site) for site in steering.sites]:
        raise SteeringError(f"{path} names other sites than its {header['operation']} acts at; fit it again")
    check_fit(model, steering)
    where = header["scope"]["where"]
    scope = Scope(where if where in get_args(Where) else tuple(where), tuple(header["scope"]["exclude"]))
    return Artefact(steering, scope, header)


def _read(
    path: str | Path,
    described: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    prefix: str,
    known: Mapping[str, type[Steering]],
) -> Steering:
    """One steering from its description and the tensors whose names start with a prefix."""
    name = str(described.get("operation"))
    if name == "Combination":
        parts = [
            (_read(path, part, tensors, f"{prefix}{number}.", known), _weight(path, part))
            for number, part in enumerate(described.get("parts") or ())
        ]
        return Combination(tuple(parts))
    if name not in known:
        raise SteeringError(f"{path} holds a {name}, expected one of {', '.join(known)}")
    values = {field: _tuples(value) for field, value in (described.get("values") or {}).items()}
    own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    return rebuild(path, known[name], {**values, **own})


def _weight(path: str | Path, part: Mapping[str, Any]) -> float:
    weight = part.get("weight")
    if not isinstance(weight, int | float):
        raise SteeringError(f"{path} holds a part of a combination without its weight; save it again")
    return float(weight)


def _tuples(value: Any) -> Any:
    """JSON lists are tuples in the fields of a steering."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
