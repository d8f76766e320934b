"""Says what a command will do and cost, before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from petiole.engine.run import RunSpec
    from petiole.engine.task import Workspace


def announce(workspace: Workspace, specs: Sequence[RunSpec], notes: Sequence[str] = ()) -> None:
    """Print data, frozen work still to do, storage and training steps, on standard error.

    Args:
        workspace: opened.
        specs: runs that will be done on it.
        notes: what else a reader must know.

    Raises:
        ConfigError: an unknown method or setting, before any work was done.
    """
    from petiole.engine.progress import console
    from petiole.processes import is_main

    if workspace.task.quiet:
        return
    # It times a few steps, which processes that train together must take together.
    lines = workspace.describe(specs)
    if not is_main():
        return
    for line in (*lines, *(f"note     {note}" for note in notes)):
        style = "yellow" if line.startswith("note") else None
        console.print(line, style=style, highlight=False, markup=False)
