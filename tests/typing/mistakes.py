# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""Mistakes that a type checker has to see; one that it no longer sees makes its comment unnecessary, then an error."""

import workbench as wb
from workbench.records import DimensionStatistics, PooledRows


def misspelt(model: wb.HookedModel) -> None:
    wb.find_dcd  # pyright: ignore  # noqa: B018
    wb.load_modl("builtin")  # pyright: ignore
    model.genrate("text", max_new_tokens=3)  # pyright: ignore
    model.to_tokens("text")  # pyright: ignore


def of_the_wrong_type(model: wb.HookedModel, rows: PooledRows, statistics: DimensionStatistics) -> None:
    wb.find_dcds(rows, k="8")  # pyright: ignore[reportArgumentType]
    wb.find_dcds(statistics)  # pyright: ignore[reportArgumentType]
    wb.find_dcds(rows, selection="best")  # pyright: ignore[reportArgumentType]
    wb.find_dcds(rows, n=8)  # pyright: ignore[reportCallIssue]
    model.generate("text", max_new_tokens="30")  # pyright: ignore
    text: int = model.generate("text", max_new_tokens=30)  # pyright: ignore[reportAssignmentType]
    print(text)
