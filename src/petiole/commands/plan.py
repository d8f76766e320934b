"""``petiole plan``: how many draws and seeds a difference needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from petiole.commands.options import CommandResult
from petiole.commands.verb import verb


class Planned(CommandResult):
    """Draws by row.

    Attributes:
        reference: label of the row that the others are compared with.
        difference: in points.
        power: chance to find it.
        rows: of each other row its spreads, and the draws needed.
    """

    reference: str
    difference: float
    power: float
    rows: list[dict[str, Any]]

    def text(self) -> RenderableType:
        table = Table(box=None, pad_edge=False)
        table.add_column(f"against {self.reference}")
        for title in ("spread", "of seeds", "draws", "with 3 x the seeds"):
            table.add_column(title, justify="right")
        for row in self.rows:
            spreads = (row["spread"], row["spread_of_seeds"])
            table.add_row(
                Text(row["label"]),
                *("" if value is None else f"{value:.2f}" for value in spreads),
                str(row["draws"]),
                "" if row["draws_with_more_seeds"] is None else str(row["draws_with_more_seeds"]),
            )
        caption = f"draws that find {self.difference:g} points with a chance of {100 * self.power:.0f} % (paired t test, 5 %)"
        return Group(table, Text(caption))


@verb
def plan(folder: Path, /, *, difference: float = 1.0, power: float = 0.8) -> Planned:
    """Say how many draws of the training images a difference needs, from the spread of a comparison's runs.

    Args:
        folder: what petiole compare wrote, with two draws or more.
        difference: in points.
        power: chance to find it.

    Raises:
        ConfigError: values out of range.
        RunError: no comparison lies there, or one of a single draw.
    """
    from petiole.report.planning import plan_rows

    rows, reference = plan_rows(Path(folder), difference, power)
    return Planned(
        reference=reference,
        difference=difference,
        power=power,
        rows=[row.model_dump() for row in rows],
    )
