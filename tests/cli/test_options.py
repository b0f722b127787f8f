"""Options: declared once, the same words everywhere, examples that parse, mistakes found at once."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from workbench.cli.app import COMMANDS, app
from workbench.cli.options import ModelOptions

GROUP = get_command(app)
NAMES = [command.__name__.replace("_", "-") for commands in COMMANDS.values() for command, _ in commands]
EXAMPLES = [example for commands in COMMANDS.values() for _, example in commands]
# Options that mean another number or file in another command.
OWN = {"--out", "--k", "--seed", "--layer", "--domain", "--method", "--passages"}


def parameters() -> Iterator[tuple[str, str, str]]:
    """Command, option and help of every option."""
    for name in NAMES:
        for parameter in GROUP.commands[name].params:  # pyright: ignore[reportAttributeAccessIssue]
            if parameter.opts[0].startswith("--"):
                yield name, parameter.opts[0], parameter.help


def test_an_option_has_the_same_words_in_every_command() -> None:
    helps: dict[str, set[str]] = {}
    for _, option, text in parameters():
        assert text, option
        assert text.endswith("."), (option, text)
        helps.setdefault(option, set()).add(text)
    assert {option: texts for option, texts in helps.items() if len(texts) > 1 and option not in OWN} == {}
    assert len(helps["--model"]) == len(helps["--device"]) == 1


def test_every_command_is_in_a_group_with_an_example_that_parses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "study").mkdir(parents=True)
    (tmp_path / "specs").mkdir()
    for name in ("law.safetensors", "specs/gemma-2-2b-it-masking.toml"):
        (tmp_path / name).touch()
    for name, example in zip(NAMES, EXAMPLES, strict=True):
        command = GROUP.commands[name]  # pyright: ignore[reportAttributeAccessIssue]
        assert command.rich_help_panel in COMMANDS
        assert example in command.epilog
        words = shlex.split(example)
        assert words[0] == name
        assert command.make_context(name, words[1:]).args == []


def test_the_planted_model_takes_no_options_of_how_a_model_is_read() -> None:
    for given in ({"bos": "never"}, {"attention": "eager"}, {"shown_as": "mine"}):
        with pytest.raises(ValueError, match="takes no --attention, --bos or --name"):
            ModelOptions(model="planted", **given).settings()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("find", "--corpus", "nowhere"), "there is no file or folder 'nowhere'"),
        (("find", "--domains", "law,lwa"), "unknown domain 'lwa'"),
        (("label", "--model", "./nowhere"), "does not exist"),
        (("find", "--k", "0"), "--k"),
        (("find", "--selection", "best"), "--selection"),
        (("steer", "x", "--domain", "law", "--strength", "nan"), "finite"),
        (("steer", "x", "--domain", "law", "--scope", "some"), "unknown scope 'some'"),
        (("steer", "x"), "--domain NAME or --artefact FILE"),
        (("fit", "--method", "cds", "--out", "x", "--pairs", "none.jsonl"), "none.jsonl"),
        (("mask", "--passages", "1"), "--passages"),
        (("compare", "none.toml"), "none.toml"),
        (("figures", "nowhere"), "nowhere"),
        (("study", "--colour"), "--colour"),
        (("find", "--attention", "fast"), "'fast'; choose one of auto, sdpa, eager"),
        (("compare", "--bos", "often"), "'often'; choose one of auto, always, never"),
    ],
)
def test_mistakes_are_found_before_anything_heavy_is_loaded(arguments: tuple[str, ...], message: str) -> None:
    script = (
        f"import sys, workbench.__main__; sys.argv = ['workbench', *{arguments!r}]\n"
        "try: workbench.__main__.main()\n"
        "except SystemExit as stop: print('code', stop.code, *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    _, code, *loaded = done.stdout.split()
    assert code == "2"
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not {*loaded} & {"torch", "pandas", "transformers", "plotly", "scipy"}
