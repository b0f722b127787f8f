"""A mistake that shows late, or a disk that is full, leaves what was there before: the old file, or none."""

import errno
import os
from pathlib import Path

import pytest

from tests.command import Outcome, command_line


def assert_refused_late(outcome: Outcome, message: str) -> None:
    """Exit code 2, and after the bars of what was done the one line that says what was wrong."""
    assert outcome.code == 2
    *bars, last = outcome.err.splitlines()
    assert last.startswith("workbench: ")
    assert message in last
    assert not any(line.startswith(("workbench: ", "Traceback")) for line in bars)


@pytest.fixture
def on_tiny(tiny_model_folder: Path, tiny_corpus_folder: Path) -> tuple[str, ...]:
    return ("--model", str(tiny_model_folder), "--domains", str(tiny_corpus_folder), "--k", "2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seed", "99999999999999999999999"), "--seed"),
        (("--seed", "-1"), "--seed"),
        (("--max-new-tokens", "9999"), "do not fit the context"),
        (("--strength", "1e23"), "choose a smaller strength"),
        (("--temperature", "nan"), "temperature"),
        (("--temperature", "-1"), "temperature"),
        (("--layer", "99"), "layer 99"),
    ],
)
def test_a_mistake_leaves_no_file(
    options: tuple[str, ...], message: str, on_tiny: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.safetensors"
    arguments = ("steer", "the court", "--domain", "law", *on_tiny, "--out", str(out), *options)
    assert_refused_late(command_line(capsys)(*arguments), message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["label", "mask", "find", "verdict", "study", "fit", "layers", "heads", "lm-eval"])
def test_one_rule_for_seeds(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused_late(command_line(capsys)(command, "--seed", "-1"), "'--seed'")
    assert_refused_late(command_line(capsys)(command, "--seed", str(2**32)), "'--seed'")


@pytest.mark.parametrize("command", ["find", "steer", "mask"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk_leaves_the_old_file(
    command: str,
    code: int,
    on_tiny: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out" if command == "mask" else tmp_path / "table"
    arguments = {
        "find": ("find", *on_tiny),
        "steer": ("steer", "the court", "--domain", "law", "--max-new-tokens", "2", *on_tiny),
        "mask": ("mask", *on_tiny[:4], "--dimensions", "1"),
    }[command]
    if command != "mask":
        out.write_text("the old one")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    for place in ("os.replace", "os.rename", "pathlib.Path.replace", "pathlib.Path.rename"):
        monkeypatch.setattr(place, refuse)
    outcome = command_line(capsys)(*arguments, "--out", str(out))
    assert_refused_late(outcome, os.strerror(code))
    assert [path.name for path in tmp_path.iterdir()] == ([] if command == "mask" else ["table"])
    assert command == "mask" or out.read_text() == "the old one"
