"""The report of a comparison: one page with the plan, the phrases, the figures and the tables."""

import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.comparison.run import Run
from workbench.comparison.spec import Spec
from workbench.comparison.tables import Outcomes, describe
from workbench.figures.comparison import front_figure, strength_figure, trade_off_figure
from workbench.figures.contrasts import arm_forest_figure, domain_forest_figure
from workbench.figures.damage import damage_caption, damage_figure
from workbench.figures.page import Section, figure_fragment, figure_title, table_html, write_figure, write_page
from workbench.figures.style import number
from workbench.records import BudgetKind, Contrast, Damage

UNSTEERED = "unsteered"
N_ROWS = 400  # rows of a table on the page; the CSV holds all


def write_comparison(run: Run, outcomes: Outcomes, folder: Path) -> Path:
    """Draw every figure of a comparison into `figures/` and write `report.html`; returns the page."""
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    sections = [
        Section("plan", "What was compared", _plan(run)),
        Section("differences", "Summary of differences", _differences(outcomes.contrasts)),
        Section("damage", "Effect against damage", _trade_offs(outcomes, figures)),
        Section("breakage", "What steering breaks", _breakage(run.spec, outcomes, figures)),
        Section("arms", "All arms at one budget", _forests(run, outcomes, figures)),
        Section("domains", "Domain by domain", _domains(outcomes, figures)),
        Section("strengths", "Strengths and usable bands", _strengths(outcomes, figures)),
        Section("tables", "All contrasts", _all(outcomes)),
    ]
    title = f"Comparison {run.spec.name} on {run.model.name}"
    kept = [section for section in sections if section.body]
    return write_page(folder / "report.html", title=title, lead=_lead(run, outcomes), sections=kept)


def _lead(run: Run, outcomes: Outcomes) -> str:
    spec = run.spec
    lines = [
        f"{len(spec.methods)} methods and all controls on {len(run.tasks)} tasks of {run.model.name}, "
        "settings chosen on tuning items, reported once on test items. Every difference is paired by subject, with a "
        "95 % bootstrap interval; a verdict needs an interval without zero and an adjusted p (Benjamini and Hochberg) "
        "of at most 0.05.",
        *(f"Methods against {against}: {_count(outcomes.contrasts, against)}." for against in _opponents(outcomes)),
    ]
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _opponents(outcomes: Outcomes) -> list[str]:
    return list(dict.fromkeys(one.against for one in outcomes.contrasts if one.role == "method"))


def _count(contrasts: Sequence[Contrast], against: str) -> str:
    own = [one for one in contrasts if one.against == against and one.is_primary and one.role == "method"]
    words = ("better", "worse", "no difference shown", "not measured")
    counts = ((word, sum(one.verdict == word for one in own)) for word in words)
    return f"{len(own)} comparisons, " + ", ".join(f"{count} {word}" for word, count in counts)


def _plan(run: Run) -> str:
    matrix, spec = run.plan.matrix, run.spec
    arms = list(next(iter(matrix.values())))
    reasons = list(dict.fromkeys(reason for row in matrix.values() for reason in row.values() if reason))
    marks = {reason: f"n/a [{index}]" for index, reason in enumerate(reasons, start=1)}
    rows = [[arm, *(marks.get(row[arm], "runs") for row in matrix.values())] for arm in arms]
    notes = "".join(f"<li>n/a [{index}] because {escape(reason)}</li>" for index, reason in enumerate(reasons, start=1))
    budgets = ", ".join(f"{kind} {level:g}" for kind, level in spec.budgets.levels())
    layers = ", ".join(map(str, run.plan.layers))
    facts = (
        f"Budgets: {budgets}. Layers searched by every arm: {layers} (arms that choose units over all layers search as "
        f"many numbers of units). Coordinates or units: {spec.k}. Seeds: {', '.join(map(str, spec.seeds))}. "
        f"Cells: {len(run.plan.cells)}. At most {spec.sizes.n_fit} texts of each side are fitted on, "
        f"{spec.sizes.n_tune} items per task tuned on and {spec.sizes.n_test} tested on; KL is that of "
        f"{spec.sizes.n_neutral} neutral passages."
    )
    table = table_html(["arm", *matrix], rows, label="Which arm runs on which task")
    return f"<p>{escape(facts)}</p>{table}<ul>{notes}</ul>"


def _differences(contrasts: Sequence[Contrast]) -> str:
    shown = [one for one in contrasts if one.is_primary and one.verdict in ("better", "worse")]
    methods = [one for one in shown if one.role == "method"]
    controls = [one for one in shown if one.role == "control"]
    parts = []
    for title, found in (("Methods", methods), ("Controls", controls)):
        items = "".join(f"<li>{escape(describe(one))}</li>" for one in found) or "<li>no difference shown</li>"
        parts.append(f"<h3>{title}: differences that were shown</h3><ul>{items}</ul>")
    hidden = sum(one.is_primary and one.verdict == "no difference shown" for one in contrasts)
    return "".join(parts) + f"<p>{hidden} further comparisons show no difference; the last section lists them.</p>"


def _trade_offs(outcomes: Outcomes, figures: Path) -> str:
    body = ""
    for metric in _metrics(outcomes.contrasts):
        primary = [one for one in outcomes.contrasts if one.is_primary]
        body += _figure(
            lambda metric=metric, primary=primary: trade_off_figure(primary, metric),
            f"trade-off-{_slug(metric)}",
            "Every arm at every budget. What lies higher to the left is better where higher is better. Controls in "
            "grey show how much of an effect any edit of that size has.",
            figures,
        )
        body += _figure(
            lambda metric=metric, primary=primary: front_figure(primary, metric),
            f"front-{_slug(metric)}",
            "Gain is the effect in the wanted direction. An arm off the line is beaten by another in gain and damage "
            "alike, as far as means tell; intervals are in the figure above.",
            figures,
        )
    return body + _frame(outcomes.frames["fronts"], "Points on the front and hypervolume per arm")


def _breakage(spec: Spec, outcomes: Outcomes, figures: Path) -> str:
    """Per task a figure at the middle budget, and a table with one row per arm and budget."""
    if not outcomes.damages:
        return ""
    text = (
        "What every arm breaks, as a change against the unsteered model: on neutral text (KL, top-1 agreement), in "
        "what it writes (loss of its text under the unsteered model in nats per token, repetition, loops, distinct "
        "bigrams, compression ratio, length in tokens), and on other domains where the task has some. Several, because "
        "one is blind. A star marks a change whose 95 % interval has no zero; these many intervals are not adjusted "
        "for one another. tables/damage.csv holds values and intervals."
    )
    body = f"<p>{escape(text)}</p>"
    kind, level = _middle_budget(spec)
    for task in dict.fromkeys(one.task for one in outcomes.damages):
        own = [one for one in outcomes.damages if one.task == task]
        body += _figure(
            lambda own=own, task=task: damage_figure(own, task, budget=kind, level=level),
            f"damage-{_slug(task)}",
            lambda own=own, task=task: damage_caption(own, task, budget=kind, level=level),
            figures,
        )
        body += _damage_table(own, task)
    return body


def _damage_table(own: Sequence[Damage], task: str) -> str:
    """One row per arm and budget and one column per measure: the change, marked where it is shown."""
    measures = list(dict.fromkeys(one.measure for one in own))
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for one in own:
        at = "" if one.budget == "none" else f"{one.budget} {one.level:g}"
        rows.setdefault((one.arm, at), {})[one.measure] = _change(one)
    cells = [[*head, *(row.get(measure, "") for measure in measures)] for head, row in rows.items()]
    return table_html(["arm", "budget", *measures], cells, label=f"Damage on {task}")


def _change(one: Damage) -> str:
    if not math.isfinite(one.difference):
        return ""
    return f"{number(one.difference)}{' *' if one.low > 0 or one.high < 0 else ''}"


def _middle_budget(spec: Spec) -> tuple[BudgetKind, float]:
    """The budget that figures of a single one are drawn at: the middle KL level, or else the first of all."""
    return spec.budgets.levels()[len(spec.budgets.kl) // 2]


def _forests(run: Run, outcomes: Outcomes, figures: Path) -> str:
    body = ""
    kind, level = _middle_budget(run.spec)
    for compared in run.tasks:
        task, metric = compared.task.name, compared.task.metrics[0].name
        found = outcomes.contrasts
        body += _figure(
            lambda t=task, m=metric, f=found: arm_forest_figure(f, t, metric=m, budget=kind, level=level),
            f"arms-{_slug(task)}",
            "Paired differences to the unsteered model on test items; arms that did not reach the budget are left out.",
            figures,
        )
    return body


def _domains(outcomes: Outcomes, figures: Path) -> str:
    counts = outcomes.frames["domains"]
    body = ""
    chosen = counts[(counts.arm.str.startswith("cds")) & (counts.against == "whole-dimension")]
    rows: list[Any] = list(chosen.itertuples())
    for row in rows:
        options = {"metric": row.metric, "budget": row.budget, "level": row.level}
        body += _figure(
            lambda row=row, options=options: domain_forest_figure(
                [one for one in outcomes.contrasts if one.task.split("/")[0] == row.task],
                str(row.arm),
                str(row.against),
                **options,
            ),
            f"domains-{_slug(f'{row.task}-{row.arm}-{row.metric}-{row.budget}-{row.level:g}')}",
            "Differences between two arms at the same budget in every domain, as in a count of subjects won.",
            figures,
        )
    return body + (_frame(counts, "Domains ahead and behind, with the sign test") if len(counts) else "")


def _strengths(outcomes: Outcomes, figures: Path) -> str:
    body = ""
    for task in dict.fromkeys(one.task for one in outcomes.curves if one.strengths):
        body += _figure(
            lambda task=task: strength_figure(outcomes.curves, task),
            f"strength-{_slug(task)}",
            "Effects on tuning items, so that strengths may be chosen by them; the shaded band shows a wanted effect "
            "below the limit of damage.",
            figures,
        )
    bands = outcomes.frames["bands"]
    return body + (_frame(bands, "Usable bands of the strength") if len(bands) else "")


def _all(outcomes: Outcomes) -> str:
    names = ["task", "arm", "metric", "budget", "level", "against", "setting", "strength", "kl"]
    names += ["effect", "low", "high", "q", "n", "verdict", "minimum_detectable_effect", "note"]
    frame = outcomes.frames["contrasts"]
    kept = frame[frame.is_primary].loc[:, names]
    more = "" if len(kept) <= N_ROWS else f" The first {N_ROWS} rows are shown."
    text = f"Primary metrics; tables/contrasts.csv holds all metrics.{more}"
    return f"<p>{escape(text)}</p>" + _frame(kept.head(N_ROWS), "Contrasts on the primary metric of every task")


# --- parts ------------------------------------------------------------------------------------------------------------


def _figure(draw: Callable[[], Any], name: str, words: str | Callable[[], str], folder: Path) -> str:
    """A figure on the page and as a file, with its caption; nothing where there is nothing to draw."""
    try:
        figure = draw()
    except ValueError:
        return ""
    caption = words if isinstance(words, str) else words()
    write_figure(figure, folder / f"{name}.html", caption=f"{figure_title(figure)}. {caption}")
    return figure_fragment(figure, name=name, caption=caption)


def _frame(frame: pd.DataFrame, label: str) -> str:
    rows = [[_text(value) for value in row] for row in frame.itertuples(index=False)]
    return table_html([str(name) for name in frame.columns], rows, label=label)


def _text(value: object) -> str:
    if isinstance(value, bool | str):
        return str(value)
    return number(float(value)) if isinstance(value, int | float) else str(value)


def _metrics(contrasts: Sequence[Contrast]) -> list[str]:
    return list(dict.fromkeys(one.metric for one in contrasts if one.is_primary and one.against == UNSTEERED))


def _slug(text: str) -> str:
    return "".join(sign if sign.isalnum() else "-" for sign in text)
