"""Rows and columns of a tidy table, as the figures read them."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64


def where(table: pd.DataFrame, column: str, value: object) -> pd.DataFrame:
    """The rows with one value in one column."""
    return pd.DataFrame(table.loc[table[column] == value])


def floats(table: pd.DataFrame, column: str) -> Float64[np.ndarray, "row"]:
    """One column as numbers."""
    return np.asarray(table[column], dtype=np.float64)


def row_list(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as plain dictionaries."""
    return [dict(zip(table.columns, row, strict=True)) for row in table.itertuples(index=False)]
