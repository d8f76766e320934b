"""``petiole report``: the page of a run or a comparison, from its records."""

from __future__ import annotations

from pathlib import Path

from rich.console import RenderableType

from petiole.verbs.common import Result, fact


class Page(Result):
    """Where the page lies."""

    report: Path

    def text(self) -> RenderableType:
        return fact("report", self.report)


def report(folder: Path, /) -> Page:
    """Write report.html of a run folder or of a comparison folder again, from its records.

    Args:
        folder: what petiole fit, compare or demo wrote.

    Raises:
        RunError: no complete run lies there.
    """
    from petiole.report.page import write_comparison, write_run

    folder = Path(folder)
    write = write_comparison if (folder / "comparison.json").is_file() else write_run
    return Page(report=write(folder))
