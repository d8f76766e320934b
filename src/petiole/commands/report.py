"""``petiole report``: the page of a run or a comparison, from its records."""

from __future__ import annotations

from pathlib import Path

from rich.console import RenderableType

from petiole.commands.options import CommandResult, fact
from petiole.commands.verb import verb


class ReportResult(CommandResult):
    """Where the page lies."""

    report: Path

    def text(self) -> RenderableType:
        return fact("report", self.report)


@verb
def report(folder: Path, /) -> ReportResult:
    """Write report.html of a run folder or of a comparison folder again, from its records.

    Args:
        folder: what petiole fit, compare, multitask, generalise, continual, few-shot or demo wrote.

    Raises:
        RunError: no complete run lies there.
    """
    from petiole.report.page import write_page

    return ReportResult(report=write_page(Path(folder)))
