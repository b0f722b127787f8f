"""Every number that a command takes: what is out of its range is refused by the name of the option, before any work."""

import math
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from tests.fuzz.judging import COUNTS, profile
from workbench.cli import run
from workbench.cli.app import app

ABSENT = "somebody/missing"  # what a command that goes on to its model would complain of
# What every command needs before its other options are looked at.
NEEDED = {
    "card": ("--dimension", "1", "--domain", "law"),
    "steer": ("a prompt", "--domain", "law"),
    "fit": ("--method", "caa", "--domain", "law"),
    "layers": ("--persona", "builtin"),
    "heads": ("--persona", "builtin"),
    "compare": ("--methods", "cds", "--tasks", "domain-loss"),
    "lm-eval": ("arc_easy",),
}
WORDS = ["", " ", "nan", "NaN", "inf", "-inf", "1e400", "one", "1,2", "0x10", "1.5.2", "--", "\x00", "\x1b[2J", "١٫٥"]


def numeric() -> Iterator[tuple[str, str, type, float | None, float | None]]:
    """Command, option, kind of number, least and greatest value of every numeric option."""
    commands: dict[str, Any] = vars(get_command(app))["commands"]
    for name, command in commands.items():
        for option in command.params:
            kinds = {option.type_descriptor.annotation, *get_args(option.type_descriptor.annotation)} - {NoneType}
            if kinds & {int, float}:
                yield name, option.opts[0], float if float in kinds else int, option.min, option.max


FLAGS = list(numeric())


@st.composite
def out_of_range(draw: st.DrawFn, kind: type, low: float | None, high: float | None) -> str:
    """A word that is no number of the kind, or lies outside of the range."""
    choices = [st.sampled_from(WORDS), st.text(max_size=6).filter(lambda text: not is_number(text, kind))]
    if kind is int:
        choices.append(st.floats().filter(lambda value: not value.is_integer()).map(repr))
    if low is not None:
        choices.append(st.integers(max_value=math.ceil(low) - 1).map(str))
    if high is not None:
        choices.append(st.integers(min_value=math.floor(high) + 1).map(str))
    return draw(st.one_of(choices))


def is_number(text: str, kind: type) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def test_the_ranges_are_stated() -> None:
    """Counts and places have a least and a greatest value: a count beyond all memory is a slip of the hand."""
    assert len(FLAGS) > 40
    assert [flag for flag in FLAGS if flag[2] is int and None in flag[3:]] == []
    assert NEEDED.keys() <= {flag[0] for flag in FLAGS}


@profile(150, 2)
@given(data=st.data())
def test_numbers(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    command, option, kind, low, high = data.draw(st.sampled_from(FLAGS))
    value = data.draw(out_of_range(kind, low, high))
    root: Path = tmp_path_factory.getbasetemp() / "flags"
    root.mkdir(exist_ok=True)
    wanted = dict(zip(NEEDED.get(command, ())[::2], NEEDED.get(command, ())[1::2], strict=False))
    needed = NEEDED.get(command, ()) if option not in wanted else ()
    arguments = [command, *needed, "--model", ABSENT, "--out", str(root / "out"), f"{option}={value}"]
    with pytest.MonkeyPatch.context() as patch:
        told: list[str] = []
        patch.setattr("typer.echo", lambda message, **_: told.append(message))
        with pytest.raises(SystemExit) as stop:
            run(arguments)
    assert stop.value.code == 2, arguments
    (line,) = told
    assert "\n" not in line
    assert len(line) <= 2000
    assert option in line, f"{arguments} complains of something else: {line}"
    assert not list(root.iterdir())
    COUNTS["numeric flags"]["refused"] += 1
