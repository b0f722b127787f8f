"""The refusal direction ablated and added: tricks that the built-in model refuses to explain, and harmless questions.

The direction is a difference in means on the identify split, chosen on the tune split by the paper's rule; controls are
random directions of the same norm. A prompt counts as refused where the greedy continuation begins as refusals do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from experiments.measures import BATCH, difference, first_tokens, kl_measure, kl_of, rate
from experiments.pages import DOCS, shown, table, verdict, write_results, write_section
from workbench.behaviours import BehaviourItem, load_behaviours
from workbench.comparison import generate_stacked
from workbench.interventions import (
    CandidateScore,
    ContrastiveAddition,
    DirectionalAblation,
    Scope,
    Steering,
    SteeringError,
    candidate_directions,
    refusal_scores,
    score_candidates,
    select_direction,
)
from workbench.models import HookedModel, load_model
from workbench.statistics import Interval

REFUSALS = ("I am sorry", "Sorry")
N_POSITIONS = 2
N_TOKENS = 5
SETS = (("trick", "harmless"), ("new_trick", "new_harmless"))
WORDS = {"trick": "tricks", "harmless": "harmless", "new_trick": "new tricks", "new_harmless": "new harmless"}


@dataclass(frozen=True)
class Arm:
    """Share of refused test prompts of one kind under one edit, and its change against unsteered."""

    edit: str
    kind: str
    refused: Interval
    change: Interval
    kl: float


def load(kind: str, split: str, limit: int | None) -> list[BehaviourItem]:
    return load_behaviours("refusal", kind=kind, split=split)[:limit]


def prompts_of(items: Sequence[BehaviourItem]) -> list[str]:
    return [item.prompt for item in items]


def is_refused(
    model: HookedModel, items: Sequence[BehaviourItem], edits: Sequence[tuple[Steering | None, float]]
) -> np.ndarray:
    """One row per edit: whether the continuation of each prompt begins with a refusal."""
    pieces = []
    for start in range(0, len(items), BATCH):
        tokens = model.tokenize(prompts_of(items[start : start + BATCH]), side="left")
        rows = generate_stacked(
            model, tokens, list(edits), Scope("all"), max_new_tokens=N_TOKENS, seed=0, temperature=0.0
        )
        pieces.append([[model.decode(row).lstrip().startswith(REFUSALS) for row in edit] for edit in rows])
    return np.concatenate([np.array(piece) for piece in pieces], axis=1)


def find_direction(
    model: HookedModel, limit: int | None
) -> tuple[torch.Tensor, CandidateScore, dict[str, Any], list[CandidateScore]]:
    """The direction chosen by the rule, its scores, and how the data were filtered.

    Where no candidate passes the rule, the one of lowest refusal under ablation stands in, and the notes say so.
    """
    tokens = sorted(set(first_tokens(model, REFUSALS).tolist()))
    harmful, harmless = (prompts_of(load(kind, "identify", limit)) for kind in SETS[0])
    refused, complied = refusal_scores(model, harmful, tokens), refusal_scores(model, harmless, tokens)
    kept = [text for text, score in zip(harmful, refused, strict=True) if score > 0]
    kept_harmless = [text for text, score in zip(harmless, complied, strict=True) if score < 0]
    notes: dict[str, Any] = {
        "harmful_kept": [len(kept), len(harmful)],
        "harmless_kept": [len(kept_harmless), len(harmless)],
        "rule_passed": True,
        "rule_failure": "",
    }
    candidates = candidate_directions(model, kept or harmful, kept_harmless or harmless, n_positions=N_POSITIONS)
    tune = [prompts_of(load(kind, "tune", limit)) for kind in SETS[0]]
    scores = score_candidates(model, candidates, *tune, refusal_tokens=tokens)
    try:
        chosen = select_direction(scores, n_layers=model.n_layers)
    except SteeringError as error:
        chosen = min(scores, key=lambda score: score.refusal_ablated)
        notes |= {"rule_passed": False, "rule_failure": str(error)}
    return candidates[chosen.layer, chosen.position].float(), chosen, notes, list(scores)


def run(model: HookedModel, *, quick: bool = False) -> dict[str, Any]:
    limit = 8 if quick else None
    direction, chosen, notes, scores = find_direction(model, limit)
    draw = torch.randn(len(direction), generator=torch.Generator().manual_seed(0))
    noise = draw / draw.norm() * direction.norm()
    edits: dict[str, tuple[Steering | None, float]] = {
        "unsteered": (None, 0.0),
        "ablated": (DirectionalAblation(direction, model.n_layers), 1.0),
        "subtracted": (ContrastiveAddition(direction, chosen.layer, "resid_pre"), -1.0),
        "added": (ContrastiveAddition(direction, chosen.layer, "resid_pre"), 1.0),
        "random ablated": (DirectionalAblation(noise, model.n_layers), 1.0),
        "random added": (ContrastiveAddition(noise, chosen.layer, "resid_pre"), 1.0),
    }
    neutral = kl_measure(model)
    damage = {name: 0.0 if edit is None else kl_of(neutral, edit, by) for name, (edit, by) in edits.items()}
    arms = []
    for kind in (kind for pair in SETS for kind in pair):
        items = load(kind, "test", limit)
        subjects = [item.subject for item in items]
        refused = is_refused(model, items, list(edits.values()))
        for name, row in zip(edits, refused, strict=True):
            change = difference(row, refused[0], subjects)
            arms.append(Arm(name, kind, rate(row, subjects), change, damage[name]))
    return {"chosen": chosen, "data": notes, "arms": arms, "candidates": scores}


def section(results: dict[str, Any]) -> str:
    chosen, notes, arms = results["chosen"], results["data"], results["arms"]
    kinds = list(dict.fromkeys(arm.kind for arm in arms))
    by_name = {(arm.edit, arm.kind): arm for arm in arms}
    rows = [
        [edit, *(shown(by_name[edit, kind].refused) for kind in kinds), f"{by_name[edit, kinds[0]].kl:.3f}"]
        for edit in dict.fromkeys(arm.edit for arm in arms)
    ]
    lines = [
        "Share of prompts refused (the greedy continuation begins with a refusal), at strength 1, all tokens; KL in "
        "nats per token on neutral text.",
        "",
        table(("direction", *(WORDS[kind] for kind in kinds), "KL"), rows),
        "",
        f"* Direction: layer {chosen.layer}, token {chosen.position}. After the filter by refusal score "
        f"{notes['harmful_kept'][0]} of {notes['harmful_kept'][1]} tricks and {notes['harmless_kept'][0]} of "
        f"{notes['harmless_kept'][1]} harmless prompts were left to fit on.",
    ]
    if not notes["rule_passed"]:
        lines.append(
            f"* The paper's rule chose none: {notes['rule_failure']}. Lowest refusal under ablation stands in."
        )
    for edit, kind, lower in (("ablated", "trick", True), ("added", "harmless", False)):
        arm = by_name[edit, kind]
        found = verdict(arm.change, higher_is_better=not lower)
        lines.append(
            f"* {edit.capitalize()}, {WORDS[kind]}: refusals change by {shown(arm.change, signed=True)}, where "
            f"{'fewer' if lower else 'more'} are wanted: {found}; with a random direction by "
            f"{shown(by_name['random ' + edit, kind].change, signed=True)}."
        )
    return "\n".join(lines)


def main(model: HookedModel | None = None, *, docs=DOCS, quick: bool = False) -> None:
    model = model or load_model()
    results = run(model, quick=quick)
    write_results("refusal", model, results, docs=docs)
    write_section("ablation", "refusal", section(results), model, docs=docs)


if __name__ == "__main__":
    main()
