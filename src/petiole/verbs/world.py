"""``petiole world``: a data set of the generated world, as class folders."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from rich.console import Group, RenderableType

from petiole.verbs.common import Result, fact


class World(Result):
    """A written data set.

    Attributes:
        folder: with train/ and test/.
        task, style: what was drawn.
        classes: number of them.
        images: number of pictures.
    """

    folder: Path
    task: str
    style: str
    classes: int
    images: int

    def text(self) -> RenderableType:
        return Group(
            fact("folder", f"{self.folder} ({self.classes} classes, {self.images:,} pictures)"),
            fact("drawn", f"{self.task}, {self.style}"),
            fact(
                "next", f"petiole generalise {quote(str(self.folder))} --backbone petiole/tiny-clip"
            ),
        )


def world(
    folder: Path,
    /,
    *,
    task: str = "compositions",
    style: str = "",
    train: int = 32,
    test: int = 40,
    seed: int = 0,
    quiet: bool = False,
) -> World:
    """Draw a data set of the generated world: train/ and test/ with a folder for each class.

    Tasks: compositions, shapes, colours, counts. Styles: clear, busy, sketch, blurred, which petiole/tiny-clip saw
    in its training, and dark, pixelated, tinted, noisy, which it did not.

    Args:
        folder: must not exist yet.
        task: what is to be told apart.
        style: how it looks; by default the task's own.
        train, test: pictures of each class.
        seed: of the drawing.
        quiet: no progress bar.

    Raises:
        ConfigError: an unknown task or style.
        DataError: the folder exists.
    """
    from petiole.data.world import TASKS, write_task
    from petiole.engine.progress import progress

    count = train + test
    chosen = TASKS.get(task)
    total = count * len(chosen.classes) if chosen else 0
    with progress("drawing", total, quiet=quiet) as advance:
        write_task(
            Path(folder), task, style=style, train=train, test=test, seed=seed, advance=advance
        )
    assert chosen is not None
    return World(
        folder=Path(folder),
        task=task,
        style=style or chosen.style,
        classes=len(chosen.classes),
        images=total,
    )
