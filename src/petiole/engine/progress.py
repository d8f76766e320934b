"""Progress bars on standard error, so that standard output stays for results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from petiole.printable import SafeConsole
from petiole.processes import is_main

console = SafeConsole(stderr=True)
"""Where petiole talks to the person while it works."""


@contextmanager
def progress(label: str, total: int, *, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """Show a bar that vanishes when done.

    The yielded ``advance(by, note)`` moves it; without a note the last one stays.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=quiet or not is_main()) as bar:
        task = bar.add_task(label, total=total, note="")

        def advance(by: int = 1, note: str = "") -> None:
            bar.advance(task, by)
            if note:
                bar.update(task, note=note)

        yield advance
