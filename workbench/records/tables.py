"""Tables as CSV files: the one writer and the one reader. No cell of text is a formula to a spreadsheet."""

import csv
import re
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.records.files import write_whole

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")  # what a spreadsheet would run; apostrophes before it, to be undone exactly
_QUOTED = re.compile(r"'+[=+\-@\t\r\n]")


def write_csv(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table, complete or not at all; texts that a spreadsheet takes for formulas begin with an apostrophe."""
    safe = _with_texts(table, lambda text: f"'{text}" if _FORMULA.match(text) else text)
    text = safe.to_csv(index=False, lineterminator="\n")
    if "\r" in text:  # which ends a row unless it is quoted
        text = safe.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    write_whole(path, text)


def read_csv(path: str | Path) -> pd.DataFrame:
    """Read what `write_csv` wrote; texts are as they were, and empty cells stay empty texts."""
    table = pd.read_csv(path, keep_default_na=False)
    return _with_texts(table, lambda text: text[1:] if _QUOTED.match(text) else text)


def _with_texts(table: pd.DataFrame, change: Any) -> pd.DataFrame:
    """The table with every text in it changed, in cells and in names of columns; numbers stay as they are."""

    def cell(value: Any) -> Any:
        return change(value) if isinstance(value, str) else value

    columns = {
        index: column if pd.api.types.is_numeric_dtype(column) else column.map(cell)
        for index, (_, column) in enumerate(table.items())
    }
    changed = pd.DataFrame(columns, index=table.index)
    changed.columns = [cell(name) for name in table.columns]
    return changed
