"""What reaches the terminal: no control characters whatever a name or a file says, and one line of bounded length."""

import io
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.cli import run
from workbench.cli.terminal import LONGEST_MESSAGE, Plain, drawn_on, one_line, plain

EVIL = "a\x1b[2J\x1b]0;title\x07\u202eevil\x9b31m\x00\x08\u2066"
BIDI = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}


def is_harmless(text: str) -> bool:
    return not any(
        (unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") and sign not in "\n\t")
        or unicodedata.bidirectional(sign) in BIDI
        for sign in text
    )


@given(st.text(st.characters(), max_size=60))
def test_no_control_character_passes_and_everything_else_does(text: str) -> None:
    assert is_harmless(plain(text))
    assert plain(plain(text)) == plain(text)
    if is_harmless(text) and not set(text) & set("\u061c\u200e\u200f\ufeff"):
        assert plain(text) == text


def test_control_characters_are_written_out() -> None:
    assert plain("\x1b[31mred\n\tnext\u202e\ud800") == "\\x1b[31mred\n\tnext\\u202e\\ud800"


@pytest.mark.parametrize(
    "message",
    ["x" * 5000, f"unknown domain '{'law ' * 900}'; choose one", f"no {'word ' * 2000}", f'key "{"= " * 900}" is odd'],
    ids=["unbroken", "quoted", "many words", "double quotes"],
)  # fmt: skip
def test_messages_do_not_repeat_a_long_input(message: str) -> None:
    assert len(one_line(message)) <= LONGEST_MESSAGE + 3
    assert "\n" not in one_line(message)


def test_short_messages_are_left_alone_and_long_ones_keep_their_ends() -> None:
    assert one_line("unknown domain 'law'; choose one of a, b") == "unknown domain 'law'; choose one of a, b"
    shown = one_line(f"unknown domain '{'x' * 4000}'; choose one of a, b")
    assert shown.startswith("unknown domain 'xxx")
    assert shown.endswith("; choose one of a, b")
    assert len(shown) < 220


def test_streams_write_out_control_characters_and_drawings_go_below_them() -> None:
    raw = io.StringIO()
    stream = Plain(raw, kept="\r")
    print(EVIL, "\r", file=stream, end="")
    assert is_harmless(raw.getvalue().replace("\r", ""))
    assert raw.getvalue().endswith("\r")
    drawn_on(stream).write("\x1b[1m")
    assert raw.getvalue().endswith("\x1b[1m")


@pytest.mark.parametrize(
    "arguments",
    [
        ("find", "--domains", EVIL.replace("\0", "")),
        ("find", "--model", f"./{EVIL}".replace("\0", "")),
        ("figures", EVIL.replace("\0", "")),
        ("steer", "x", "--domain", EVIL.replace("\0", ""), "--method", EVIL.replace("\0", "")),
        (f"{EVIL}".replace("\0", ""),),
        ("find", f"--{EVIL}".replace("\0", "")),
        ("find", "--k", "9" * 30_000),
        ("find", "--domains", "law" * 10_000),
    ],
    ids=lambda arguments: arguments[0][:8].encode("ascii", "ignore").decode().strip(),
)
def test_the_command_line_never_passes_them_on(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        run(arguments)
    assert left.value.code == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert len(shown.err) < 2000
    assert is_harmless(shown.out + shown.err)
