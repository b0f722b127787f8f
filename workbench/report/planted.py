"""The section of the report that a planted model has besides: what was planted, and what was found of it."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from workbench.figures import table_html
from workbench.records.tables import read_csv
from workbench.report.material import Material, paragraph


def planted(material: Material) -> str:
    """By role: how often each way of selecting finds it, where masking ranks it, and how it is judged."""
    path = material.folder / "tables" / "planted.csv"
    if not path.is_file():
        return ""
    rows = read_csv(path).to_dict("records")
    roles: dict[str, list[Mapping[Hashable, Any]]] = {}
    for row in rows:
        roles.setdefault(str(row["role"]), []).append(row)
    heads = ("role", "planted", "by magnitude", "by discrimination", "median rank by masking", "verdicts")
    table = table_html(heads, [_row(role, own) for role, own in roles.items()], label="Planted dimensions by role")
    return (
        paragraph(
            "The weights of this model were written by hand, so that the right answers are known: detectors fire on "
            "words of one domain and are needed, inert ones fire but nothing reads them, quiet ones are tiny but "
            "needed, those everywhere and sinks are large whatever the domain."
        )
        + table
    )


def _row(role: str, own: Sequence[Mapping[Hashable, Any]]) -> tuple[str, ...]:
    verdicts = Counter(str(row["verdict"]) or "not judged" for row in own)
    return (
        role,
        str(len(own)),
        f"{np.mean([row['magnitude'] for row in own]):.0%}",
        f"{np.mean([row['discrimination'] for row in own]):.0%}",
        f"{np.median([row['rank'] for row in own]):.0f}",
        ", ".join(f"{name} {count}" for name, count in verdicts.most_common()),
    )
