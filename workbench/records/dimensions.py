"""Dimensions that were selected, and what they are said to detect."""

from dataclasses import dataclass
from typing import Literal, get_args

End = Literal["high", "low"]
ENDS: tuple[End, ...] = get_args(End)
Selection = Literal["magnitude", "discrimination", "both"]
SELECTIONS: tuple[Selection, ...] = get_args(Selection)
DISCRIMINATION_GAP = 0.30  # a dimension is discriminative if its frequency exceeds the mean of the others by more
OFTEN = 0.5  # and large in a domain if it is active in at least this fraction of the domain's prompts
UNLABELLED = "unlabelled"  # the label of a detector where no token class passed
LEVEL = 0.05  # significance level of every verdict, label and rank


@dataclass(frozen=True)
class Dimension:
    """A domain-critical dimension (DCD) with the evidence it was selected on; magnitudes in activation units.

    `frequency` is the share of the domain's prompts in which it is active, `frequency_elsewhere` the mean of that share
    over the other domains. `reach` says whether it is large in every domain, in this one, or in some.
    """

    domain: str
    dimension: int
    rank: int
    selection: Selection
    magnitude: float
    magnitude_elsewhere: float
    frequency: float
    frequency_elsewhere: float
    reach: Literal["every domain", "this domain", "some domains", "no domain"]


@dataclass(frozen=True)
class TokenContext:
    """A token that fires a dimension, with the text around it and its address."""

    token: str
    before: str
    after: str
    value: float
    prompt: str
    position: int


@dataclass(frozen=True)
class Detector:
    """A dimension read as a detector of a token class at one layer and one end.

    `auroc` separates tokens of the class from other tokens of the same domain by activation on held-out documents;
    `low` and `high` bound it (95 % document bootstrap). `label` is "unlabelled" where no class passed; the score is
    then NaN.
    """

    domain: str
    layer: int
    dimension: int
    end: End
    label: str
    auroc: float
    low: float
    high: float
    n_tokens: int
    top_tokens: tuple[TokenContext, ...]
    promoted: tuple[str, ...]
    suppressed: tuple[str, ...]


@dataclass(frozen=True)
class LabelScore:
    """A label chosen on *identify* and tested twice on *test*, both as AUROC of the activation (0.5 by luck).

    `within`: tokens of the class against other tokens of the domain. `across`: tokens of the class inside the domain
    against tokens of the class outside it. Intervals are 95 % bootstraps of passages, p-values are one-sided from
    permuted passages; NaN where a side has too few tokens. `quality` is the score on *identify*.
    """

    domain: str
    dimension: int
    layer: int
    end: End
    label: str
    is_dcd: bool
    quality: float
    within: float
    within_low: float
    within_high: float
    within_p: float
    across: float
    across_low: float
    across_high: float
    across_p: float
    n_inside: int
    n_outside: int


VerdictName = Literal["sink", "detector", "both", "neither"]
VERDICTS: tuple[VerdictName, ...] = get_args(VerdictName)


@dataclass(frozen=True)
class Rule:
    """The thresholds of a verdict (fractions), and which massive criterion a sink must meet."""

    min_share: float = 0.9
    min_constancy: float = 0.5
    min_auroc: float = 0.75
    max_control_share: float = 0.05
    criterion: str = "3-sigma"


@dataclass(frozen=True)
class Verdict:
    """Whether one dimension is an attention sink, a detector of a domain, both or neither, with the evidence.

    `domain` is the one it was selected for, or the one it tells apart best. `massive` names the criteria that call it
    massive. Shares are of the magnitude over the three position classes, each counted once; `constancy` is 1 minus the
    coefficient of variation, over passages, of the magnitude at its largest position class (fractions). `auroc` tells
    passages of the domain from others on *test*, at `layer` (-1: mean over layers) by `reading`; `low` and `high` bound
    it (95 % bootstrap of passages), and `control_share` is the share of dimensions that are not judged, read in the
    same way, that reach it (NaN where there are none). Costs are the loss increase in the domain under masking to zero
    and to the mean of the position class, nats per token; NaN where it was not measured. `rule`: judged by it.
    """

    domain: str
    dimension: int
    verdict: VerdictName
    is_dcd: bool
    massive: tuple[str, ...]
    share_first: float
    share_delimiter: float
    constancy: float
    layer: int
    reading: Literal["magnitude", "high", "low"]
    auroc: float
    low: float
    high: float
    control_share: float
    n_passages: int
    cost_zero: float
    cost_mean: float
    label: str
    note: str
    rule: Rule
