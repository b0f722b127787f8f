"""`workbench verdict`: sink or detector, with the evidence."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
    model: Annotated[
        str, typer.Option("--model", help="'builtin', 'planted', a model folder, or a Hugging Face id.")
    ] = "builtin",
    corpus: Annotated[
        str, typer.Option("--corpus", help="'builtin', a folder of text, a .jsonl file, or hf:owner/dataset.")
    ] = "builtin",
    domains: Annotated[
        str | None, typer.Option("--domains", help="Domains of the corpus, separated by commas; or its path.")
    ] = None,
    k: Annotated[int, typer.Option("--k", help="Dimensions per domain and selection.")] = 8,
    criterion: Annotated[
        str, typer.Option("--criterion", help="What is massive: '3-sigma', 'Sun et al.', '1000 x median' ...")
    ] = "3-sigma",
    masking: Annotated[
        list[Path] | None,
        typer.Option(
            "--masking",
            help="File test-zero.safetensors or test-mean.safetensors of `workbench mask --dimensions`; repeat.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Same seed, same tables.")] = 0,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 or mps.")] = "cpu",
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = "float32",
    quick: Annotated[bool, typer.Option("--quick", help="Less text.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write the whole table to this CSV file.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Passages per forward pass.")] = 32,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Cut passages that are longer than the model's context.")
    ] = False,
    download: Annotated[bool, typer.Option("--download", help="Allow downloads from the Hugging Face hub.")] = False,
) -> None:
    """Judge every massive or domain-critical dimension: sink, detector, both or neither."""
    from workbench.cli import jobs
    from workbench.dimensions.massive import criterion_named
    from workbench.records import load_masking
    from workbench.study import Settings

    criterion_named(criterion)
    if out is not None:
        jobs.check_file(out)
    results = [load_masking(_existing(path)) for path in masking or []]
    source, names = jobs.source_and_domains(corpus, domains)
    preset = "quick" if quick else "full"
    settings = Settings(model, source, names, k, seed, device, dtype, preset, batch_size, truncate, download)
    _perform(settings, criterion, results, out)


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
    if out is not None:
        jobs.write_table(frame, out)
        typer.echo(f"table: {out}")


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist or is no file; make FOLDER/test-zero.safetensors and the like with: "
            "workbench mask --dimensions 0-31 --mode all --out FOLDER"
        )
    return path


def _shown(frame: "pd.DataFrame", has_costs: bool) -> str:
    shown = ["domain", "dimension", "verdict", "share_first", "share_delimiter", "constancy", "auroc", "low", "high"]
    shown += ["control_share", "cost_zero", "cost_mean"] if has_costs else ["control_share"]
    shorter = {name: [f"{value:.{3 if 'cost' in name else 2}f}" for value in frame[name]] for name in shown[3:]}
    return frame.assign(**shorter).to_string(index=False, columns=shown, header=[HEADS.get(n, n) for n in shown])
