"""Results that are tables: one class for every verb that measures several methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from petiole.commands.options import CommandResult, fact


class TableResult(CommandResult):
    """A finished measurement.

    Attributes:
        folder: with the table and all runs.
        summary: the table's numbers.
    """

    folder: Path
    summary: Any

    def table(self) -> Any:
        """The table, see ``petiole.report.table``."""
        from petiole.report.scores import table

        return table(self.summary)

    def places(self) -> dict[str, Any]:
        """What lies where, and what to do next, by name."""
        return {"runs": self.folder / "runs"}

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """The folder and every number of the table."""
        from petiole.report.table import to_dict

        return {**super().model_dump(include={"folder"}, **options), **to_dict(self.table())}

    def text(self) -> RenderableType:
        from petiole.report.table import to_rich

        shown = self.table()
        return Group(
            to_rich(shown),
            *(Text(line) for line in shown.notes),
            fact("table", self.folder / "table.md"),
            *(fact(name, value) for name, value in self.places().items()),
        )

    def _repr_html_(self) -> str:
        from petiole.report.notebook import to_html

        return to_html(self.table())
