"""The fault list: at every single write of every command the disk is full, forbidden, or Ctrl-C comes.

Each leaves the old file or the new one, nothing beside it, and one line that names the file.
"""

import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.test_compare import write_spec  # noqa: F401
from tests.command import Outcome, command_line

MOVES = ("os.rename", "os.mkdir", "os.link")  # os.replace is told as os.rename
FAULTS = (
    lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),  # without a name, as from a write
    lambda: OSError(errno.EACCES, os.strerror(errno.EACCES)),
    KeyboardInterrupt,
)
COMMANDS: dict[str, tuple[str, ...]] = {
    "find": ("find", "--k", "2"),
    "label": ("label", "--k", "2"),
    "steer": ("steer", "the court", "--domain", "law", "--max-new-tokens", "2", "--k", "2"),
    "fit": ("fit", "--method", "caa", "--domain", "law"),
    "mask": ("mask", "--dimensions", "1", "--passages", "2"),
    "verdict": ("verdict", "--k", "1"),
    "card": ("card", "--dimension", "1", "--domain", "law", "--passages", "10"),
}


class Fault:
    """Counts what is written below a folder, and raises at one of the writes (None: at none)."""

    current: "Fault | None" = None
    is_hooked = False

    def __init__(self, root: Path, at: int | None, error: Callable[[], BaseException]) -> None:
        self.root, self.at, self.error, self.n_writes = str(root), at, error, 0

    def hear(self, event: str, arguments: tuple[object, ...]) -> None:
        is_write = event in MOVES or (event == "open" and bool(set(str(arguments[1])) & set("wax+")))
        if not is_write or not any(isinstance(one, str | Path) and str(one).startswith(self.root) for one in arguments):
            return
        self.n_writes += 1
        if self.at == self.n_writes - 1:
            raise self.error()


def hear(event: str, arguments: tuple[object, ...]) -> None:
    if Fault.current is not None:
        Fault.current.hear(event, arguments)


@contextmanager
def fault(root: Path, at: int | None, error: Callable[[], BaseException] = KeyboardInterrupt) -> Iterator[Fault]:
    if not Fault.is_hooked:  # cannot be taken off again
        sys.addaudithook(hear)
        Fault.is_hooked = True
    Fault.current = Fault(root, at, error)
    try:
        yield Fault.current
    finally:
        Fault.current = None


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def assert_told(outcome: Outcome, error: BaseException, out: Path) -> None:
    last = outcome.err.splitlines()[-1]
    assert last.startswith("workbench: "), outcome.err
    if isinstance(error, KeyboardInterrupt):
        assert outcome.code == 130
        return
    assert outcome.code == 2
    assert os.strerror(error.errno) in last  # pyright: ignore[reportAttributeAccessIssue]
    assert out.name in last, f"the line does not say which file: {last}"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_fault_at_any_write_leaves_the_old_or_the_new(
    name: str,
    tiny_model_folder: Path,
    tiny_corpus_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    model = ("--model", str(tiny_model_folder), "--domains", str(tiny_corpus_folder))
    arguments = (*COMMANDS[name], *model, "--out", str(out))
    run = command_line(capsys)
    with fault(tmp_path, None) as heard:
        assert run(*arguments).code == 0
    new = content(tmp_path)
    assert heard.n_writes >= 2
    for at in range(heard.n_writes):
        error = FAULTS[at % len(FAULTS)]
        if name == "mask":
            for path in sorted(tmp_path.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
        else:
            out.write_text("the old one")
        old = content(tmp_path)
        with fault(tmp_path, at, error):
            outcome = run(*arguments)
        assert content(tmp_path) in (old, new), f"write {at} left halves"
        if outcome.code or content(tmp_path) == old:
            assert_told(outcome, error(), out)


def test_a_comparison_goes_on_after_a_fault_at_any_write(
    write_spec: Callable[..., Path],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A fault every few writes of one run, which is started again each time: its tables are those of a whole run."""
    monkeypatch.chdir(tmp_path)
    run, spec = command_line(capsys), write_spec("cds")
    with fault(tmp_path, None) as heard:
        assert run("compare", spec, "--out", tmp_path / "whole").code == 0
    n_writes, at, n_faults = heard.n_writes, 0, 0
    while at < n_writes:
        error = FAULTS[n_faults % len(FAULTS)]
        with fault(tmp_path, at, error):
            outcome = run("compare", spec, "--out", tmp_path / "broken")
        at += 1 + n_writes // 6
        if outcome.code == 0:  # the fault struck where it does no harm, such as a folder that stands already
            shutil.rmtree(tmp_path / "broken")
            continue
        n_faults += 1
        assert "Traceback" not in outcome.err
        assert outcome.code == (130 if error is KeyboardInterrupt else 2)
        assert not [path for path in (tmp_path / "broken").rglob(".*")], "a temporary file was left"
    assert n_faults >= 3
    assert run("compare", spec, "--out", tmp_path / "broken").code == 0
    tables = content(tmp_path / "whole" / "tables")
    assert tables == content(tmp_path / "broken" / "tables")
