"""The arms of a comparison: cards of methods and controls, fitted at a setting and applied in a scope."""

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.interventions import FitContext, FittingData, MethodCard, Scope, Setting, Steering

OWN_SCOPE = "own"


@dataclass(frozen=True, eq=False)
class Variant:
    """One setting of an arm, fitted: what is tried on *tune*; `scope` is where it acts."""

    setting: str
    steering: Steering
    scope: Scope


def fit_arm(card: MethodCard, context: FitContext, setting: Setting, scope: str = OWN_SCOPE) -> Variant:
    """One arm at one setting, as `workbench fit` fits it; raises `NotApplicable` where the data do not allow it."""
    return Variant(setting.name, card.fit(context, setting), scope_of(card, scope))


def scope_of(card: MethodCard, scope: str) -> Scope:
    """The scope of a specification, the same for every arm but those whose vectors belong to positions of the prompt.

    "own" leaves every method its own.
    """
    if card.is_positional or scope == OWN_SCOPE:
        return card.scope
    return Scope(scope)  # pyright: ignore[reportArgumentType]


def unmet(card: MethodCard, data: FittingData, *, has_instruction: bool, lengths: Sequence[int]) -> str:
    """Why an arm cannot be run on this data, in words; "" if it can.

    `has_instruction`: the task has a prompt-only instruction. `lengths` are the token counts of the items to be scored:
    methods learned per position fit only where all are equal.
    """
    if card.needs == "instruction":
        return "" if has_instruction else "the task has no prompt-only instruction"
    lacking = card.lacking(data)
    if not lacking and card.needs_one_length and len(set(lengths)) > 1:
        return f"it is tied to positions, and the items have {min(lengths)} to {max(lengths)} tokens"
    return lacking
