"""Specifications, settings and plans: every numeric field refuses what is no number of its range, in one line."""

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import TypeAdapter

from workbench.comparison.spec import (
    BudgetSpec,
    MaskingSpec,
    ModelShape,
    ModelSpec,
    SizeSpec,
    Spec,
    SpecError,
    TaskSpec,
)
from workbench.masking.tables import CriticalityPlan
from workbench.schema import from_plain
from workbench.study.settings import Settings

REQUIRED: dict[Any, dict[str, Any]] = {
    Spec: {"name": "mine", "methods": ("cds",), "tasks": (TaskSpec("refusal"),)},
    MaskingSpec: {"name": "mine", "data": "exam.jsonl"},
    CriticalityPlan: {"name": "mine"},
    ModelShape: dict.fromkeys(list(ModelShape.__dataclass_fields__)[:-1], 1),
    ModelSpec: {},
    BudgetSpec: {},
    SizeSpec: {},
    Settings: {},
}


def numeric_fields(kind: Any) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Name, schema of the number, and whether it stands in a list, for every numeric field of a kind."""
    schema = TypeAdapter(kind).json_schema()
    for name, field in schema["properties"].items():
        for option in (field, *field.get("anyOf", ())):
            number = option.get("items", {}) if option.get("type") == "array" else option
            if number.get("type") in ("number", "integer"):
                yield name, number, option is not number


FIELDS = [
    pytest.param(kind, name, number, is_list, id=f"{kind.__name__}.{name}")
    for kind in REQUIRED
    for name, number, is_list in numeric_fields(kind)
]


def test_the_fields_are_found() -> None:
    assert len(FIELDS) > 45
    assert {"BudgetSpec.at_kl", "BudgetSpec.kl", "CriticalityPlan.n_identify", "Settings.k"} <= {
        one.id for one in FIELDS
    }


@pytest.mark.parametrize(("kind", "name", "number", "is_list"), FIELDS)
def test_every_numeric_field_refuses_what_it_cannot_mean(
    kind: Any, name: str, number: dict[str, Any], is_list: bool
) -> None:
    smallest = number.get("minimum", number.get("exclusiveMinimum"))
    assert smallest is not None, f"{name} has no lower bound"
    below = smallest if "exclusiveMinimum" in number else smallest - 1
    for value in (math.nan, math.inf, -math.inf, below, -1, "8", True, *([1.5] if number["type"] == "integer" else [])):
        if isinstance(value, float) and number["type"] == "number" and math.isfinite(value) and value > smallest:
            continue
        with pytest.raises(ValueError, match=rf"^{name}(\[0\])? = .* should be") as caught:
            kind(**(REQUIRED[kind] | {name: (value,) if is_list else value}))
        assert "\n" not in str(caught.value)


def test_a_nan_in_a_file_is_refused_with_file_section_and_key() -> None:
    content = {"name": "mine", "methods": ["cds"], "tasks": [{"kind": "refusal"}], "budgets": {"kl_limit": math.nan}}
    with pytest.raises(SpecError, match=r"^mine.toml \[budgets\]: kl_limit = nan should be a finite number$"):
        from_plain(Spec, content, "mine.toml", SpecError)


def test_a_file_gives_the_value_that_python_gives() -> None:
    plain = json.loads(TypeAdapter(SizeSpec).dump_json(SizeSpec(layers=(1, 2), curves=False)))
    assert from_plain(SizeSpec, plain, "sizes.json") == SizeSpec(layers=(1, 2), curves=False)
    assert from_plain(BudgetSpec, {"kl": [1]}, "budgets.json").kl == (1.0,)
