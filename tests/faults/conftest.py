"""The counts, when all is done."""

from __future__ import annotations

import pytest

from builders.faults import COUNTS, table


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what happened, for docs/reliability.md."""
    if COUNTS:
        terminalreporter.section("faults")
        for line in table():
            terminalreporter.write_line(line)
