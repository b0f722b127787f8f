"""Loading saved steerings; `save_steering` writes them."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from workbench.interventions.base import Artefact, Combination, Scope, Steering, SteeringError, Where, check_fit
from workbench.interventions.files import FileError, read_file
from workbench.interventions.headers import check_header, rebuild
from workbench.interventions.methods import steering_classes
from workbench.models import HookedModel, differences


def load_steering(
    path: str | Path,
    model: HookedModel,
    kinds: tuple[type[Steering], ...] | None = None,
    *,
    allow_other_weights: bool = False,
) -> Artefact:
    """Read a steering of one of `kinds` (all methods by default), or a combination of such.

    Raises `SteeringError` if the file is damaged, unknown or of another model. `allow_other_weights` takes it for a
    sibling too, such as a fine-tune of the model that it was fitted on: layers, width and tokenizer have to be the
    same. That it was used so stands in the header as `other_weights`, and is warned.
    """
    try:
        tensors, header = read_file(path)
    except FileError as error:
        raise SteeringError(str(error)) from error
    check_header(path, header)
    _check_model(path, header, model, allow_other_weights)
    known = {kind.__name__: kind for kind in (steering_classes() if kinds is None else kinds)}
    steering = _read(path, header, tensors, "", known)
    if header["sites"] != [str(site) for site in steering.sites]:
        raise SteeringError(f"{path} names other sites than its {header['operation']} acts at; fit it again")
    check_fit(model, steering)
    where = header["scope"]["where"]
    scope = Scope(where if where in get_args(Where) else tuple(where), tuple(header["scope"]["exclude"]))
    return Artefact(steering, scope, header)


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
