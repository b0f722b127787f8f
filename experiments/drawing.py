"""A heat map as an SVG file, drawn here so that a page can show it without any library."""

from collections.abc import Sequence
from html import escape

import numpy as np

CELL, LEFT, TOP = 22, 96, 96


def heat_map(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], *, title: str) -> str:
    """Rows by columns, white at 0, red above and blue below; the largest magnitude has full colour and is named."""
    largest = float(np.abs(values).max()) or 1.0
    width, height = LEFT + CELL * len(columns) + 20, TOP + CELL * len(rows) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{max(width, 460)}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="100%" height="100%" fill="white"/><text x="8" y="18" font-size="13">{escape(title)}</text>',
    ]
    for row, name in enumerate(rows):
        y = TOP + CELL * row
        parts.append(f'<text x="{LEFT - 6}" y="{y + 15}" text-anchor="end">{escape(name)}</text>')
        for column, value in enumerate(values[row]):
            label = escape(f"{name}, {columns[column].strip() or columns[column]}: {value:.3f}")
            parts.append(
                f'<rect x="{LEFT + CELL * column}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" '
                f'fill="{_colour(float(value) / largest)}" stroke="#ddd"><title>{label}</title></rect>'
            )
    for column, name in enumerate(columns):
        x = LEFT + CELL * column + 14
        parts.append(f'<text transform="translate({x},{TOP - 6}) rotate(-55)">{escape(name.strip())}</text>')
    parts.append(f'<text x="{LEFT}" y="{height - 12}">full colour: {largest:.2f} in magnitude</text></svg>')
    return "\n".join(parts) + "\n"


def _colour(share: float) -> str:
    """From blue (-1) over white to red (+1)."""
    fade = round(255 * (1 - min(1.0, abs(share))))
    return f"rgb(255,{fade},{fade})" if share >= 0 else f"rgb({fade},{fade},255)"
