"""Settings, specifications and plans whose fields are checked by their types (pydantic), in Python and from a file.

`checked` makes a frozen dataclass. Nothing is coerced but whole numbers where floats are meant: a text is no number,
True is no count, and NaN and infinity are refused everywhere. What is wrong is one line that names the key.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import PydanticCustomError

LARGEST_SEED = 2**32 - 1  # as in models


def _distinct(items: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = [item for item in items if items.count(item) > 1]
    if twice:
        raise PydanticCustomError("twice", "has {item} twice; list it once", {"item": repr(twice[0])})
    return items


Distinct = AfterValidator(_distinct)  # of tuples
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]  # also of counts that may be none
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Several = Annotated[int, Field(ge=2)]  # one passage, item or text gives no interval
Name = Annotated[str, Field(min_length=1)]

T = TypeVar("T")
WORDS = {  # of pydantic, and what a TOML file calls it
    "valid array": "list",
    "valid tuple": "tuple",
    "an object": "a table of keys",
    "a valid dictionary or an instance": "a table of keys, or an instance",
    "valid integer": "whole number",
    "valid boolean": "truth value",
    "valid string": "text",
}


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def checked(error: type[ValueError] = ValueError) -> Callable[[type[T]], type[T]]:
    """A frozen dataclass that raises `error` where a value is not of the type and range of its field."""

    def decorate(kind: type[T]) -> type[T]:
        config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
        made: Any = pydantic_dataclass(frozen=True, config=config)(kind)
        validate = made.__init__

        @functools.wraps(validate)
        def construct(self: Any, *arguments: Any, **options: Any) -> None:
            try:
                validate(self, *arguments, **options)
            except ValidationError as refused:
                raise error(_explain(refused, made, "")) from None

        made.__init__ = construct
        return made

    return decorate


def from_plain(kind: type[T], values: Mapping[str, Any], origin: str, error: type[ValueError] = ValueError) -> T:
    """A checked value from tables and lists, as a TOML or JSON file has them; errors begin with `origin`."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(values, default=str))
    except ValidationError as refused:
        raise error(_explain(refused, kind, origin)) from None


def _explain(refused: ValidationError, kind: type, origin: str) -> str:
    """The first mistake in one line: where it is, the key, the value, and what is expected."""
    found = refused.errors(include_url=False)
    first = next((item for item in found if item["type"].startswith("unexpected")), found[0])
    path = _names(kind, first["loc"])
    section = "".join(f" [{part}]" for part in [".".join(path[:-1])] if part)
    where, key = f"{origin}{section}".strip(), path[-1] if path else ""
    where = f"{where}: " if where else ""
    if first["type"] == "value_error":  # from a check of ours, which names its keys
        return f"{where}{first['ctx']['error']}"  # pyright: ignore[reportTypedDictNotRequiredAccess]
    if first["type"] in ("missing", "missing_argument"):
        return f"{where}{key!r} is missing"
    if first["type"] in ("unexpected_keyword_argument", "unexpected_positional_argument"):
        known = ", ".join(field.name for field in dataclasses.fields(_owner(kind, first["loc"])))
        return f"{where}unknown key {key!r}; known keys are {known}"
    if first["type"] == "twice":
        return f"{where}{key} {first['msg']}"
    shown = f"{where}{key} = {first['input']!r}"
    if first["type"] == "too_short":
        return f"{shown} should not be empty"
    expected = first["msg"].removeprefix("Input ")
    for theirs, ours in WORDS.items():
        expected = expected.replace(theirs, ours)
    return f"{shown} {expected}"


def _names(kind: type, location: tuple[int | str, ...]) -> list[str]:
    """The keys on the way to a mistake; a place in a list stands at its key, positional arguments get their names."""
    names: list[str] = []
    for part in location:
        if isinstance(part, str):
            names.append(part)
        elif names:
            names[-1] += f"[{part}]"
        else:
            names.append(dataclasses.fields(kind)[part].name if part < len(dataclasses.fields(kind)) else str(part))
    return names


def _owner(kind: Any, location: tuple[int | str, ...]) -> Any:
    """The dataclass that holds the last key of a location."""
    for part in location[:-1]:
        if isinstance(part, str):
            kind = _dataclass_in({field.name: field.type for field in dataclasses.fields(kind)}[part])
    return kind


def _dataclass_in(annotation: Any) -> Any:
    if dataclasses.is_dataclass(annotation):
        return annotation
    return next((found for part in get_args(annotation) if (found := _dataclass_in(part)) is not None), None)
