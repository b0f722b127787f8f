"""The nouns of the workbench: frozen values that flow between its parts, checked when they are made.

Nothing here knows a model, a file format of somebody else, or a figure. Arrays are NumPy on the analysis side and torch
on the model side. Everybody imports from here; the modules below group what belongs together.
"""

from workbench.records.dimensions import (
    ENDS,
    SELECTIONS,
    VERDICTS,
    Detector,
    Dimension,
    End,
    LabelScore,
    Selection,
    TokenContext,
    Verdict,
    VerdictName,
)
from workbench.records.effects import BudgetKind, Comparison, Contrast, Damage, Outcome, StrengthCurve
from workbench.records.files import RecordError, read_json, replacing, to_plain, write_json, write_whole
from workbench.records.masking import (
    MASK_MODES,
    TOKEN_SETS,
    ChoiceItem,
    ChoiceMasking,
    MaskingResult,
    MaskMode,
    TokenSet,
)
from workbench.records.saving import FORMAT_VERSION, load_record, load_table, save_record, save_table
from workbench.records.stability import BasisScore, ConditionStability, ReadingAgreement, SelectionStability
from workbench.records.statistics import Activations, DimensionStatistics, PooledRows, TokenColumns, TopTokens
from workbench.records.text import SPLITS, Pair, Prompt, Site, SiteKind, Split, Tokens

__all__ = [
    "ENDS",
    "FORMAT_VERSION",
    "MASK_MODES",
    "SELECTIONS",
    "SPLITS",
    "TOKEN_SETS",
    "VERDICTS",
    "Activations",
    "BasisScore",
    "BudgetKind",
    "ChoiceItem",
    "ChoiceMasking",
    "Comparison",
    "ConditionStability",
    "Contrast",
    "Damage",
    "Detector",
    "Dimension",
    "DimensionStatistics",
    "End",
    "LabelScore",
    "MaskMode",
    "MaskingResult",
    "Outcome",
    "Pair",
    "PooledRows",
    "Prompt",
    "ReadingAgreement",
    "RecordError",
    "Selection",
    "SelectionStability",
    "Site",
    "SiteKind",
    "Split",
    "StrengthCurve",
    "TokenColumns",
    "TokenContext",
    "TokenSet",
    "Tokens",
    "TopTokens",
    "Verdict",
    "VerdictName",
    "load_record",
    "load_table",
    "read_json",
    "replacing",
    "save_record",
    "save_table",
    "to_plain",
    "write_json",
    "write_whole",
]
