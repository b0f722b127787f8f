"""Which residual dimensions are critical for a domain: mergeable statistics and the criteria that select dimensions.

Nothing here runs a model; everything is computed from activations or pooled rows that are handed in.
"""

from workbench.dimensions.criteria import DomainProfiles, dcd_frame, domain_profiles, find_dcds, frequency_table
from workbench.dimensions.massive import CRITERIA, MassiveCriterion, massive_dimensions
from workbench.dimensions.readings import READINGS, Reading, agreement_matrix, reading_agreement, reading_sets
from workbench.dimensions.stability import (
    condition_stability,
    selection_stability,
    split_half_stability,
    stability_summary,
)
from workbench.dimensions.statistics import (
    POOLINGS,
    PromptReductions,
    StatisticsFold,
    active_dimensions,
    join_rows,
    merge,
    pool,
    reduce_prompts,
    shift_prompts,
)
from workbench.dimensions.verdicts import Rule, detector_share, find_verdicts, verdict_frame, verdict_summary

__all__ = [
    "CRITERIA",
    "POOLINGS",
    "READINGS",
    "DomainProfiles",
    "MassiveCriterion",
    "PromptReductions",
    "Reading",
    "Rule",
    "StatisticsFold",
    "active_dimensions",
    "agreement_matrix",
    "condition_stability",
    "dcd_frame",
    "detector_share",
    "domain_profiles",
    "find_dcds",
    "find_verdicts",
    "frequency_table",
    "join_rows",
    "massive_dimensions",
    "merge",
    "pool",
    "reading_agreement",
    "reading_sets",
    "reduce_prompts",
    "selection_stability",
    "shift_prompts",
    "split_half_stability",
    "stability_summary",
    "verdict_frame",
    "verdict_summary",
]
