"""Every figure that a run can be drawn as, once: its name, the records it needs, the figure and its caption.

Report, paper, gallery and `workbench figures` read this list. A figure that finds nothing to draw returns None and is
left out; one that fails ends the drawing with its name.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import plotly.graph_objects as go

from workbench.figures import comparison, detectors, dimensions, magnitudes, masking, verdicts
from workbench.figures.comparison import middle_budget
from workbench.figures.export import Drawing
from workbench.records import Contrast, Damage, Dimension, SelectionStability, StrengthCurve

MAX_PANELS = 12  # tasks in one figure; further ones get a figure of their own
MIN_DOMAINS = 5  # that a count of domains is drawn of
N_PROFILES = 6
Variants = Mapping[str, Mapping[str, Any]]  # suffix of the name -> keyword arguments of figure and caption


class FigureError(RuntimeError):
    """A figure could not be drawn from records that are there: a fault of the figure, which the message names."""


@runtime_checkable
class Records(Protocol):
    """A run, as far as figures are concerned: records by name, and whether they are there."""

    def has(self, name: str) -> bool: ...


@dataclass(frozen=True)
class Of:
    """An argument that is an attribute of the run, or an entry of one that is a mapping (`masking_tables.drops`)."""

    name: str

    def get(self, run: Records) -> Any:
        name, _, key = self.name.partition(".")
        return getattr(run, name).get(key) if key else getattr(run, name)

    def __repr__(self) -> str:
        name, _, key = self.name.partition(".")
        return f'run.{name}["{key}"]' if key else f"run.{name}"


def _alone(*records: Any) -> Variants:
    return {"": {}}


@dataclass(frozen=True)
class FigureKind:
    """One entry of the catalogue. `needs` are the positional arguments of figure and caption, read from the run.

    `variants` says from the records in `varied_by`, or else from the same, how often the figure is drawn and with which
    keyword arguments.
    """

    name: str
    needs: tuple[str, ...]
    figure: Callable[..., go.Figure | None]
    caption: Callable[..., str]
    variants: Callable[..., Variants] = _alone
    varied_by: tuple[str, ...] = ()
    figure_options: Mapping[str, Any] = field(default_factory=dict)
    caption_options: Mapping[str, Any] = field(default_factory=dict)
    preset: str = "two-column"

    def draw(self, run: Records) -> list[Drawing]:
        """Every variant that the run's records allow."""
        arguments = [Of(name) for name in self.needs]
        varied_by = [Of(name) for name in self.varied_by or self.needs]
        if not all(run.has(one.name.partition(".")[0]) for one in (*arguments, *varied_by)):
            return []
        records = [one.get(run) for one in arguments]
        if any(record is None for record in records):
            return []
        drawn = []
        for suffix, given in self.variants(*(one.get(run) for one in varied_by)).items():
            name = slug(f"{self.name}-{suffix}" if suffix else self.name)
            options, said = dict(given) | dict(self.figure_options), dict(given) | dict(self.caption_options)
            try:
                figure = self.figure(*records, **_filled(options, run))
                caption = "" if figure is None else self.caption(*records, **_filled(said, run))
            except Exception as error:  # whatever it is, the one who reads it must know which figure it came from
                raise FigureError(f"the figure {name} failed: {type(error).__name__}: {error}") from error
            if figure is not None:
                given_as = ", ".join([*map(repr, arguments), *(f"{key}={value!r}" for key, value in options.items())])
                call = f"{self.figure.__name__}({given_as})"
                drawn.append(Drawing(name, figure, caption, call, self.preset, self.name))
        return drawn


def _filled(options: Mapping[str, Any], run: Records) -> dict[str, Any]:
    return {name: value.get(run) if isinstance(value, Of) else value for name, value in options.items()}


def slug(text: str) -> str:
    """Small letters, digits and single hyphens: a file name and an address within a page."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def draw(run: Records, only: Collection[str] = ()) -> list[Drawing]:
    """Every figure that the records of a run allow, or those of the kinds in `only`.

    Raises ValueError for a kind that is not in the catalogue, and `FigureError` where a figure fails.
    """
    known = [kind.name for kind in FIGURES]
    wrong = sorted(set(only) - set(known))
    if wrong:
        raise ValueError(f"there is no figure {wrong[0]!r}; choose from {', '.join(known)}")
    return [drawing for kind in FIGURES if not only or kind.name in only for drawing in kind.draw(run)]


# --- how often a figure is drawn --------------------------------------------------------------------------------------


def telling_dimensions(dcds: Sequence[Dimension]) -> list[int]:
    """The DCD most specific to any domain, the largest of all, then the most specific of every domain."""
    specific = []
    for domain in dict.fromkeys(dcd.domain for dcd in dcds):
        own = [dcd for dcd in dcds if dcd.domain == domain]
        specific.append(max(own, key=lambda dcd: dcd.frequency - dcd.frequency_elsewhere))
    first = max(specific, key=lambda dcd: (dcd.frequency - dcd.frequency_elsewhere, -dcd.dimension))
    largest = max(dcds, key=lambda dcd: dcd.magnitude)
    return list(dict.fromkeys(dcd.dimension for dcd in (first, largest, *specific)))[:N_PROFILES]


def _profiles(dcds: Sequence[Dimension]) -> Variants:
    return {str(dimension): {"dimension": dimension} for dimension in telling_dimensions(dcds)} if dcds else {}


def _selections(selections: Sequence[SelectionStability]) -> Variants:
    return {"": {"selection": selections[0].selection}} if selections else {}


def _metrics(contrasts: Sequence[Contrast]) -> Variants:
    """One variant per metric and dozen of tasks."""
    found: dict[str, dict[str, Any]] = {}
    for metric in dict.fromkeys(one.metric for one in contrasts if one.against == comparison.UNSTEERED):
        own = [one for one in contrasts if one.metric == metric]
        tasks = list(dict.fromkeys(one.task for one in own))
        for start in range(0, len(tasks), MAX_PANELS):
            group = {"tasks": tuple(tasks[start : start + MAX_PANELS])} if len(tasks) > MAX_PANELS else {}
            found[f"{metric}-{start // MAX_PANELS + 1}" if start else metric] = {"metric": metric, **group}
    return found


def _at_the_middle(contrasts: Sequence[Contrast]) -> Variants:
    at = middle_budget(contrasts)
    if at is None:
        return {}
    return {name: {**given, "budget": at[0], "level": at[1]} for name, given in _metrics(contrasts).items()}


def _by_domain(contrasts: Sequence[Contrast]) -> Variants:
    """CDS against the whole-dimension arm over the domains of a kind of task, where there are enough to count."""
    at, found = middle_budget(contrasts), {}
    groups: dict[tuple[str, str, str, str], set[str]] = {}
    for one in contrasts:
        is_rival = one.arm.startswith("cds") and one.against in ("whole-dimension", "caa")
        if is_rival and (one.budget, one.level) == at and one.domain and comparison.is_measured(one):
            groups.setdefault((one.task.split("/")[0], one.metric, one.arm, one.against), set()).add(one.domain)
    for (kind, metric, arm, against), domains in groups.items():
        if at is not None and len(domains) >= MIN_DOMAINS:
            place = {"metric": metric, "arm": arm, "against": against, "kind": kind, "budget": at[0], "level": at[1]}
            found[f"{arm}-{kind}" if slug(kind) == slug(metric) else f"{arm}-{kind}-{metric}"] = place
    return found


def _tasks_of_curves(curves: Sequence[StrengthCurve]) -> Variants:
    return {task: {"task": task} for task in dict.fromkeys(one.task for one in curves if one.strengths)}


def _tasks_of_damage(damage: Sequence[Damage]) -> Variants:
    at = middle_budget(damage)
    if at is None:
        return {}
    return {one: {"task": one, "budget": at[0], "level": at[1]} for one in dict.fromkeys(each.task for each in damage)}


# --- the catalogue ----------------------------------------------------------------------------------------------------

WORDS = {"words": Of("words")}
TABLES = "masking_tables"
FIGURES: tuple[FigureKind, ...] = (
    FigureKind(
        "magnitudes",
        ("statistics",),
        magnitudes.magnitude_figure,
        magnitudes.magnitude_caption,
        figure_options=WORDS,
    ),
    FigureKind("first-positions", ("statistics",), magnitudes.first_position_figure, magnitudes.first_position_caption),
    FigureKind(
        "frequency", ("frequency",), magnitudes.frequency_figure, magnitudes.frequency_caption, figure_options=WORDS
    ),
    FigureKind("dimensions", ("dcds",), dimensions.dcd_figure, dimensions.dcd_caption, figure_options=WORDS),
    FigureKind(
        "profile",
        ("statistics",),
        magnitudes.profile_figure,
        magnitudes.profile_caption,
        _profiles,
        ("dcds",),
        figure_options=WORDS,
        preset="one-column",
    ),
    FigureKind("detectors", ("detectors",), detectors.detector_figure, detectors.detector_caption),
    FigureKind(
        "masking-drops",
        (f"{TABLES}.loss_increases",),
        masking.drop_figure,
        masking.drop_caption,
        caption_options={"path": Of("masking_path")},
    ),
    FigureKind(
        "masking-magnitude", (f"{TABLES}.masked",), masking.magnitude_drop_figure, masking.magnitude_drop_caption
    ),
    FigureKind(
        "masking-overlap",
        (f"{TABLES}.agreement",),
        masking.overlap_figure,
        masking.overlap_caption,
        caption_options={"path": Of("masking_path"), "k": Of("masking_k")},
    ),
    FigureKind("masking-recall", (f"{TABLES}.recall",), masking.recall_figure, masking.recall_caption),
    FigureKind("masked-exam", ("exam",), masking.exam_figure, masking.exam_caption, preset="one-column"),
    FigureKind("verdicts", ("verdicts",), verdicts.verdict_figure, verdicts.verdict_caption),
    FigureKind("label-curve", ("label_curve",), verdicts.label_curve_figure, verdicts.label_curve_caption),
    FigureKind("bases", ("bases",), verdicts.basis_figure, verdicts.basis_caption),
    FigureKind("ranks", ("selections",), verdicts.rank_figure, verdicts.rank_caption, _selections),
    FigureKind("readings", ("readings",), verdicts.agreement_figure, verdicts.agreement_caption),
    FigureKind("effect", ("primary",), comparison.trade_off_figure, comparison.trade_off_caption, _metrics),
    FigureKind("front", ("primary",), comparison.front_figure, comparison.front_caption, _metrics),
    FigureKind("forest", ("primary",), comparison.forest_figure, comparison.forest_caption, _at_the_middle),
    FigureKind("difference", ("primary",), comparison.difference_figure, comparison.difference_caption, _at_the_middle),
    FigureKind("domains", ("primary",), comparison.domain_forest_figure, comparison.domain_forest_caption, _by_domain),
    FigureKind("strength", ("curves",), comparison.strength_figure, comparison.strength_caption, _tasks_of_curves),
    FigureKind("damage", ("damage",), comparison.damage_figure, comparison.damage_caption, _tasks_of_damage),
)
