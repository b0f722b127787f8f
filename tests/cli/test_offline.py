"""No command reaches the network unless a download was asked for: every connection and look-up of a name fails."""

import socket
from pathlib import Path

import pytest

from tests.command import command_line
from tests.hub import offline_hub
from workbench.cli.app import app

ID = "somebody/missing"
# What every command that names a model or data of the hub is given beside it, so that it gets as far as looking.
COMMANDS: dict[str, tuple[str, ...]] = {
    "study": ("--model", ID),
    "find": ("--model", ID),
    "find corpus": ("--domains", f"hf:{ID}"),
    "label": ("--model", ID),
    "steer": ("a prompt", "--domain", "law", "--model", ID),
    "compare": ("--methods", "cds", "--tasks", "domain-loss", "--model", ID, "--plan"),
    "lm-eval": ("--model", ID, "--tasks", "arc_easy"),
    "fit": ("--method", "caa", "--domain", "law", "--model", ID, "--out", "x.safetensors"),
    "layers": ("--model", ID, "--persona", "builtin"),
    "heads": ("--model", ID, "--persona", "builtin"),
    "mask": ("--model", ID, "--dimensions", "1"),
    "verdict": ("--model", ID),
}
WITHOUT_MODEL = {"figures", "paper", "doctor", "card", "mask-exam", "methods", "models"}


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_connects_without_download(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offline_hub(tmp_path, monkeypatch)
    asked = []

    def refuse(*arguments: object) -> None:
        asked.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)
    outcome = command_line(capsys)(name.split()[0], *COMMANDS[name])
    assert not asked, f"the network was asked for {asked[0]}"
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert not [path for path in tmp_path.iterdir() if path.name not in ("hub", "datasets")]


def test_no_command_is_forgotten() -> None:
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert known - WITHOUT_MODEL == {name.split()[0] for name in COMMANDS}
