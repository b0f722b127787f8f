"""ActivationScaling, SteerVec and DynScalar on conflicts of context and knowledge (CCC) and indirect objects (IOI).

Fitted on items of the identify split, all prompts of one length; the test items have that length too, and other
countries and names. DynScalar is also tested on prompts of all other lengths. The weights of the objective are the
defaults of each method; learning rates are raised so that few steps are enough. Controls: the scalars of
ActivationScaling dealt out at random, and only its largest ones kept.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from experiments.drawing import heat_map
from experiments.measures import first_tokens, next_logits, rate
from experiments.pages import DOCS, shown, table, write_results, write_section
from workbench.comparison import paired_interval
from workbench.interventions import (
    ActivationScaling,
    ContrastPrompt,
    DynScalar,
    Objective,
    ScalingReport,
    Steering,
    SteerVec,
    builtin_items,
    evaluate_scaling,
    usable_items,
)
from workbench.models import HookedModel, load_model
from workbench.statistics import Interval

TASKS = ("ccc", "ioi")
METHODS = {"ActivationScaling": ActivationScaling, "SteerVec": SteerVec, "DynScalar": DynScalar}
OBJECTIVES = {
    "ActivationScaling": Objective(rate=3e-2),
    "SteerVec": Objective(minimality=1e-4),
    "DynScalar": Objective(minimality=1e-3, rate=3e-3),
}
N_TRAIN, N_TEST, N_STEPS = 16, 48, 100
KEPT = (1, 2, 4, 8, 16, 32)
DOSES = (-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0)
GOAL = 0.9


@dataclass(frozen=True)
class Dose:
    """Test items at one strength: share that says the correct answer, mean logit difference, mean KL of the others."""

    beta: float
    correct: Interval
    difference: float
    kl: float


@dataclass(frozen=True)
class DialResult:
    """One method on one task: training items as a whole, test items with intervals.

    `flips_up` and `flips_down` are the shares of items that say the correct answer at strength +1 and the wrong one at
    -1; `unsteered` the share that says the correct one anyway. `kl` is nats over the other tokens, mean of both ends.
    `without_penalties` is the training share flipped both ways when only effectiveness counts, where that was needed.
    """

    task: str
    method: str
    n_train: int
    n_parameters: int
    train: ScalingReport
    unsteered: Interval
    flips_up: Interval
    flips_down: Interval
    kl: Interval
    share_nonzero: float
    other_lengths: tuple[Interval, Interval] | None
    without_penalties: float | None
    doses: list[Dose]


def items_of(model: HookedModel, task: str) -> tuple[list[ContrastPrompt], list[ContrastPrompt], list[ContrastPrompt]]:
    """Training and test items of the one length that both splits have most of, and test items of other lengths."""
    found = {split: usable_items(model, builtin_items(task, split), one_length=False) for split in ("identify", "test")}
    lengths = {split: _lengths(model, items) for split, items in found.items()}
    counts = [Counter(lengths[split]) for split in ("identify", "test")]
    length = max(counts[0], key=lambda count: min(counts[0][count], counts[1][count]))

    def spread(split: str, is_length: bool, n: int) -> list[ContrastPrompt]:
        kept = [
            item for item, count in zip(found[split], lengths[split], strict=True) if (count == length) == is_length
        ]
        order = np.random.default_rng(0).permutation(len(kept))[:n]
        return [kept[index] for index in sorted(order)]

    return spread("identify", True, N_TRAIN), spread("test", True, N_TEST), spread("test", False, N_TEST)


def _lengths(model: HookedModel, items: Sequence[ContrastPrompt]) -> list[int]:
    return model.tokenize([item.prompt for item in items]).lengths.tolist()


def subject_of(item: ContrastPrompt) -> str:
    """Items with the same answers are one subject."""
    return item.correct + item.wrong if "gave" in item.prompt else item.correct


def answers_at(
    model: HookedModel, steering: Steering, items: Sequence[ContrastPrompt], strengths: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Logit of correct minus wrong, and KL(unsteered || steered) over the other tokens in nats: [strength, item]."""
    prompts = [item.prompt for item in items]
    answers = torch.stack(
        [first_tokens(model, [getattr(item, side) for item in items]) for side in ("correct", "wrong")], dim=1
    )
    gaps, kls, plain = [], [], next_logits(model, prompts).scatter(1, answers, -1e9).log_softmax(-1)
    for strength in strengths:
        logits = next_logits(model, prompts, steering, strength)
        correct, wrong = logits.gather(1, answers).unbind(1)
        gaps.append(correct - wrong)
        kls.append((plain.exp() * (plain - logits.scatter(1, answers, -1e9).log_softmax(-1))).sum(-1))
    return torch.stack(gaps).numpy(), torch.stack(kls).double().numpy()


def flip_rates(
    model: HookedModel, steering: Steering, items: Sequence[ContrastPrompt]
) -> tuple[Interval, Interval, Interval, Interval]:
    """Shares that say the correct answer unsteered, at +1, and the wrong one at -1; KL over the other tokens."""
    gaps, kls = answers_at(model, steering, items, (0.0, 1.0, -1.0))
    subjects = [subject_of(item) for item in items]
    return (
        rate(gaps[0] > 0, subjects),
        rate(gaps[1] > 0, subjects),
        rate(gaps[2] < 0, subjects),
        paired_interval((kls[1] + kls[2]) / 2, seed=0),
    )


def dose_curve(model: HookedModel, steering: Steering, items: Sequence[ContrastPrompt]) -> list[Dose]:
    """What the dial does between its ends and beyond them."""
    subjects = [subject_of(item) for item in items]
    rows = zip(DOSES, *answers_at(model, steering, items, DOSES), strict=True)
    return [Dose(beta, rate(gap > 0, subjects), float(gap.mean()), float(kl.mean())) for beta, gap, kl in rows]


def flipped_both_ways(report: ScalingReport) -> float:
    return min(report.flips_up, report.flips_down)


def fit_and_test(
    model: HookedModel,
    task: str,
    method: str,
    items: tuple[list[ContrastPrompt], list[ContrastPrompt], list[ContrastPrompt]],
    steps: int,
) -> tuple[Steering, DialResult]:
    train, test, others = items
    objective = replace(OBJECTIVES[method], steps=steps)
    fitted = METHODS[method].fit(model, train, objective=objective)
    report = evaluate_scaling(model, fitted, train)
    free = None
    if flipped_both_ways(report) < GOAL:
        bare = replace(objective, faithfulness=0.0, minimality=0.0)
        free = flipped_both_ways(evaluate_scaling(model, METHODS[method].fit(model, train, objective=bare), train))
    unsteered, up, down, kl = flip_rates(model, fitted, test)
    elsewhere = None
    if fitted.prompt_length is None and len(others) > 1:
        elsewhere = flip_rates(model, fitted, others)[1:3]
    doses = dose_curve(model, fitted, test)
    common = (task, method, len(train), fitted.values.numel(), report, unsteered, up, down, kl, fitted.fraction_nonzero)
    return fitted, DialResult(*common, elsewhere, free, doses)


def kept_curve(
    model: HookedModel, fitted: ActivationScaling, test: Sequence[ContrastPrompt]
) -> list[dict[str, float | int | str]]:
    """Flip rates with only the n largest scalars kept, and with as many dealt to random places."""
    rows: list[dict[str, float | int | str]] = []
    n_all = fitted.alpha.numel()
    for n in (*(n for n in KEPT if n < n_all), n_all):
        top = fitted.keep_top(n)
        order = torch.randperm(n_all, generator=torch.Generator().manual_seed(n))
        dealt = ActivationScaling(top.alpha.flatten()[order].view_as(top.alpha), top.site_names)
        for kind, steering in (("largest", top), ("dealt at random", dealt)):
            _, up, down, _ = flip_rates(model, steering, test)
            rows.append({"kept": n, "which": kind, "flips_up": up.mean, "flips_down": down.mean})
    return rows


def run(model: HookedModel, *, quick: bool = False) -> dict[str, Any]:
    results, curves, maps = [], {}, {}
    for task in TASKS:
        items = items_of(model, task)
        if quick:
            items = (items[0][:6], items[1][:8], items[2][:8])
        for method in METHODS:
            fitted, result = fit_and_test(model, task, method, items, 4 if quick else N_STEPS)
            results.append(result)
            if isinstance(fitted, ActivationScaling):
                curves[task] = kept_curve(model, fitted, items[1])
                tokens = model.token_texts(model.tokenize([items[0][0].prompt]).ids[0].tolist())
                maps[task] = {"alpha": fitted.alpha.tolist(), "sites": fitted.site_names, "tokens": tokens}
    return {"results": results, "kept": curves, "maps": maps}


# --- pages ------------------------------------------------------------------------------------------------------------


def section(results: Sequence[DialResult], method: str) -> str:
    own = [result for result in results if result.method == method]
    rows = [
        [
            result.task.upper(),
            f"{result.train.flips_up:.0%} / {result.train.flips_down:.0%}",
            shown(result.unsteered),
            shown(result.flips_up),
            shown(result.flips_down),
            shown(result.kl),
            f"{result.share_nonzero:.0%} of {result.n_parameters:,}",
        ]
        for result in own
    ]
    columns = ("task", "training flips +1 / -1", "correct, unsteered", "correct at +1", "wrong at -1", "KL of others")
    lines = [table((*columns, "non-zero"), rows), ""]
    lines += [goal_line(result) for result in own]
    for result in own:
        if result.other_lengths is not None:
            up, down = result.other_lengths
            lines.append(f"* {result.task.upper()}, prompts of other lengths: {shown(up)} at +1, {shown(down)} at -1.")
    lines += ["", "The dial within its trained ends of -1 and +1 and beyond them, test items:", ""]
    doses = [
        [result.task.upper(), f"{dose.beta:+g}", shown(dose.correct), f"{dose.difference:+.1f}", f"{dose.kl:.2f}"]
        for result in own
        for dose in result.doses
    ]
    lines.append(table(("task", "strength", "correct", "logit, correct - wrong", "KL of others"), doses))
    return "\n".join(lines)


def goal_line(result: DialResult) -> str:
    share, name = flipped_both_ways(result.train), result.task.upper()
    if share >= GOAL:
        return f"* {name}: {share:.0%} of {result.n_train} training items flip both ways at least (goal {GOAL:.0%})."
    free = result.without_penalties or 0.0
    limit = f"With neither penalty it is {free:.0%}: "
    if free >= GOAL:
        why = "the penalties, not the form of the edit, hold it back."
    elif result.method == "SteerVec":
        why = "the number of steps is the limit, since added vectors can reach any answer."
    else:
        why = "within these steps scaling what is there does not reach the answer; it cannot add what is absent."
    return (
        f"* {name}: only {share:.0%} of {result.n_train} training items flip both ways (goal {GOAL:.0%}). {limit}{why}"
    )


def kept_section(curves: dict[str, Any]) -> str:
    lines = ["", "Only the largest scalars kept, test items (in brackets the same scalars dealt to random places):", ""]
    rows = []
    for task, curve in curves.items():
        for top, dealt in zip(curve[::2], curve[1::2], strict=True):
            pairs = [f"{top[key]:.2f} ({dealt[key]:.2f})" for key in ("flips_up", "flips_down")]
            rows.append([task.upper(), str(top["kept"]), *pairs])
    lines.append(table(("task", "kept", "correct at +1", "wrong at -1"), rows))
    for task in curves:
        lines += ["", f"![Scalars by layer and position, {task.upper()}](results/scaling_{task}.svg)"]
    return "\n".join(lines)


def main(model: HookedModel | None = None, *, docs=DOCS, quick: bool = False) -> None:
    model = model or load_model()
    found = run(model, quick=quick)
    write_results("dials", model, found, docs=docs)
    for task, one in found["maps"].items():
        title = f"Learned scalars, {task.upper()}: red raises, blue lowers at strength +1"
        drawing = heat_map(np.array(one["alpha"]), one["sites"], one["tokens"], title=title)
        (docs / "results" / f"scaling_{task}.svg").write_text(drawing, encoding="utf-8")
    scaling = section(found["results"], "ActivationScaling") + "\n" + kept_section(found["kept"])
    write_section("activation_scaling", "dials", scaling, model, docs=docs)
    write_section("steer_vec", "dials", section(found["results"], "SteerVec"), model, docs=docs)
    write_section("dyn_scalar", "dials", section(found["results"], "DynScalar"), model, docs=docs)


if __name__ == "__main__":
    main()
