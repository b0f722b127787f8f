"""What the header of an artefact must say: keys by type, meaning by value, payload by the fields of the method."""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

from jaxtyping import jaxtyped
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from workbench.interventions.base import Steering, SteeringError, Where
from workbench.interventions.files import MEANING
from workbench.schema import Count, Index, Name, checked, from_plain

KEPT = 100  # characters of a value that a message repeats

Method = TypeVar("Method", bound=Steering)


@checked(SteeringError)
class SavedScope:
    where: Where | tuple[Index, ...]
    exclude: tuple[Index, ...]


@checked(SteeringError)
class MadeWith:
    """As `workbench.models.provenance` gives it."""

    dtype: Name
    attention: str | None
    bos: Name
    first_tokens: tuple[str, ...]
    chat_template: str
    tokenizer: Name
    layers: Count
    d_model: Count
    origin: dict[str, str]
    libraries: dict[str, str]
    probe_logits: tuple[float, ...]


@checked(SteeringError)
class Header:
    """The keys of a header without those of `MEANING`; `parts` are those of a combination."""

    operation: Name
    sites: tuple[Name, ...]
    scope: SavedScope
    model: str
    fingerprint: Name
    data: dict[str, str]
    library: str
    made_with: MadeWith
    values: dict[str, Any] | None = None
    parts: tuple[dict[str, Any], ...] | None = None


def check_header(path: object, header: Mapping[str, Any]) -> None:
    """Raise `SteeringError` where a key is missing, unknown, of another type, or means something else here."""
    for key, meant in MEANING.items():
        if json.dumps(header.get(key)) != json.dumps(meant):
            raise SteeringError(
                f"{path}: {key} = {str(header.get(key))[:KEPT]!r}, but this library reads only {meant!r}; fit it again"
            )
    kept = {key: value for key, value in header.items() if key not in MEANING}
    try:
        from_plain(Header, kept, f"{path}:", SteeringError)
    except SteeringError as error:
        raise SteeringError(str(error)[: 5 * KEPT]) from None


def rebuild(path: object, kind: type[Method], values: Mapping[str, Any]) -> Method:
    """A steering from its fields as a file has them, each of the type, rank and sizes that the method declares."""
    assert is_dataclass(kind)
    wanted = {field.name for field in fields(kind)}
    if set(values) != wanted:
        odd = ", ".join(sorted(set(values) ^ wanted))[:KEPT]
        raise SteeringError(f"{path} holds a {kind.__name__} of another version of this library ({odd}); fit it again")
    hints = get_type_hints(kind)
    with jaxtyped("context"):
        for name, value in values.items():
            if not _fits(value, hints[name]):
                shown = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:KEPT]
                raise SteeringError(f"{path}: {name} of a {kind.__name__} cannot be {shown}; fit it again")
    try:
        steering = kind(**values)
        _ = steering.sites  # computed from the fields
    except (ValueError, TypeError, IndexError) as error:
        raise SteeringError(f"{path} holds no usable {kind.__name__} ({str(error)[:KEPT]}); fit it again") from error
    return steering


def _fits(value: Any, annotation: Any) -> bool:
    options = get_args(annotation) if type(None) in get_args(annotation) else (annotation,)
    if isinstance(value, Tensor):
        is_whole = not value.is_floating_point() or bool(value.isfinite().all())
        return is_whole and any(isinstance(option, type) and isinstance(value, option) for option in options)
    try:
        adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False))
        adapter.validate_python(value, strict=True)
    except ValidationError:
        return False
    return True
