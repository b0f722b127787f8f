"""`workbench verdict`: sink or detector, with the evidence."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.options import K, Quick, Table, TextOptions

if TYPE_CHECKING:
    import pandas as pd

    from workbench.records import MaskingResult
    from workbench.study import Settings

HEADS = {  # of the printed table, which is to fit into 80 columns; the CSV file has the full names
    "dimension": "dim",
    "share_first": "first",
    "share_delimiter": "delimiter",
    "control_share": "control",
    "cost_zero": "zero",
    "cost_mean": "mean",
}


def verdict(
    options: TextOptions,
    k: K = 8,
    criterion: Annotated[
        str, typer.Option("--criterion", help="What is massive: '3-sigma', 'Sun et al.', '1000 x median' ...")
    ] = "3-sigma",
    masking: Annotated[
        list[Path] | None,
        typer.Option(
            "--masking",
            exists=True,
            dir_okay=False,
            help="File test-zero.safetensors or test-mean.safetensors of `workbench mask --dimensions`; repeat.",
        ),
    ] = None,
    quick: Quick = False,
    out: Table = None,
) -> None:
    """Judge every massive or domain-critical dimension: sink, detector, both, neither or always on."""
    from workbench.dimensions.massive import criterion_named
    from workbench.records import MaskingResult, load_record

    criterion_named(criterion)
    results = [load_record(path, MaskingResult) for path in masking or []]
    _perform(options.settings(k=k, preset="quick" if quick else "full"), criterion, results, out)


def _perform(settings: "Settings", criterion: str, masking: Sequence["MaskingResult"], out: Path | None) -> None:
    """Survey the passages, judge, print, and write the table if a file is named."""
    from workbench.cli import jobs, output
    from workbench.dimensions import Rule, detector_share, find_dcds, find_verdicts, verdict_frame
    from workbench.records import SELECTIONS
    from workbench.study import load_passages, open_model, survey

    with output.progress_bars() as (stage, _):
        load_passages(settings)
        loaded = open_model(settings)
        rows = survey(loaded, load_passages(settings, loaded), settings, stage)[1]
    dcds = [dcd for selection in SELECTIONS for dcd in find_dcds(rows, k=settings.k, selection=selection)]
    found = find_verdicts(rows, dcds, masking=masking, rule=Rule(criterion=criterion), seed=settings.seed)
    frame = verdict_frame(found)
    typer.echo(_shown(frame, bool(masking)))
    share = detector_share(rows, {item.dimension for item in found}, seed=settings.seed)
    counts = ", ".join(f"{n} {name}" for name, n in Counter(item.verdict for item in found).most_common())
    typer.echo(f"\n{counts}\nof other dimensions, {sum(share.values()) / len(share):.0%} reach the AUROC of a detector")
    jobs.write_table(frame, out)


def _shown(frame: "pd.DataFrame", has_costs: bool) -> str:
    shown = ["domain", "dimension", "verdict", "share_first", "share_delimiter", "constancy", "auroc", "low", "high"]
    shown += ["control_share", "cost_zero", "cost_mean"] if has_costs else ["control_share"]
    shorter = {name: [f"{value:.{3 if 'cost' in name else 2}f}" for value in frame[name]] for name in shown[3:]}
    return frame.assign(**shorter).to_string(index=False, columns=shown, header=[HEADS.get(n, n) for n in shown])
