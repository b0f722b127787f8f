"""The commands and their options. Heavy imports stand inside the commands; a mistake is one line and exit code 2."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from workbench import __version__
from workbench.cli.compare import compare
from workbench.cli.explore import card
from workbench.cli.harness import lm_eval
from workbench.cli.mask import mask, mask_exam
from workbench.cli.methods import fit, heads, layers, methods
from workbench.cli.paper import figures, paper
from workbench.cli.terminal import one_line, plain_streams
from workbench.cli.verdicts import verdict

if TYPE_CHECKING:
    from workbench.study import Settings

app = typer.Typer(
    help="Find, label and steer the residual dimensions of a language model that belong to a domain.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[str, typer.Option("--model", help="'builtin', a model folder, or a Hugging Face id.")]
Corpus = Annotated[
    str, typer.Option("--corpus", help="'builtin', a folder of text, a .jsonl file, or hf:owner/dataset.")
]
Domains = Annotated[
    str | None,
    typer.Option("--domains", help="Domains of the corpus, separated by commas; or the path of a corpus of your own."),
]
K = Annotated[int, typer.Option("--k", help="Dimensions per domain and selection.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Same seed, same tables.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Passages per forward pass.")]
Truncate = Annotated[bool, typer.Option("--truncate", help="Cut passages that are longer than the model's context.")]
MaxCharacters = Annotated[
    int, typer.Option("--max-characters", help="Documents longer than this are cut into passages.")
]
Download = Annotated[bool, typer.Option("--download", help="Allow downloads from the Hugging Face hub.")]
SelectionName = Annotated[str, typer.Option("--selection", help="magnitude, discrimination or both.")]
TableFile = Annotated[Path | None, typer.Option("--out", help="Write the whole table to this CSV file.")]


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave: 0 done, 2 a mistake of the user (one line on stderr), 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    is_debug = "--debug" in arguments
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        with plain_streams():
            options = [argument for argument in arguments if argument != "--debug"]
            code = app(options, "workbench", standalone_mode=False)
    except KeyboardInterrupt:
        code = 130
    except (typer.TyperException, ValueError, OSError) as error:
        if is_debug:
            raise
        _fail(_one_line(error))
    except RuntimeError as error:
        if is_debug or "out of memory" not in str(error):
            raise
        _fail("the device ran out of memory; try a smaller --batch-size, --dtype bfloat16, or --device cpu")
    if code == 130:
        kept = "the finished cells are kept, the same command goes on from there"
        job = next((argument for argument in arguments if not argument.startswith("-")), "")
        is_resumed = job in ("compare", "mask-exam")
        typer.echo(f"workbench: interrupted; {kept if is_resumed else 'nothing was written'}", err=True)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> NoReturn:
    typer.echo(f"workbench: {one_line(message)}", err=True)
    sys.exit(2)


def _one_line(error: Exception) -> str:
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        path = "workbench" if context is None else context.command_path
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        return f"{' '.join(message.split()).rstrip('.')}; see {path} --help"
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f" {error.filename}"
        return f"cannot use{where}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _show_version(is_asked: bool) -> bool:
    if is_asked:
        typer.echo(f"workbench {__version__}")
        raise typer.Exit()
    return is_asked


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks instead of one-line errors.")] = False,
) -> None:
    """Options of `workbench` itself; `run` takes --debug out wherever it stands."""


@app.command()
def study(
    model: Model = "builtin",
    corpus: Corpus = "builtin",
    domains: Domains = None,
    k: K = 8,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    out: Annotated[Path, typer.Option("--out", help="Folder of the run.")] = Path("runs/study"),
    quick: Annotated[bool, typer.Option("--quick", help="Less text and a smaller comparison.")] = False,
    batch_size: BatchSize = 32,
    truncate: Truncate = False,
    max_characters: MaxCharacters = 1500,
    download: Download = False,
) -> None:
    """The main job: find, label and steer, and write a run folder with a report."""
    from workbench.runs import check_output

    check_output(out)
    from workbench.cli import output
    from workbench.runs import read_run
    from workbench.study import perform

    options = (k, seed, device, dtype, "quick" if quick else "full", batch_size, truncate, download, max_characters)
    settings = _settings(model, corpus, domains, *options)
    with output.progress_bars() as (stage, console):
        perform(
            settings, out, progress=stage, on_estimate=lambda estimate: console.print(output.estimate_line(estimate))
        )
    finished = read_run(out)
    output.print_overview(finished.dcds)
    output.print_detectors(finished.detectors)
    output.print_effects(finished.contrasts)
    typer.echo(f"tables: {out / 'tables'}\nreport: {out / 'report.html'}")


@app.command()
def find(
    model: Model = "builtin",
    corpus: Corpus = "builtin",
    domains: Domains = None,
    k: K = 8,
    selection: SelectionName = "magnitude",
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    out: TableFile = None,
    batch_size: BatchSize = 32,
    truncate: Truncate = False,
    max_characters: MaxCharacters = 1500,
    download: Download = False,
) -> None:
    """Find the domain-critical dimensions (DCDs) of every domain."""
    from workbench.cli import jobs, output
    from workbench.dimensions import dcd_frame

    settings = _settings(
        model, corpus, domains, k, seed, device, dtype, "full", batch_size, truncate, download, max_characters
    )
    chosen = jobs.read_selection(selection)
    if out is not None:
        jobs.check_file(out)
    with output.progress_bars() as (stage, _):
        found = jobs.find(settings, chosen, stage)
    output.print_dcds(found.dcds, chosen)
    if out is not None:
        jobs.write_table(dcd_frame(found.dcds), out)
        typer.echo(f"table: {out}")


@app.command()
def label(
    model: Model = "builtin",
    corpus: Corpus = "builtin",
    domains: Domains = None,
    k: K = 8,
    selection: SelectionName = "magnitude",
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    out: TableFile = None,
    batch_size: BatchSize = 32,
    truncate: Truncate = False,
    max_characters: MaxCharacters = 1500,
    download: Download = False,
) -> None:
    """Label the DCDs by the words that fire them, scored on held-out documents."""
    from workbench import study
    from workbench.cli import jobs, output
    from workbench.dimensions.detectors import detector_frame

    settings = _settings(
        model, corpus, domains, k, seed, device, dtype, "full", batch_size, truncate, download, max_characters
    )
    chosen = jobs.read_selection(selection)
    if out is not None:
        jobs.check_file(out)
    with output.progress_bars() as (stage, _):
        found = jobs.find(settings, chosen, stage)
        detectors = study.label(found.model, found.prompts, found.statistics, found.dcds, settings, stage)
    output.print_detectors(detectors)
    if out is not None:
        jobs.write_table(detector_frame(detectors), out)
        typer.echo(f"table: {out}")


@app.command()
def steer(
    prompt: Annotated[str, typer.Argument(help="Text to continue.")],
    domain: Annotated[str | None, typer.Option("--domain", help="Steer towards this domain.")] = None,
    method: Annotated[str, typer.Option("--method", help="See `workbench methods`.")] = "cds",
    strength: Annotated[float, typer.Option("--strength", help="Multiplies the direction; negative reverses.")] = 1.0,
    layer: Annotated[int | None, typer.Option("--layer", help="0-based; the middle one by default.")] = None,
    artefact: Annotated[Path | None, typer.Option("--artefact", help="Use a saved steering instead.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Save the fitted steering to this file.")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", help="Length of the continuation.")] = 60,
    temperature: Annotated[float, typer.Option("--temperature", help="0 takes the likeliest token.")] = 0.0,
    scope: Annotated[
        str | None,
        typer.Option("--scope", help="Tokens to edit: all, generated ..., or positions."),
    ] = None,
    model: Model = "builtin",
    corpus: Corpus = "builtin",
    domains: Domains = None,
    k: Annotated[int | None, typer.Option("--k", help="Dimensions or units; the method's by default.")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    batch_size: BatchSize = 32,
    truncate: Truncate = False,
    max_characters: MaxCharacters = 1500,
    download: Download = False,
) -> None:
    """Continue a text without and with steering."""
    from workbench.cli import method_jobs, output
    from workbench.interventions import Setting

    settings = _settings(
        model, corpus, domains, 8, seed, device, dtype, "full", batch_size, truncate, download, max_characters
    )
    options = method_jobs.SteerOptions(
        domain, method, Setting(layer, k), strength, artefact, out, max_new_tokens, temperature, scope
    )
    with output.progress_bars():
        plain, steered, steering = method_jobs.continuations(prompt, options, settings)
    sites = ", ".join(str(site) for site in steering.sites)
    typer.echo(f"{type(steering).__name__} at {sites}, strength {strength:g}")
    typer.echo(f"\n--- unsteered\n{prompt}{plain}\n\n--- steered\n{prompt}{steered}")
    if out is not None:
        typer.echo(f"\nsaved: {out}")


@app.command()
def doctor(
    architectures: Annotated[bool, typer.Option("--architectures", help="List the supported architectures.")] = False,
) -> None:
    """Check the installation: versions, device, built-in model, cache, figure export."""
    from workbench.cli.jobs import builtin_model_check, causal_architectures
    from workbench.cli.output import no_other_bars
    from workbench.environment import environment_checks

    if architectures:
        typer.echo("\n".join(causal_architectures()))
        return
    no_other_bars()
    checks = [*environment_checks(), builtin_model_check()]
    for check in checks:
        mark = "ok  " if check.is_ok else "FAIL" if check.needed else "-   "
        typer.echo(f"{mark} {check.name}: {check.detail}")
    if not all(check.is_ok for check in checks if check.needed):
        raise typer.Exit(1)


app.command()(figures)
app.command()(paper)
app.command()(compare)
app.command("lm-eval")(lm_eval)
app.command()(fit)
app.command()(layers)
app.command()(methods)
app.command()(heads)
app.command()(card)
app.command()(mask)
app.command("mask-exam")(mask_exam)
app.command()(verdict)


def _settings(
    model: str,
    corpus: str,
    domains: str | None,
    k: int,
    seed: int,
    device: str,
    dtype: str,
    preset: str,
    batch_size: int,
    truncate: bool,
    download: bool,
    max_characters: int,
) -> "Settings":
    from workbench.cli.jobs import source_and_domains
    from workbench.study import Settings

    source, names = source_and_domains(corpus, domains)
    return Settings(
        model, source, names, k, seed, device, dtype, preset, batch_size, truncate, download, max_characters
    )
