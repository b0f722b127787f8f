"""What a malformed input must end in: a right result, or one line of at most 2,000 characters and nothing written."""

import copy
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from workbench.cli.app import _one_line
from workbench.cli.terminal import one_line

N_EXAMPLES = int(os.environ.get("WORKBENCH_FUZZ", "0"))  # per class; 0: the fast profile
COUNTS: dict[str, Counter[str]] = defaultdict(Counter)

NASTY = [
    None, True, False, 0, -1, 1.5, 10**30, float("nan"), float("inf"), "", " ", "\x00", "\x1b[2J",
    "\u202e", "=1+1", "x" * 5000, "\ud800", [], {}, [[]], [None], {"": None}, "NaN", "../../etc/passwd", "/dev/null",
]  # fmt: skip
BYTES = [
    b"", b'"', b"'", b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80",
    b"NaN",
    b"null", b"1e999", b"-1", b"[" * 3000, b'{"a":' * 3000, b"\\ud800", b"=cmd", b"\x1b[31m", b"x" * 140_000,
    b"9" * 5000,
    b"true", b"\t", b"\xe2\x80\xae", b'""', b"[[", b"= nan", b"= inf",
]  # fmt: skip


def profile(fast: int, share: float = 1.0) -> Any:
    """Few examples, always the same, in `make test`; as many as WORKBENCH_FUZZ says, and new ones, in `make fuzz`."""
    return settings(
        max_examples=max(1, int(N_EXAMPLES * share)) if N_EXAMPLES else fast,
        derandomize=not N_EXAMPLES,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),  # a failing input is small enough as it is
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes with one to three pieces cut out, doubled, overwritten or put in."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(whole)))
        end = draw(st.integers(start, min(len(whole), start + draw(st.sampled_from([1, 8, 64, 10**6])))))
        piece = draw(st.sampled_from(BYTES) | st.binary(max_size=4))
        kind = draw(st.sampled_from(["cut", "double", "over", "in"]))
        middle = {"cut": b"", "double": whole[start:end] * 2, "over": piece, "in": piece + whole[start:end]}[kind]
        whole = whole[:start] + middle + whole[end:]
    return whole


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every key and index of nested plain values."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, inner in items for found in ((*path, key), *places(inner, (*path, key)))]


@st.composite
def changed(draw: st.DrawFn, content: Any) -> Any:
    """Plain values in which one to three are replaced by others, or taken out."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        found = places(content)
        if not found:
            break
        *way, last = draw(st.sampled_from(found))
        holder = content
        for key in way:
            holder = holder[key]
        if draw(st.booleans()) and isinstance(holder, dict):
            del holder[last]
        else:
            holder[last] = draw(st.sampled_from(NASTY) | st.integers() | st.floats() | st.text(max_size=5))
    return content


def judge(name: str, job: Callable[[], Any], watched: Path | None = None) -> Any:
    """Run a job on a malformed input; what it gives, or None where it was refused in one line.

    Any exception but those that the command line turns into one line and exit code 2 goes through, and fails the test.
    """
    before = listing(watched)
    try:
        result = job()
    except (ValueError, OSError) as error:
        message = one_line(_one_line(error))
    else:
        COUNTS[name]["accepted"] += 1
        return result
    assert message
    assert "\n" not in message
    assert len(message) <= 2000
    assert listing(watched) == before, f"half-written: {set(listing(watched)) ^ set(before)}"
    COUNTS[name]["refused"] += 1
    return None


def listing(folder: Path | None) -> dict[str, int]:
    if folder is None:
        return {}
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
