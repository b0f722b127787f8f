"""How many inputs of each class were tried, and how they ended, at the end of the run."""

import pytest

from tests.fuzz.judging import COUNTS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, counts in sorted(COUNTS.items()):
        terminalreporter.write_line(f"fuzz {name}: " + ", ".join(f"{n} {how}" for how, n in sorted(counts.items())))
