"""The boundary to the terminal: nothing that comes from a file, a name or a model can control it or flood it."""

import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Control characters, marks that reorder text or break lines, and halves of surrogate pairs, which cannot be encoded.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_LONG = re.compile(r"(['\"])((?:(?!\1).){200,})\1|\S{201,}")
LONGEST_PIECE = 160  # characters of one quoted or unbroken piece of a message
LONGEST_MESSAGE = 1200


def plain(text: str) -> str:
    """Text with its control characters written out, such as \\x1b; line breaks and tabs stay."""
    return _CONTROL.sub(lambda found: _written_out(ord(found[0])), text)


def _written_out(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def one_line(message: str) -> str:
    """A message as one line without control characters, in which long pieces of the input are cut in the middle."""
    line = plain(" ".join(_LONG.sub(lambda found: _cut(found[0], LONGEST_PIECE), message).split()))
    return _cut(line, LONGEST_MESSAGE)


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    return f"{text[: 2 * longest // 3]} … {text[-longest // 3 :]}"


class Plain(io.TextIOBase):
    """A text stream whose writes go through `plain`. Those who draw (bars, tables) ask for `drawn_on`."""

    def __init__(self, stream: Any, kept: str = "") -> None:
        self.stream, self.kept = stream, kept

    def write(self, text: str) -> int:
        for part in re.split(f"([{self.kept}])", text) if self.kept else (text,):
            self.stream.write(part if self.kept and part in self.kept else plain(part))
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.stream.encoding

    @property
    def errors(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.stream.errors

    @property
    def buffer(self) -> Any:
        return getattr(self.stream, "buffer", None)


@contextmanager
def plain_streams() -> Iterator[None]:
    """Standard output and error without control characters for the duration of a `with` block.

    Progress bars of other packages on standard error may still return to the start of their line.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Plain(sys.stdout), Plain(sys.stderr, kept="\r")
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def drawn_on(stream: Any) -> Any:
    """The stream below `Plain`, for what is drawn with escape sequences on purpose; its texts must be `plain`."""
    return stream.stream if isinstance(stream, Plain) else stream
