"""The command line: its commands in groups, each with an example; a mistake is one line and exit code 2."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, NoReturn

import typer

from workbench import __version__
from workbench.cli.compare import compare
from workbench.cli.explore import card
from workbench.cli.harness import lm_eval
from workbench.cli.mask import mask, mask_exam
from workbench.cli.methods import fit, heads, layers, methods, steer
from workbench.cli.options import bundled
from workbench.cli.paper import figures, paper
from workbench.cli.study import doctor, find, label, models, study
from workbench.cli.terminal import one_line, plain_streams
from workbench.cli.verdicts import verdict

COMMANDS: dict[str, tuple[tuple[Callable[..., None], str], ...]] = {
    "Find and label": (
        (study, "study --quick --out runs/demo"),
        (find, "find --domains law,code --k 4 --out dcds.csv"),
        (label, "label --selection discrimination"),
        (verdict, "verdict --criterion 3-sigma --quick"),
        (card, "card --dimension 3 --domain law --out card.html"),
        (mask, "mask --dimensions 3,17,40-47 --mode all --out masked"),
        (mask_exam, "mask-exam specs/gemma-2-2b-it-masking.toml --plan"),
    ),
    "Steer": (
        (steer, 'steer "The owner of the house" --domain law --strength 2'),
        (fit, "fit --method austeer --domain law --out law.safetensors"),
        (layers, "layers --persona pirate"),
        (heads, "heads --persona pirate --layer 3"),
        (methods, "methods"),
    ),
    "Compare": (
        (compare, "compare --methods cds,austeer --tasks refusal,domain-loss:law --quick"),
        (lm_eval, "lm-eval arc_easy --artefact law.safetensors --limit 100"),
    ),
    "Publish": (
        (figures, "figures runs/study"),
        (paper, "paper runs/study --out figures --preset one-column"),
    ),
    "Help": ((doctor, "doctor --architectures"), (models, "models")),
}
RESUMED = ("compare", "mask-exam")

app = typer.Typer(
    help="Find, label and steer the residual dimensions of a language model that belong to a domain.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for panel, commands in COMMANDS.items():
    for command, example in commands:
        name = command.__name__.replace("_", "-")
        app.command(name, rich_help_panel=panel, epilog=f"Example: workbench {example}")(bundled(command))


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
        job = next((argument for argument in arguments if not argument.startswith("-")), "")
        state = "finished cells are kept; rerun the command to resume" if job in RESUMED else "nothing was written"
        typer.echo(f"workbench: interrupted; {state}", err=True)
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
