"""Running `workbench ...` inside a test, as a shell would: arguments in, exit code and both outputs back."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from workbench.cli import run


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


def assert_refused(outcome: Outcome, message: str) -> None:
    """A mistake of the user: exit code 2 and one line that says what was wrong."""
    assert outcome.code == 2
    assert outcome.err.startswith("workbench: ")
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def command_line(capsys: pytest.CaptureFixture[str]) -> Command:
    """A function that runs one command in the working directory."""

    def call(*arguments: str | Path) -> Outcome:
        with pytest.raises(SystemExit) as stop:
            run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(int(stop.value.code or 0), captured.out, captured.err)

    return call
