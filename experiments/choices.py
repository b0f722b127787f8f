"""AUSteer, SADI and ITI on yes/no questions and two-way choices, with their controls.

Pairs are prompt + right answer against prompt + distractor, of the identify split. Site, mode, number of units and
strength are those of best accuracy on the tune split; of equals the one tried first (fewest units, least strength).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np

from experiments.measures import difference, is_chosen, is_said, kl_measure, kl_of, next_logits, rate
from experiments.pages import DOCS, shown, table, verdict, write_results, write_section
from workbench.behaviours import BehaviourItem, load_behaviours
from workbench.comparison import NeutralText
from workbench.interventions import (
    ITI,
    SADI,
    AUSteer,
    HeadProbes,
    Scope,
    SignScores,
    Steering,
    SteeringError,
    UnitSelection,
    probe_heads,
    select_units,
    sign_consistency,
)
from workbench.models import HookedModel, load_model
from workbench.records import Pair, Site
from workbench.statistics import Interval

TASKS = {"yes/no": "yes_no", "two-way choice": "two_way"}
KS, ALPHAS = (8, 32), (1.0, 3.0, 8.0)
SADI_ELEMENTS: tuple[tuple[Literal["z", "mlp_raw"], int], ...] = (("z", 2), ("z", 6), ("mlp_raw", 8))
N_RANDOM = 3
CEILING = 0.97


@dataclass(frozen=True)
class Setting:
    """One way of steering, in words and as a value."""

    words: str
    steering: Steering
    strength: float
    scope: Scope


@dataclass(frozen=True)
class Arm:
    """What one setting does on the test split; `accuracy` counts the right answer above the distractor."""

    task: str
    method: str
    setting: str
    accuracy: Interval
    change: Interval
    exact_match: Interval
    kl: float


@dataclass(frozen=True)
class Task:
    """The items of one task with what the unsteered model does on the test split."""

    name: str
    tune: list[BehaviourItem]
    test: list[BehaviourItem]
    pairs: list[Pair]
    plain: np.ndarray
    plain_said: np.ndarray

    @property
    def subjects(self) -> list[str]:
        return [item.subject for item in self.test]


def load_task(model: HookedModel, name: str, limit: int | None) -> Task:
    identify, tune, test = (
        load_behaviours("choices", kind=TASKS[name], split=split)[:limit] for split in ("identify", "tune", "test")
    )
    pairs = [Pair(item.prompt + item.answers[0], item.prompt + item.distractors[0]) for item in identify]
    logits = next_logits(model, [item.prompt for item in test])
    return Task(name, tune, test, pairs, is_chosen(model, test, logits), is_said(model, test, logits))


def best(model: HookedModel, task: Task, settings: Sequence[Setting]) -> Setting:
    """The setting of best accuracy on the tune split; of equals the first."""
    prompts = [item.prompt for item in task.tune]
    scores = []
    for setting in settings:
        logits = next_logits(model, prompts, setting.steering, setting.strength, setting.scope)
        scores.append(float(is_chosen(model, task.tune, logits).mean()))
    return settings[int(np.argmax(scores))]


def measure(model: HookedModel, task: Task, method: str, setting: Setting, neutral: NeutralText) -> Arm:
    logits = next_logits(model, [item.prompt for item in task.test], setting.steering, setting.strength, setting.scope)
    chosen = is_chosen(model, task.test, logits)
    return Arm(
        task.name,
        method,
        setting.words,
        rate(chosen, task.subjects),
        difference(chosen, task.plain, task.subjects),
        rate(is_said(model, task.test, logits), task.subjects),
        kl_of(neutral, setting.steering, setting.strength),
    )


# --- the settings of each method --------------------------------------------------------------------------------------


def au_setting(units: UnitSelection, mode: str, k: int, alpha: float) -> Setting:
    steering = AUSteer.from_units(units, "published" if mode == "published" else "momentum_consistent")
    return Setting(f"{units.kind}, {mode}, k = {k}, strength {alpha:g}", steering, alpha, AUSteer.published_scope)


def au_settings(scores: dict[str, SignScores], mode: str) -> list[Setting]:
    return [au_setting(select_units(scores[kind], k), mode, k, alpha) for kind, k, alpha in product(scores, KS, ALPHAS)]


def sadi_settings(model: HookedModel, pairs: Sequence[Pair]) -> list[Setting]:
    settings = []
    for kind, k in SADI_ELEMENTS:
        try:
            steering = SADI.fit(model, pairs, kind=kind, k=k)
        except SteeringError:  # too few positive differences for this k: SADI has no such setting
            continue
        for alpha in ALPHAS:
            settings.append(Setting(f"{kind}, k = {k}, strength {alpha:g}", steering, alpha, SADI.published_scope))
    return settings


def iti_settings(probes: HeadProbes) -> list[Setting]:
    return [
        Setting(f"k = {k}, strength {alpha:g}", ITI.from_probes(probes, k), alpha, ITI.published_scope)
        for k, alpha in product((2, 6), ALPHAS)
    ]


def random_arms(
    model: HookedModel, task: Task, setting: Setting, scores: dict[str, SignScores], neutral: NeutralText
) -> list[Arm]:
    """The chosen setting with units drawn at random (several draws) and with the units of smallest score."""
    steering = setting.steering
    assert isinstance(steering, AUSteer)
    k = int((steering.gain != 0).sum())
    arms = []
    for seed in range(N_RANDOM):
        units = select_units(scores[steering.kind], k, which="random", seed=seed)
        arms.append(
            measure(model, task, "random units", au_setting(units, steering.mode, k, setting.strength), neutral)
        )
    units = select_units(scores[steering.kind], k, which="bottom")
    if units.gains.any():
        arms.append(
            measure(model, task, "bottom units", au_setting(units, steering.mode, k, setting.strength), neutral)
        )
    return arms


# --- the experiment ---------------------------------------------------------------------------------------------------


def run(model: HookedModel, *, quick: bool = False) -> dict[str, Any]:
    neutral = kl_measure(model)
    arms, notes, plain = [], {}, {}
    for name in TASKS:
        task = load_task(model, name, 12 if quick else None)
        plain[name] = {
            "accuracy": rate(task.plain, task.subjects),
            "exact_match": rate(task.plain_said, task.subjects),
            "n_pairs": len(task.pairs),
            "n_test": len(task.test),
        }
        scores = {
            kind: sign_consistency(
                model, task.pairs, [Site(kind, layer) for layer in range(model.n_layers)], n_flips=99
            )
            for kind in ("z", "mlp_raw")
        }
        notes[name] = {kind: score_note(found) for kind, found in scores.items()}
        candidates: dict[str, Callable[[], list[Setting]]] = {
            "AUSteer": lambda scores=scores: au_settings(scores, "published"),
            "AUSteer, momentum-consistent": lambda scores=scores: au_settings(scores, "momentum_consistent"),
            "SADI": lambda task=task: sadi_settings(model, task.pairs),
            "ITI": lambda task=task: iti_settings(probe_heads(model, task.pairs)),
        }
        for method, make in candidates.items():
            settings = make()
            if not settings:
                continue
            setting = best(model, task, settings)
            arms.append(measure(model, task, method, setting, neutral))
            if method == "AUSteer":
                arms += random_arms(model, task, setting, scores, neutral)
    return {"unsteered": plain, "scores": notes, "arms": arms}


def score_note(scores: SignScores) -> dict[str, float]:
    units = select_units(scores, 16, null="flips")
    return {
        "best_score": float(scores.scores.max()),
        "null_threshold": units.null_threshold,
        "above_null_of_16": int(units.is_above_null.sum()),
        "ties_at_16": units.n_ties_at_cut,
        "share_above_zero_of_16": float(units.share_above_zero.mean()),
    }


def section(results: dict[str, Any], own: Sequence[str]) -> str:
    """Table and sentences of the methods named in `own`, all made from the numbers."""
    arms, unsteered = results["arms"], results["unsteered"]
    rows, lines = [], []
    for task, plain in unsteered.items():
        rows.append([task, "unsteered", "", shown(plain["accuracy"]), "", shown(plain["exact_match"]), "0"])
        for arm in (arm for arm in arms if arm.task == task and arm.method in own):
            change = shown(arm.change, signed=True)
            rows.append(
                [task, arm.method, arm.setting, shown(arm.accuracy), change, shown(arm.exact_match), f"{arm.kl:.2f}"]
            )
        for arm in (arm for arm in arms if arm.task == task and arm.method in own[:2] and "unit" not in arm.method):
            lines.append(f"* {task}, {arm.method} against unsteered: {verdict(arm.change)}.")
        if plain["accuracy"].mean > CEILING:
            lines.append(f"* {task}: the unsteered model is at the ceiling, so no method can show a gain there.")
    columns = ("task", "method", "setting (chosen on tune)", "accuracy", "change", "exact match", "KL")
    return f"{table(columns, rows)}\n\n" + "\n".join(lines)


def explained(results: dict[str, Any]) -> str:
    """What the columns mean, and how scores compare with chance."""
    notes = results["scores"]
    lines = [
        "Accuracy: the right answer's token is likelier than the distractor's. Exact match: it is the likeliest of "
        "all tokens. KL: nats per token on neutral text with every token edited.",
        "",
    ]
    for task, kinds in notes.items():
        for kind, note in kinds.items():
            lines.append(
                f"* {task}, `{kind}`: best score {note['best_score']:.2f}, null threshold {note['null_threshold']:.2f} "
                f"(label flips); of the best 16 units {note['above_null_of_16']} pass it, {note['ties_at_16']} equals "
                f"were left out, and their activations are above zero in {note['share_above_zero_of_16']:.0%} of texts "
                "(only there the published rule follows the momentum)."
            )
    return "\n".join(lines)


def main(model: HookedModel | None = None, *, docs=DOCS, quick: bool = False) -> None:
    model = model or load_model()
    results = run(model, quick=quick)
    write_results("choices", model, results, docs=docs)
    au = ("AUSteer", "AUSteer, momentum-consistent", "random units", "bottom units")
    write_section("austeer", "choices", f"{section(results, au)}\n\n{explained(results)}", model, docs=docs)
    write_section("sadi", "choices", section(results, ("SADI",)), model, docs=docs)
    write_section("iti", "choices", section(results, ("ITI",)), model, docs=docs)


if __name__ == "__main__":
    main()
