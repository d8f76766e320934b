"""``petiole report``: the page of a run or a comparison, from its records."""

from __future__ import annotations

from pathlib import Path

from rich.console import RenderableType

from petiole.commands.options import CommandResult, fact
from petiole.commands.verb import verb
from petiole.errors import RunError


class ReportResult(CommandResult):
    """Where the page lies."""

    report: Path

    def text(self) -> RenderableType:
        return fact("report", self.report)


@verb
def report(folder: Path, /) -> ReportResult:
    """Write report.html of a run folder or of a comparison folder again, from its records.

    Args:
        folder: what petiole fit, compare or demo wrote.

    Raises:
        RunError: no complete run lies there.
    """
    from petiole.engine.adapter import kind_of
    from petiole.report.page import write_comparison, write_run

    folder = Path(folder)
    if kind_of(folder) == "codebook":
        raise RunError(
            f"{folder} holds a tuned encoder, which has no page. petiole inspect {folder} shows what it is and how it scored."
        )
    write = write_comparison if (folder / "comparison.json").is_file() else write_run
    return ReportResult(report=write(folder))
