"""Which residual dimensions are critical for a domain: mergeable statistics and the criteria that select dimensions.

Nothing here runs a model; everything is computed from activations or pooled rows that are handed in.
"""

from workbench.dimensions.criteria import DomainProfiles, dcd_frame, domain_profiles, find_dcds, frequency_table
from workbench.dimensions.statistics import (
    POOLINGS,
    PromptReductions,
    StatisticsFold,
    active_dimensions,
    merge,
    pool,
    reduce_prompts,
)

__all__ = [
    "POOLINGS",
    "DomainProfiles",
    "PromptReductions",
    "StatisticsFold",
    "active_dimensions",
    "dcd_frame",
    "domain_profiles",
    "find_dcds",
    "frequency_table",
    "merge",
    "pool",
    "reduce_prompts",
]
