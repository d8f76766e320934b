"""What a result prints, as lines and cells."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from petiole.commands.options import CommandResult

RUN = Path("runs/a b")


def printed(result: CommandResult | Any) -> list[str]:
    """Lines of a wide terminal without colours; tables without lines or title begin at the edge."""
    stream = io.StringIO()
    shown = result.text() if isinstance(result, CommandResult) else result
    for one in shown.renderables if isinstance(shown, Group) else [shown]:
        if isinstance(one, Table) and one.box is None and one.title is None:
            assert not one.pad_edge
    Console(file=stream, width=200, no_color=True).print(shown)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def cells(line: str) -> list[str]:
    """What stands in a row of a table, columns being two spaces apart."""
    return [one.strip() for one in line.split("  ") if one.strip()]
