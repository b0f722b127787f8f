"""Results as JSON, and as the section of a page that stands between two marks."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.models import HookedModel
from workbench.records import to_plain
from workbench.statistics import Interval

DOCS = Path(__file__).parent.parent / "docs" / "methods"
BEGIN = "<!-- results: written by `python -m experiments.{}`; do not edit below -->"
END = "<!-- end of results -->"


def write_results(name: str, model: HookedModel, results: Mapping[str, Any], *, docs: Path = DOCS) -> Path:
    """Write the numbers of one experiment with the model they belong to."""
    path = docs / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"command": f"python -m experiments.{name}", "model": model.name, "fingerprint": model.fingerprint}
    path.write_text(json.dumps(_finite(to_plain({**header, **results})), indent=1) + "\n", encoding="utf-8")
    return path


def write_section(
    page: str, name: str, text: str, model: HookedModel, *, docs: Path = DOCS, results: str = "results"
) -> Path:
    """Replace what stands between the marks of a page, or append it; the page itself must exist.

    `results` is the folder of the numbers, as seen from the page.
    """
    path = docs / f"{page}.md"
    before, _, rest = path.read_text(encoding="utf-8").partition("<!-- results:")
    after = rest.partition(END)[2]
    source = (
        f"On the {model.name} model (fingerprint `{model.fingerprint[:12]}`), test split. Brackets are 95 % intervals. "
        f"Numbers: [`{results}/{name}.json`]({results}/{name}.json)."
    )
    lines = [before.rstrip(), "", BEGIN.format(name), "", "## Results", "", source, "", text.strip(), "", END]
    path.write_text("\n".join(lines) + after.rstrip() + "\n", encoding="utf-8")
    return path


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def shown(interval: Interval | Mapping[str, Any], decimals: int = 2, *, signed: bool = False) -> str:
    """`0.12 [0.03, 0.21]`."""
    values = to_plain(interval)
    sign = "+" if signed else ""
    mean, low, high = (f"{values[key]:{sign}.{decimals}f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def verdict(interval: Interval, *, higher_is_better: bool = True, noun: str = "difference") -> str:
    """In words what an interval of a difference shows."""
    if interval.low == interval.high == 0:
        return f"no {noun} in any item"
    if interval.covers_zero:
        return f"no {noun} shown (one of {interval.half_width:.2g} could have been)"
    return "better" if (interval.mean > 0) == higher_is_better else "worse"


def _finite(value: Any) -> Any:
    """Plain values with NaN and infinities as null, since JSON has none."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
