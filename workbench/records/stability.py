"""How far a selection holds under resampling, other conditions, other readings and other bases."""

from dataclasses import dataclass

from workbench.records.dimensions import Selection


@dataclass(frozen=True)
class SelectionStability:
    """How sure the selection of one dimension for a domain is.

    `frequency` is the share of bootstrap resamples of passages in which it is among the top k, `rank_low` and
    `rank_high` bound its rank there (95 %; d_model + 1 where it was not selectable). `p_value` is that of its magnitude
    in the domain against the others under permuted domain labels, adjusted over all domains and dimensions.
    """

    domain: str
    dimension: int
    rank: int
    selection: Selection
    frequency: float
    rank_low: int
    rank_high: int
    p_value: float
    n_resamples: int


@dataclass(frozen=True)
class ConditionStability:
    """How far the top k of one domain stays the same under another condition, such as "split halves" or "bfloat16".

    `jaccard` is the mean shared share of the sets and `spearman` that of the rank correlation of magnitudes over `n`
    repetitions; `low` and `high` hold the central 95 % of the shared share (NaN where n is 1).
    """

    condition: str
    domain: str
    k: int
    jaccard: float
    low: float
    high: float
    spearman: float
    n: int


@dataclass(frozen=True)
class ReadingAgreement:
    """Shared share (Jaccard) of the top k of one domain under two readings of the rule; NaN where both are empty."""

    domain: str
    first: str
    second: str
    k: int
    jaccard: float


@dataclass(frozen=True)
class BasisScore:
    """One measure of one domain in one basis of the residual stream: "coordinate", or "rotation 0", "rotation 1" ..."""

    basis: str
    domain: str
    measure: str
    value: float
