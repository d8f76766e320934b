"""The counts, when all is done."""

from __future__ import annotations

import pytest

from builders.faults import COUNTS, keep, tables


def pytest_runtest_logfinish() -> None:
    """Keep what was counted so far: who stops the suite has the finished tests' counts."""
    keep()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what happened, for docs/reliability.md."""
    if COUNTS:
        terminalreporter.section("faults")
        terminalreporter.write_line(tables(COUNTS))
