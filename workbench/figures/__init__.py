"""Records as Plotly figures, as HTML and as sentences; never a model.

Each figure function takes one record and returns one `go.Figure` with titles and units; nothing is shown, saved or set
globally. Show one in a notebook with `figure.show(config=CONFIG)`.
"""

from plotly.graph_objects import Figure

from workbench.figures.captions import (
    dcd_caption,
    detector_caption,
    difference_caption,
    effect_caption,
    first_position_caption,
    forest_caption,
    frequency_caption,
    magnitude_caption,
    profile_caption,
)
from workbench.figures.detectors import best_per_domain, contexts_html, detector_figure, is_scored, token_words
from workbench.figures.dimensions import dcd_figure
from workbench.figures.effects import (
    against_unsteered,
    arm_name,
    between_arms,
    difference_figure,
    effect_figure,
    forest_figure,
    reading,
)
from workbench.figures.export import Drawing, export_figures, export_obstacle, figure_frame
from workbench.figures.frequencies import frequency_figure
from workbench.figures.journal import PRESETS, journal_figure
from workbench.figures.magnitudes import first_position_figure, magnitude_figure, profile_figure
from workbench.figures.page import (
    CONFIG,
    Section,
    definitions_html,
    figure_fragment,
    table_html,
    write_figure,
    write_page,
)
from workbench.figures.tokens import token_figure
from workbench.figures.verdicts import (
    agreement_caption,
    agreement_figure,
    basis_caption,
    basis_figure,
    label_curve_caption,
    label_curve_figure,
    rank_caption,
    rank_figure,
    verdict_caption,
    verdict_figure,
)

__all__ = [
    "CONFIG",
    "PRESETS",
    "Drawing",
    "Figure",
    "Section",
    "against_unsteered",
    "agreement_caption",
    "agreement_figure",
    "arm_name",
    "basis_caption",
    "basis_figure",
    "best_per_domain",
    "between_arms",
    "contexts_html",
    "dcd_caption",
    "dcd_figure",
    "definitions_html",
    "detector_caption",
    "detector_figure",
    "difference_caption",
    "difference_figure",
    "effect_caption",
    "effect_figure",
    "export_figures",
    "export_obstacle",
    "figure_fragment",
    "figure_frame",
    "first_position_caption",
    "first_position_figure",
    "forest_caption",
    "forest_figure",
    "frequency_caption",
    "frequency_figure",
    "is_scored",
    "journal_figure",
    "label_curve_caption",
    "label_curve_figure",
    "magnitude_caption",
    "magnitude_figure",
    "profile_caption",
    "profile_figure",
    "rank_caption",
    "rank_figure",
    "reading",
    "table_html",
    "token_figure",
    "token_words",
    "verdict_caption",
    "verdict_figure",
    "write_figure",
    "write_page",
]
