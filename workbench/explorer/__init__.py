"""Layer by dimension map, dimension cards and a strength slider: from a run folder, or straight from a model.

`explore` and `Explorer`, the Jupyter widget, stand in `workbench.explorer.widget` and need the extra `notebook`; cards
need nothing more than the rest of the library.
"""

from workbench.explorer.cards import DimensionCard, dimension_card
from workbench.explorer.drawing import card_html, card_page
from workbench.explorer.material import ExplorerError, Material, from_model, from_run

__all__ = [
    "DimensionCard",
    "ExplorerError",
    "Material",
    "card_html",
    "card_page",
    "dimension_card",
    "from_model",
    "from_run",
]
