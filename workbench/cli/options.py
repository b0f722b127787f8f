"""Every option of the command line, declared once. A command takes a group of them as one value (`bundled`).

Light to import. What can be checked without a model is checked here, while the options are read.
"""

import inspect
import math
import os
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_type_hints

import typer

from workbench.records import Selection, Where

if TYPE_CHECKING:
    from workbench.study import Settings

BUILTIN, PLANTED = "builtin", "planted"
MOST = 2**31 - 1  # of anything that is counted: more is a slip of the hand
ATTENTIONS, BOS_RULES = ("sdpa", "eager"), ("auto", "always", "never")
TEXT_PANEL, RUN_PANEL = "Model and text", "How it runs"


# --- checks -----------------------------------------------------------------------------------------------------------


def check_file(path: Path | None) -> Path | None:
    """Raise unless a file or folder can be written at `path`; before long work, so that the work is not lost."""
    if path is not None:
        above = next(parent for parent in path.absolute().parents if parent.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise ValueError(f"cannot write {path}; name a place in a folder that can be written")
    return path


def check_table(path: Path | None) -> Path | None:
    """As `check_file`, of what must not be a folder."""
    if path is not None and path.is_dir():
        raise ValueError(f"cannot write {path}, which is a folder; name a file")
    return check_file(path)


def check_model(name: str) -> str:
    """Raise for the path of a model that is not there; ids of the hub are looked up when the model is loaded."""
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if is_path and not Path(name).expanduser().exists():
        raise ValueError(f"model folder {name!r} does not exist; check the path, or give a Hugging Face id")
    return name


def finite(option: str) -> Callable[[float], float]:
    """A check that raises for NaN and infinity, naming the option."""

    def check(value: float) -> float:
        if not math.isfinite(value):
            raise ValueError(f"{option} = {value} should be a finite number, such as 2 or 0.5")
        return value

    return check


def read_where(text: str) -> Where | tuple[int, ...]:
    """A named set of tokens, or absolute positions separated by commas."""
    for where in get_args(Where):
        if where == text:
            return where
    positions = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in positions):
        raise ValueError(
            f"unknown scope {text!r}; choose one of {', '.join(get_args(Where))}, or positions such as 3,4"
        )
    return tuple(int(part) for part in positions)


def _check_scope(text: str | None) -> str | None:
    if text is not None:
        read_where(text)
    return text


def _one_of(*names: str) -> Callable[[str], str]:
    """A check for one of some words; nothing given passes."""

    def check(text: str) -> str:
        if text and text not in names:
            raise ValueError(f"unknown choice {text!r}; choose one of {', '.join(names)}")
        return text

    return check


def words(text: str) -> tuple[str, ...]:
    """What stands between the commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


# --- options ----------------------------------------------------------------------------------------------------------

Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="'builtin', 'planted', a model folder, or a Hugging Face id.",
        rich_help_panel=TEXT_PANEL,
        callback=check_model,
    ),
]
Corpus = Annotated[
    str,
    typer.Option(
        "--corpus", help="'builtin', a folder of text, a .jsonl file, or hf:owner/dataset.", rich_help_panel=TEXT_PANEL
    ),
]
Domains = Annotated[
    str | None,
    typer.Option(
        "--domains",
        help="Domains of the corpus, separated by commas; or the path of a corpus of your own.",
        rich_help_panel=TEXT_PANEL,
    ),
]
MaxCharacters = Annotated[
    int,
    typer.Option(
        "--max-characters", min=1, max=MOST, help="Longer documents are cut into passages.", rich_help_panel=TEXT_PANEL
    ),
]
Truncate = Annotated[
    bool,
    typer.Option("--truncate", help="Cut passages longer than the model's context.", rich_help_panel=TEXT_PANEL),
]
Download = Annotated[
    bool,
    typer.Option("--download", help="Allow downloads from the Hugging Face hub.", rich_help_panel=TEXT_PANEL),
]
Seed = Annotated[
    int, typer.Option("--seed", min=0, max=2**32 - 1, help="Same seed, same result.", rich_help_panel=RUN_PANEL)
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 or mps.", rich_help_panel=RUN_PANEL)]
Dtype = Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.", rich_help_panel=RUN_PANEL)]
Attention = Annotated[
    str,
    typer.Option(
        "--attention",
        help="auto (as Hugging Face prefers), sdpa, or eager (with hooks inside attention).",
        rich_help_panel=RUN_PANEL,
        callback=_one_of("auto", *ATTENTIONS),
    ),
]
Bos = Annotated[
    str,
    typer.Option(
        "--bos",
        help="BOS token in front of every text: auto (as the tokenizer does), always or never.",
        rich_help_panel=TEXT_PANEL,
        callback=_one_of(*BOS_RULES),
    ),
]
ShownAs = Annotated[
    str, typer.Option("--name", help="What the model is called in what is written.", rich_help_panel=TEXT_PANEL)
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, max=MOST, help="Passages per forward pass.", rich_help_panel=RUN_PANEL)
]
Quick = Annotated[bool, typer.Option("--quick", help="Less text, fewer items; what is left out is reported.")]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Print only how much there is to do; no weights needed.")]
K = Annotated[int, typer.Option("--k", min=1, max=MOST, help="Dimensions per domain.")]
UnitCount = Annotated[
    int | None, typer.Option("--k", min=1, max=MOST, help="Units, heads or dimensions; the method's number by default.")
]
SelectionName = Annotated[Selection, typer.Option("--selection", help="How dimensions are selected.")]
Domain = Annotated[str | None, typer.Option("--domain", help="This domain against all others.")]
Layer = Annotated[
    int | None, typer.Option("--layer", min=0, max=MOST, help="Counted from 0; chosen by the method by default.")
]
Strength = Annotated[
    float, typer.Option("--strength", help="Multiplies the edit; negative reverses it.", callback=finite("--strength"))
]
Scope = Annotated[
    str | None,
    typer.Option(
        "--scope",
        help="Tokens to edit: all, generated, ..., or positions such as 3,4; the method's own by default.",
        callback=_check_scope,
    ),
]
Artefact = Annotated[
    Path | None, typer.Option("--artefact", exists=True, dir_okay=False, help="A saved steering, made by fit.")
]
AllowOtherWeights = Annotated[
    bool, typer.Option("--allow-other-weights", help="Use it on a sibling too, such as a fine-tune of its model.")
]
Table = Annotated[
    Path | None, typer.Option("--out", help="Write the whole table to this CSV file.", callback=check_table)
]
RunFolder = Annotated[
    Path | None, typer.Option("--out", help="Folder of the run; an unfinished one resumes.", callback=check_file)
]
SpecFile = Annotated[
    Path, typer.Argument(metavar="SPEC", exists=True, dir_okay=False, help="TOML file; see specs/ for examples.")
]
Run = Annotated[
    Path, typer.Argument(metavar="RUN", exists=True, file_okay=False, help="Folder of a study, comparison or exam.")
]


# --- groups -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how it runs."""

    model: Model = BUILTIN
    device: Device = "cpu"
    dtype: Dtype = "float32"
    seed: Seed = 0
    download: Download = False
    attention: Attention = "auto"
    bos: Bos = "auto"
    shown_as: ShownAs = ""

    def settings(self) -> "Settings":
        """The settings of a study without text of its own."""
        from workbench.study import Settings

        return Settings(self.model, **self._how())

    def _how(self) -> dict[str, Any]:
        """How the model is read and run, as settings of a study."""
        names = ("seed", "device", "dtype", "attention", "bos", "shown_as")
        return {"allow_download": self.download} | {name: getattr(self, name) for name in names}


def source_and_domains(corpus: str, domains: str | None) -> tuple[str, tuple[str, ...] | None]:
    """`--domains` is a list of names, unless it is a path or a dataset: then it is the corpus.

    Built-in names always count as names, even where a folder of that name stands beside them.
    """
    from workbench.corpus import BUILTIN_DOMAINS

    if domains is None:
        return corpus, None
    names = words(domains)
    is_path = domains.startswith("hf:") or domains.endswith(".jsonl") or os.sep in domains or Path(domains).exists()
    if not is_path or (names and set(names) <= set(BUILTIN_DOMAINS)):
        return corpus, names
    if corpus != BUILTIN:
        raise ValueError(f"--corpus {corpus} and --domains {domains} both name a corpus; give --domains names")
    return domains, None


@dataclass(frozen=True)
class TextOptions(ModelOptions):
    """Which model and which text. A corpus on this machine is read with the options, so that mistakes show early."""

    corpus: Corpus = BUILTIN
    domains: Domains = None
    max_characters: MaxCharacters = 1500
    truncate: Truncate = False
    batch_size: BatchSize = 32

    def __post_init__(self) -> None:
        from workbench.corpus import load_corpus

        source, names = self.source
        if self.model != PLANTED and not source.startswith("hf:"):
            load_corpus(source, domains=names)

    @property
    def source(self) -> tuple[str, tuple[str, ...] | None]:
        """The corpus, and its domains; None for all."""
        return source_and_domains(self.corpus, self.domains)

    def settings(self, *, k: int = 8, preset: Literal["full", "quick"] = "full") -> "Settings":
        """The settings of a study."""
        from workbench.study import Settings

        return Settings(
            self.model,
            *self.source,
            k=k,
            preset=preset,
            batch_size=self.batch_size,
            truncate=self.truncate,
            max_characters=self.max_characters,
            **self._how(),
        )


@dataclass(frozen=True)
class SpecOptions:
    """What stands in place of the model of a specification."""

    model: Model = ""
    device: Device = ""
    dtype: Dtype = ""
    download: Download = False
    attention: Attention = ""
    bos: Bos = ""
    shown_as: ShownAs = ""


def bundled(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters of a dataclass type are replaced by the fields of that type, which become options."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        kind = parameter.annotation
        if not is_dataclass(kind):
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[parameter.name] = kind
        hints = get_type_hints(kind, include_extras=True)
        for field in fields(kind):
            assert field.default is not MISSING, f"{kind}.{field.name} needs a default"
            parameters.append(
                inspect.Parameter(
                    field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
                )
            )

    def run(**given: Any) -> None:
        values = {name: kind(**{f.name: given.pop(f.name) for f in fields(kind)}) for name, kind in groups.items()}
        command(**given, **values)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
