"""Every arm of a comparison, methods and controls, by name: what it needs and what it searches.

Each arm gets the same number of settings to choose from on *tune*: methods of one layer search layers; methods that
choose heads or units over all layers search how many, in as many steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from workbench.tasks.base import FittingData

Needs = Literal["texts", "pairs", "dial items", "dial items of one length", "exchanges", "words"]
Search = Literal["layer", "count", "none"]
Fit = Literal["rows", "once", "per setting", "dial"]
MIN_TEXTS = 4
MIN_PAIRS = 8


@dataclass(frozen=True)
class ArmKind:
    """An arm by name: `needs` names the fitting data it reads, `search` what is tried on *tune*.

    `takes_count`: the number of coordinates or units can be set, so that it can be run at a budget of coordinates.
    `is_drawn`: it depends on a random draw, several of which are averaged. `fit` says what fitting costs: nothing
    beyond the rows that all share, a pass over the texts, one per setting, or the steps of a dial.
    """

    name: str
    role: Literal["method", "control"]
    needs: Needs
    search: Search
    takes_count: bool = False
    is_drawn: bool = False
    fit: Fit = "rows"


METHOD_KINDS: tuple[ArmKind, ...] = (
    ArmKind("cds", "method", "texts", "layer", takes_count=True),
    ArmKind("cds-discrimination", "method", "texts", "layer", takes_count=True),
    ArmKind("cds-both", "method", "texts", "layer", takes_count=True),
    ArmKind("whole-dimension", "method", "texts", "layer"),
    ArmKind("austeer", "method", "pairs", "layer", takes_count=True, fit="per setting"),
    ArmKind("actadd", "method", "pairs", "layer", fit="per setting"),
    ArmKind("ablation", "method", "texts", "layer"),
    ArmKind("iti", "method", "pairs", "count", fit="once"),
    ArmKind("sadi", "method", "pairs", "count", fit="per setting"),
    ArmKind("style-heads", "method", "exchanges", "layer", fit="once"),
    ArmKind("activation-scaling", "method", "dial items of one length", "layer", fit="dial"),
    ArmKind("steer-vec", "method", "dial items of one length", "layer", fit="dial"),
    ArmKind("dyn-scalar", "method", "dial items", "layer", fit="dial"),
)
CONTROL_KINDS: tuple[ArmKind, ...] = (
    ArmKind("unsteered", "control", "texts", "none"),
    ArmKind("prompt-only", "control", "words", "none"),
    ArmKind("random-k", "control", "texts", "layer", takes_count=True, is_drawn=True),
    ArmKind("complement", "control", "texts", "layer"),
    ArmKind("top-k", "control", "texts", "layer", takes_count=True),
    ArmKind("noise", "control", "texts", "layer", is_drawn=True),
    ArmKind("shuffled", "control", "texts", "layer", is_drawn=True),
)
ARM_KINDS: dict[str, ArmKind] = {kind.name: kind for kind in (*METHOD_KINDS, *CONTROL_KINDS)}
UNSTEERED, PROMPT_ONLY = "unsteered", "prompt-only"


def unmet(kind: ArmKind, data: FittingData, *, has_words: bool, lengths: Sequence[int]) -> str:
    """Why an arm cannot be fitted on this data, in words; "" if it can.

    `has_words`: the task can put its wish into the prompt. `lengths` are the token counts of the items to be scored:
    methods tied to positions fit only where all are equal.
    """
    match kind.needs:
        case "words":
            return "" if has_words else "the task has no words for its wish"
        case "texts":
            least = min(len(data.positive), len(data.negative))
            return "" if least >= MIN_TEXTS else f"the task has {least} contrasting texts to fit on"
        case "pairs":
            n_pairs = len(data.pairs)
            return "" if n_pairs >= MIN_PAIRS else f"the task has {n_pairs or 'no'} contrast pairs to fit on"
        case "exchanges":
            least = min(len(data.positive_exchanges), len(data.negative_exchanges))
            return "" if least >= MIN_TEXTS else "the task has no exchanges of prompt and response of both kinds"
    if len(data.dial_items) < MIN_TEXTS:
        return "the task has no prompts with two answers of one token each"
    if kind.needs == "dial items of one length" and len(set(lengths)) > 1:
        return f"it is tied to positions, and the items have {min(lengths)} to {max(lengths)} tokens"
    return ""


def settings_of(kind: ArmKind, layers: Sequence[int], k: int, n_heads_in_all: int) -> tuple[str, ...]:
    """The names of what an arm tries, known before anything is fitted; as many for every arm that searches."""
    if kind.search == "none":
        return ("-",)
    if kind.search == "layer":
        return tuple(f"layer {layer}" for layer in layers)
    return tuple(f"k {count}" for count in counts_of(kind.name, len(layers), k, n_heads_in_all))


def counts_of(name: str, n: int, k: int, n_heads_in_all: int) -> tuple[int, ...]:
    """`n` different numbers of heads (iti) or coordinates (sadi): k and its halves and doubles, as far as they go."""
    largest = n_heads_in_all if name == "iti" else 64 * k
    middle = max(1, n_heads_in_all // 6) if name == "iti" else k
    ladder = sorted({max(1, min(largest, round(middle * 2.0**step))) for step in range(-n, n + 1)})
    start = max(0, min(ladder.index(min(middle, largest)) - (n - 1) // 2, len(ladder) - n))
    return tuple(ladder[start : start + n])
