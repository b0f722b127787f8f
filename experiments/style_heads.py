"""Style heads against residual steering on personas: how often the persona shows, and what it does to the text.

Vectors, layer and heads come from the identify split. On the test split every method steers plain questions (system
message of a helpful assistant) at a row of strengths. Damage is the loss of the generated text under the unsteered
model given the same plain prompt, less that of its own plain text; a persona is unlikely there in itself, so the text
that the model writes when asked for the persona stands beside as reference. The Pareto score is the area under the
best marker rate for each damage, from 0 to `MOST` nats, as a share of the largest possible one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from experiments.measures import rate
from experiments.pages import DOCS, shown, table, verdict, write_results, write_section
from workbench.behaviours import BehaviourItem, load_behaviours
from workbench.comparison import generate_stacked
from workbench.interventions import (
    POSITIONS,
    HeadScores,
    PersonaActivations,
    Scope,
    Steering,
    SteeringError,
    StyleHeads,
    builtin_personas,
    cumulative_ablations,
    head_scores,
    heads_by_role,
    layer_map,
    persona_activations,
    persona_exchanges,
    random_heads,
    steering_positions,
)
from workbench.interventions.style_data import PLAIN, shows_persona
from workbench.models import HookedModel, load_model
from workbench.records import Tokens
from workbench.statistics import Interval, hypervolume

RESIDUAL_STRENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
HEAD_STRENGTHS = (2.0, 4.0, 8.0, 16.0, 32.0)  # a few heads of one layer are a small edit
MOST = 3.0
N_TOKENS = 20
N_RESAMPLES = 500
SCOPE = Scope("from_last_prompt")
HEADS, RESIDUAL = "correlated heads", "residual after attention"


@dataclass(frozen=True)
class Curve:
    """One method on one persona: marker rate and damage (nats per token) by strength, and per question."""

    persona: str
    method: str
    strengths: tuple[float, ...]
    marked: list[list[bool]]
    damage: list[list[float]]


def text_loss(model: HookedModel, prompts: Sequence[str], answers: Sequence[list[int]]) -> np.ndarray:
    """Mean loss in nats of every answer's tokens under the unsteered model after its prompt; NaN where it is empty."""
    heads = [model.tokenize([prompt]).ids[0].tolist() for prompt in prompts]
    tokens: Tokens = model.pad([head + answer for head, answer in zip(heads, answers, strict=True)])
    scores = model.logits(tokens).float().log_softmax(-1)
    losses = []
    for row, (head, answer) in enumerate(zip(heads, answers, strict=True)):
        at = torch.arange(len(head) - 1, len(head) - 1 + len(answer))
        losses.append(float(-scores[row, at, torch.tensor(answer, dtype=torch.long)].mean()) if answer else np.nan)
    return np.array(losses)


def methods_of(
    model: HookedModel, found: PersonaActivations, scores: HeadScores, layer: int
) -> tuple[dict[str, Steering], tuple[int, ...], tuple[int, ...]]:
    """The five places and the two controls, at one layer, with the heads of each kind."""
    correlated, anti = heads_by_role(scores, layer)
    methods = steering_positions(model, found, layer=layer, correlated=correlated, anti_correlated=anti)
    drawn = random_heads(model.n_heads, min(len(correlated), model.n_heads - len(correlated)), without=correlated)
    by_norm = scores.top(layer, len(correlated), by="norm")
    methods["random heads"] = StyleHeads.fit(model, found, layer=layer, heads=drawn)
    methods["heads of largest norm"] = StyleHeads.fit(model, found, layer=layer, heads=by_norm)
    return methods, correlated, anti


def curve(
    model: HookedModel, item: BehaviourItem, method: str, steering: Steering, prompts: Sequence[str], plain: np.ndarray
) -> Curve:
    """Generate at every strength and judge the texts."""
    tokens = model.tokenize(prompts, side="left")
    strengths = RESIDUAL_STRENGTHS if method in POSITIONS[:2] else HEAD_STRENGTHS
    parts = [(steering, strength) for strength in strengths]
    texts = generate_stacked(model, tokens, parts, SCOPE, max_new_tokens=N_TOKENS, seed=0, temperature=0.0)
    marked = [[shows_persona(item, model.decode(answer)) for answer in row] for row in texts]
    damage = [np.nan_to_num(text_loss(model, prompts, row) - plain, nan=MOST).tolist() for row in texts]
    return Curve(item.kind, method, strengths, marked, damage)


def pareto(curve: Curve, chosen: np.ndarray | None = None) -> float:
    """Share of the largest possible area under marker rate against damage; the unsteered model is the point (0, 0)."""
    marked, damage = np.array(curve.marked, dtype=float), np.array(curve.damage)
    if chosen is not None:
        marked, damage = marked[:, chosen], damage[:, chosen]
    return hypervolume(np.maximum(damage.mean(1), 0.0), marked.mean(1), worst=(MOST, 0.0)) / MOST


def pareto_interval(first: Curve, second: Curve | None = None) -> Interval:
    """Score, or difference of two scores, with a percentile bootstrap over questions."""
    n = len(first.marked[0])
    rows = np.random.default_rng(0).integers(0, n, size=(N_RESAMPLES, n))

    def value(chosen: np.ndarray | None) -> float:
        return pareto(first, chosen) - (0.0 if second is None else pareto(second, chosen))

    drawn = [value(row) for row in rows]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(value(None), float(low), float(high), n)


def ablation(
    model: HookedModel, items: Sequence[BehaviourItem], layer: int, heads: Sequence[int]
) -> list[dict[str, Any]]:
    """Marker rate when the persona is asked for and heads are set to zero one after the other, against random ones."""
    prompts, subjects = [item.prompt for item in items], [item.subject for item in items]
    tokens = model.tokenize(prompts, side="left")
    drawn = random_heads(model.n_heads, min(len(heads), model.n_heads - len(heads)), without=heads)
    rows: list[dict[str, Any]] = []
    for kind, chosen in (("correlated", heads), ("random", drawn)):
        steps = cumulative_ablations([(layer, head) for head in chosen], model.n_heads)
        parts = [(None, 0.0), *((step, 1.0) for step in steps)]
        texts = generate_stacked(model, tokens, parts, Scope("all"), max_new_tokens=N_TOKENS, seed=0, temperature=0.0)
        for count, row in enumerate(texts):
            marked = np.array([shows_persona(items[0], model.decode(answer)) for answer in row])
            rows.append({"heads": kind, "n_ablated": count, "marked": rate(marked, subjects)})
    return rows


def one_persona(model: HookedModel, persona: str, limit: int | None) -> dict[str, Any]:
    exchanges = persona_exchanges(model, persona, max_new_tokens=N_TOKENS)
    found = persona_activations(model, exchanges.positive, exchanges.negative)
    formed = layer_map(found)
    layer = min(formed.layer, model.n_layers - 2)
    scores = head_scores(model, found)
    methods, correlated, anti = methods_of(model, found, scores, layer)
    items = load_behaviours("personas", kind=persona, split="test")[:limit]
    prompts = [item.prompt for item in load_behaviours("personas", kind=PLAIN, split="test")][:limit]
    asked, own = (
        model.generate(model.tokenize(texts, side="left"), max_new_tokens=N_TOKENS)
        for texts in ([item.prompt for item in items], prompts)
    )
    plain = np.nan_to_num(text_loss(model, prompts, own), nan=0.0)
    reference = {
        "marked_when_asked": float(np.mean([shows_persona(items[0], model.decode(row)) for row in asked])),
        "marked_unsteered": float(np.mean([shows_persona(items[0], model.decode(row)) for row in own])),
        "damage_when_asked": float(np.nanmean(text_loss(model, prompts[: len(asked)], asked) - plain[: len(asked)])),
    }
    curves = [curve(model, items[0], name, steering, prompts, plain) for name, steering in methods.items()]
    return {
        "persona": persona,
        "n_kept": len(exchanges.positive),
        "n_asked": exchanges.n_asked,
        "layer": layer,
        "formation": formed.formation.tolist(),
        "correlated": correlated,
        "anti_correlated": anti,
        "shares": scores.share[layer].tolist(),
        "is_shown": bool(scores.low[layer, correlated[0]] > 0),
        "reference": reference,
        "curves": curves,
        "ablation": ablation(model, items, layer, correlated),
    }


def run(model: HookedModel, *, quick: bool = False) -> dict[str, Any]:
    personas, failed = [], {}
    for persona in builtin_personas()[: 1 if quick else None]:
        try:
            personas.append(one_persona(model, persona, 4 if quick else None))
        except SteeringError as error:  # this model does not show the persona even when asked: say so, and go on
            failed[persona] = str(error)
    return {"personas": personas, "failed": failed, "most_damage": MOST}


# --- the page ---------------------------------------------------------------------------------------------------------


def section(results: dict[str, Any]) -> str:
    rows, lines, removed = [], [], []
    for one in results["personas"]:
        curves = {curve.method: curve for curve in one["curves"]}
        for name, found in curves.items():
            best = int(np.argmax([np.mean(marked) for marked in found.marked]))
            gap = "" if name == RESIDUAL else shown(pareto_interval(found, curves[RESIDUAL]), signed=True)
            peak = f"{np.mean(found.marked[best]):.2f} at {found.strengths[best]:g}, {np.mean(found.damage[best]):+.1f}"
            rows.append([one["persona"], name, shown(pareto_interval(found)), gap, peak])
        lines += persona_lines(one, curves)
        removed += [
            [one["persona"], row["heads"], str(row["n_ablated"]), shown(row["marked"])] for row in one["ablation"]
        ]
    lines += [f"* {persona}: not measured: {reason}." for persona, reason in results["failed"].items()]
    columns = ("persona", "method", "Pareto score", f"less that of {RESIDUAL}", "best marker rate, damage in nats")
    return "\n".join(
        [
            f"Damage: nats per token above the plain text. Pareto score: area up to {results['most_damage']:g} nats, "
            "1 the largest. Brackets resample questions.",
            "",
            table(columns, rows),
            "",
            *lines,
            "",
            "Heads set to zero while the persona is asked for (share of answers with its marks):",
            "",
            table(("persona", "heads", "ablated", "marked"), removed),
        ]
    )


def persona_lines(one: dict[str, Any], curves: dict[str, Curve]) -> list[str]:
    reference = one["reference"]
    difference = pareto_interval(curves[HEADS], curves[RESIDUAL])
    against = pareto_interval(curves[HEADS], curves["random heads"])
    heads = ", ".join(map(str, one["correlated"]))
    found = f"correlated heads {heads}" if one["is_shown"] else f"no head shown to be correlated, largest share {heads}"
    return [
        f"* {one['persona']}: {one['n_kept']} of {one['n_asked']} questions kept; formed at layer {one['layer']}; "
        f"{found}. Asked for, the persona shows in {reference['marked_when_asked']:.0%} of answers "
        f"(at {reference['damage_when_asked']:+.1f} nats), unasked in {reference['marked_unsteered']:.0%}. Its heads "
        f"against {RESIDUAL}: {verdict(difference)}; against random heads: {verdict(against)}.",
    ]


def main(model: HookedModel | None = None, *, docs=DOCS, quick: bool = False) -> None:
    assert {HEADS, RESIDUAL} <= set(POSITIONS)
    model = model or load_model()
    results = run(model, quick=quick)
    write_results("style_heads", model, results, docs=docs)
    write_section("style_heads", "style_heads", section(results), model, docs=docs)


if __name__ == "__main__":
    main()
