"""The figures of a run for a paper, and the gallery that shows each with the call that makes it; no model is needed."""

import hashlib
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from workbench.dimensions import frequency_table
from workbench.dimensions.labels import label_curve
from workbench.environment import library_versions
from workbench.figures import (
    Drawing,
    Section,
    against_unsteered,
    between_arms,
    dcd_caption,
    dcd_figure,
    detector_caption,
    detector_figure,
    difference_caption,
    difference_figure,
    effect_caption,
    effect_figure,
    export_figures,
    figure_fragment,
    first_position_caption,
    first_position_figure,
    forest_caption,
    forest_figure,
    frequency_caption,
    frequency_figure,
    magnitude_caption,
    magnitude_figure,
    profile_caption,
    profile_figure,
    token_words,
    write_page,
)
from workbench.figures.masking import (
    drop_caption,
    drop_figure,
    magnitude_drop_caption,
    magnitude_drop_figure,
    overlap_caption,
    overlap_figure,
)
from workbench.figures.recall import recall_caption, recall_figure
from workbench.figures.verdicts import (
    agreement_caption,
    agreement_figure,
    basis_caption,
    basis_figure,
    label_curve_caption,
    label_curve_figure,
    rank_caption,
    rank_figure,
    verdict_caption,
    verdict_figure,
)
from workbench.masking.tables import criticality_tables, load_criticality
from workbench.records import (
    BasisScore,
    Comparison,
    LabelScore,
    ReadingAgreement,
    SelectionStability,
    Verdict,
    load_table,
)
from workbench.report.material import Material, read_material
from workbench.runs import MASKING

RARE = 0.05  # dimensions active in a smaller share of every domain's prompts are not drawn
N_DETECTORS = 3  # per domain
# Before the calls of the gallery.
PREAMBLE = """\
from pathlib import Path
from workbench.dimensions import frequency_table
from workbench.masking.tables import criticality_tables
from workbench.masking.tables import load_criticality
from workbench.figures import *
from workbench.figures.masking import *
from workbench.figures.recall import *
from workbench.figures.verdicts import *
from workbench.dimensions.labels import label_curve
from workbench.records import *
from workbench.report import read_material

run = read_material(Path("{folder}"))
words = token_words(run.detectors)
"""


def paper_drawings(run: Material) -> list[Drawing]:
    """Every figure that the records of a run allow, with caption and call; ready to be exported."""
    own = [*_magnitudes(run), *_dimensions(run), *_detectors(run)]
    return [*own, *_masking(run), *_verdicts(run), *_labels(run), *_stability(run), *_steering(run)]


def write_paper(run_folder: str | Path, out: str | Path, *, preset: str | None = None) -> tuple[list[Path], str | None]:
    """Write the paper's figures of a run into `out` with their data, captions and a manifest, and the gallery.

    Returns the paths, and one line on what to install where only HTML and CSV could be written. Raises ValueError where
    the folder holds no records.
    """
    run_folder, out = Path(run_folder), Path(out)
    run = read_material(run_folder)
    drawings = paper_drawings(run)
    paths, obstacle = export_figures(drawings, out, _manifest(run), preset=preset)
    return [*paths, write_gallery(drawings, run_folder, out / "gallery.html"), _write_index(drawings, out)], obstacle


def write_gallery(drawings: Sequence[Drawing], run_folder: Path, path: Path) -> Path:
    """One page with all figures, each with its caption and the call that makes it."""
    preamble = PREAMBLE.format(folder=f"runs/{run_folder.resolve().name}")
    lead = f"<p>Every figure is made from records, without a model. Before each call:</p>{_code(preamble, 'Preamble')}"
    sections = [
        Section(
            drawing.name,
            drawing.name.replace("-", " ").capitalize(),
            _code(drawing.call, f"Call that makes {drawing.name}")
            + figure_fragment(drawing.figure, name=drawing.name, caption=drawing.caption),
        )
        for drawing in drawings
    ]
    return write_page(path, title="Gallery of figures", lead=lead, sections=sections)


def _code(text: str, label: str) -> str:
    return f'<pre tabindex="0" role="region" aria-label="{escape(label, quote=True)}"><code>{escape(text)}</code></pre>'


def _write_index(drawings: Sequence[Drawing], out: Path) -> Path:
    lines = ["# Figures", "", "Written by `make figures`; data, sizes and hashes stand in `manifest.json`.", ""]
    for drawing in drawings:
        lines += [f"## {drawing.name}", "", f"![{drawing.caption}]({drawing.name}.png)", "", drawing.caption, ""]
        lines += [f"`{drawing.call}`", ""]
    path = out / "README.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _manifest(run: Material) -> dict[str, Any]:
    """What the figures were drawn from and with; no path of this machine."""
    kept = ("written", "preset", "settings", "seeds", "model", "data", "versions")
    folder = run.folder / "records"
    hashes = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return {
        "run": {name: run.manifest[name] for name in kept if name in run.manifest},
        "records": hashes,
        "drawn_with": library_versions(),
    }


def _magnitudes(run: Material) -> list[Drawing]:
    if run.statistics is None:
        return []
    statistics, words = run.statistics, token_words(run.detectors)
    found = [
        Drawing(
            "magnitudes",
            magnitude_figure(statistics, words=words),
            magnitude_caption(statistics),
            "magnitude_figure(run.statistics, words=words)",
        ),
        Drawing(
            "first-positions",
            first_position_figure(statistics),
            first_position_caption(statistics),
            "first_position_figure(run.statistics)",
        ),
    ]
    if run.dcds:
        dimension = max(run.dcds, key=lambda dcd: (dcd.frequency - dcd.frequency_elsewhere, -dcd.dimension)).dimension
        figure, caption = profile_figure(statistics, dimension, words=words), profile_caption(statistics, dimension)
        call = f"profile_figure(run.statistics, {dimension}, words=words)"
        found.append(Drawing("profile", figure, caption, call, "one-column"))
    return found


def _dimensions(run: Material) -> list[Drawing]:
    words, found = token_words(run.detectors), []
    if run.rows is not None and (frequency := frequency_table(run.rows)).to_numpy().max() >= RARE:
        figure = frequency_figure(frequency, at_least=RARE, words=words)
        call = f"frequency_figure(frequency_table(run.rows), at_least={RARE}, words=words)"
        found.append(Drawing("frequency", figure, frequency_caption(frequency), call))
    if run.dcds:
        figure = dcd_figure(run.dcds, words=words)
        found.append(Drawing("dimensions", figure, dcd_caption(run.dcds), "dcd_figure(run.dcds, words=words)"))
    return found


def _detectors(run: Material) -> list[Drawing]:
    if not run.detectors:
        return []
    figure, call = detector_figure(run.detectors, N_DETECTORS), f"detector_figure(run.detectors, {N_DETECTORS})"
    return [Drawing("detectors", figure, detector_caption(run.detectors), call)]


def _masking(run: Material) -> list[Drawing]:
    folder = run.folder / "records" / MASKING
    if not folder.is_dir():
        return []
    result = load_criticality(folder)
    tables, path = criticality_tables(result), "full" if "zero" in result.plan.exhaustive else "screened"
    drops, masked, agreement = (tables[name] for name in ("loss_increases", "masked", "agreement"))
    of_run = 'criticality_tables(load_criticality(run.folder / "records/masking"))'
    overlap = overlap_caption(agreement, k=result.plan.k, path=path)
    drawn = [
        ("drops", "loss_increases", "drop_figure", drop_figure(drops), drop_caption(drops, path=path)),
        ("magnitude", "masked", "magnitude_drop_figure", magnitude_drop_figure(masked), magnitude_drop_caption(masked)),
        ("overlap", "agreement", "overlap_figure", overlap_figure(agreement), overlap),
    ]
    found = [
        Drawing(f"masking-{name}", figure, caption, f'{function}({of_run}["{table}"])')
        for name, table, function, figure, caption in drawn
    ]
    if "recall" in tables:
        recall = tables["recall"]
        call = f'recall_figure({of_run}["recall"])'
        found.append(Drawing("masking-recall", recall_figure(recall), recall_caption(recall), call))
    return found


def _verdicts(run: Material) -> list[Drawing]:
    found = _records(run, "verdicts", Verdict)
    call = 'verdict_figure(load_table(run.folder / "records/verdicts.json", Verdict))'
    return [Drawing("verdicts", verdict_figure(found), verdict_caption(found), call)] if found else []


def _labels(run: Material) -> list[Drawing]:
    """The curve of tested labels, and the coordinate basis beside rotated ones where a run holds their scores."""
    labels, bases = _records(run, "labels", LabelScore), _records(run, "bases", BasisScore)
    drawn = []
    if labels:
        curve = label_curve(labels)
        call = 'label_curve_figure(label_curve(load_table(run.folder / "records/labels.json", LabelScore)))'
        drawn.append(Drawing("label-curve", label_curve_figure(curve), label_curve_caption(curve), call))
    if bases:
        call = 'basis_figure(load_table(run.folder / "records/bases.json", BasisScore))'
        drawn.append(Drawing("bases", basis_figure(bases), basis_caption(bases), call))
    return drawn


def _stability(run: Material) -> list[Drawing]:
    selections, readings = _records(run, "selections", SelectionStability), _records(run, "readings", ReadingAgreement)
    drawn = []
    if selections:
        by = selections[0].selection
        own = [item for item in selections if item.selection == by]
        table = 'load_table(run.folder / "records/selections.json", SelectionStability)'
        call = f"rank_figure([item for item in {table} if item.selection == {by!r}])"
        drawn.append(Drawing("ranks", rank_figure(own), rank_caption(own), call))
    if readings:
        call = 'agreement_figure(load_table(run.folder / "records/readings.json", ReadingAgreement))'
        figure, caption = agreement_figure(readings), agreement_caption(readings)
        drawn.append(Drawing("readings", figure, caption, call))
    return drawn


def _records(run: Material, name: str, kind: type[Any]) -> list[Any]:
    path = run.folder / "records" / f"{name}.json"
    return load_table(path, kind) if path.is_file() else []


def _steering(run: Material) -> list[Drawing]:
    found = []
    unsteered, pairs = against_unsteered(run.comparisons), between_arms(run.comparisons)
    for metric in dict.fromkeys(item.metric for item in unsteered):
        level = _middle_level(unsteered, metric)
        name = "".join(sign if sign.isalnum() else "-" for sign in metric.lower())
        call = f"effect_figure(run.comparisons, {metric!r})"
        figure, caption = effect_figure(run.comparisons, metric), effect_caption(run.comparisons, metric)
        found.append(Drawing(f"effect-{name}", figure, caption, call))
        figure, caption = forest_figure(unsteered, level, metric), forest_caption(unsteered, level, metric)
        found.append(Drawing(f"forest-{name}", figure, caption, f"forest_figure(run.comparisons, {level}, {metric!r})"))
        if any(item.metric == metric and item.budget == level for item in pairs):
            figure, caption = difference_figure(pairs, level, metric), difference_caption(pairs, level, metric)
            call = f"difference_figure(run.comparisons, {level}, {metric!r})"
            found.append(Drawing(f"difference-{name}", figure, caption, call))
    return found


def _middle_level(comparisons: Sequence[Comparison], metric: str) -> float:
    levels = sorted({item.budget for item in comparisons if item.metric == metric})
    return levels[len(levels) // 2]
