"""What a measurement of steering arms leaves behind, before intervals are put on it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from workbench.comparison.arms import Arm
from workbench.comparison.budgets import Budget
from workbench.interventions import Steering
from workbench.tasks.judges import ClassifierReport

LOSS = "domain loss"  # nats per token; lower is better
SHARE = "domain share"  # fraction of generations; higher is better


@dataclass(frozen=True, eq=False)
class Candidate:
    """An arm at one layer, with the strength from which the search for its budget starts."""

    arm: Arm
    layer: int
    steering: Steering
    guess: float


@dataclass(frozen=True, eq=False)
class Trial:
    """A candidate with the strength that was found for one level of KL, or the sign that none was."""

    candidate: Candidate
    budget: Budget


@dataclass(frozen=True, eq=False)
class ArmResult:
    """One arm at one level: the layer and strength it was given, and its differences to the unsteered model.

    `differences[metric]` holds one value per test passage (LOSS, nats per token) or prompt (SHARE, fraction); it is
    empty where the arm could not be run, and `note` says why. Several draws are averaged: then `strength` and `kl` are
    means and `layer` is the most frequent one. Where nothing was run `layer` is -1.
    """

    arm: Arm
    level: float
    layer: int
    strength: float
    kl: float
    reached: bool
    note: str
    differences: Mapping[str, Float64[np.ndarray, "pair"]]


@dataclass(frozen=True)
class Measurement:
    """All arms of all domains at all levels, and how far the classifier behind the domain share can be trusted."""

    results: tuple[ArmResult, ...]
    classifier: ClassifierReport


Measured = Mapping[tuple[str | int, ...], tuple[Trial, Mapping[str, Float64[np.ndarray, "pair"]]]]


def arm_results(arms: Sequence[Arm], level: float, trials: Sequence[Trial], measured: Measured) -> list[ArmResult]:
    """One result per method and selection, in the order of the arms; draws of the same method are averaged.

    `measured` is by `Arm.edit`, since arms with the same edit were measured once.
    """
    groups: dict[tuple[str, str], list[Arm]] = {}
    for arm in arms:
        groups.setdefault((arm.method, arm.selection), []).append(arm)
    return [_arm_result(members, level, trials, measured) for members in groups.values()]


def _arm_result(members: Sequence[Arm], level: float, trials: Sequence[Trial], measured: Measured) -> ArmResult:
    own = [trial for arm in members for trial in trials if trial.candidate.arm.edit == arm.edit]
    ran = [measured[arm.edit] for arm in members if arm.edit in measured]
    if not own:
        note = "the selection is empty, so there is no arm"
        return ArmResult(members[0], level, -1, np.nan, np.nan, False, note, {})
    notes = _notes(members, own, [trial for trial, _ in ran])
    if not ran:
        nearest = min(own, key=lambda trial: abs(trial.budget.kl - level)).budget
        notes.append(nearest.problem)
        return ArmResult(members[0], level, -1, nearest.strength, nearest.kl, False, "; ".join(notes), {})
    layers = Counter(trial.candidate.layer for trial, _ in ran)
    return ArmResult(
        members[0],
        level,
        layer=layers.most_common(1)[0][0],
        strength=float(np.mean([trial.budget.strength for trial, _ in ran])),
        kl=float(np.mean([trial.budget.kl for trial, _ in ran])),
        reached=True,
        note="; ".join(notes),
        differences={metric: np.mean([differences[metric] for _, differences in ran], axis=0) for metric in ran[0][1]},
    )


def _notes(members: Sequence[Arm], own: Sequence[Trial], ran: Sequence[Trial]) -> list[str]:
    """What a reader must know: draws averaged, layers out of reach, budgets that several strengths may fit."""
    notes = []
    if len(members) > 1:
        layers = ", ".join(str(trial.candidate.layer) for trial in ran)
        notes.append(f"mean of {len(ran)} of {len(members)} draws" + (f", at layers {layers}" if ran else ""))
    failed = sorted({trial.candidate.layer for trial in own if not trial.budget.reached})
    if failed:
        notes.append(f"level not reached at layer(s) {', '.join(map(str, failed))}")
    if any(not trial.budget.monotone for trial in ran):
        notes.append("KL is not monotone in the strength")
    return notes
