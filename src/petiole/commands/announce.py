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
    if not workspace.task.quiet:
        # It times a few steps, which processes that train together must take together.
        say([*workspace.describe(specs), *(f"note     {note}" for note in notes)])


def say(lines: Sequence[str]) -> None:
    """Print lines on standard error, notes in yellow; of several processes the main one does."""
    from petiole.engine.progress import console
    from petiole.processes import is_main

    if not is_main():
        return
    for line in lines:
        style = "yellow" if line.startswith("note") else None
        console.print(line, style=style, highlight=False, markup=False)
