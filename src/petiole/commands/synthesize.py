"""``petiole synthesize``: a data set of the generated world, as class folders or as questions in JSON Lines."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from rich.console import Group, RenderableType

from petiole.commands.options import CommandResult, fact
from petiole.commands.verb import verb
from petiole.ranges import PositiveInt, Seed

PER_CLASS = (32, 40)
QUESTIONS = (2000, 500)
MASKED = (64, 64)
BOARD = (2000, 1000)
"""Pictures of each class, questions, pictures with masks, or questions about a board, for training and for a test."""


class SynthesizeResult(CommandResult):
    """A written data set.

    Attributes:
        folder: with train/ and test/, or train.jsonl, val.jsonl, test.jsonl and their pictures.
        task, style: what was drawn; no style where every sample has its own.
        classes: number of them; 0 for questions.
        samples: pictures that have a class, or questions, sentences and sets of captions.
        images: number of pictures, counting each frame of a clip.
    """

    folder: Path
    task: str
    style: str
    classes: int
    samples: int
    images: int

    def text(self) -> RenderableType:
        parts = f"{self.classes} classes" if self.classes else f"{self.samples:,} samples"
        model = {"masks": "vit", "species": "lit"}.get(self.task, "clip")
        verb = "fit" if self.task == "masks" else "generalise"
        follows = f"petiole {verb} {quote(str(self.folder))} --backbone petiole/tiny-{model}"
        return Group(
            fact("folder", f"{self.folder} ({parts}, {self.images:,} pictures)"),
            fact("drawn", f"{self.task}, {self.style or 'in the styles of pre-training'}"),
            *([fact("next", follows)] if self.classes else []),
        )


@verb
def synthesize(
    folder: Path,
    /,
    *,
    task: str = "compositions",
    style: str = "",
    train: PositiveInt | None = None,
    test: PositiveInt | None = None,
    seed: Seed = 0,
    quiet: bool = False,
) -> SynthesizeResult:
    """Draw a data set of the generated world.

    Tasks of classes: compositions, species, shapes, colours, counts; train/ and test/ get a folder for each class. Tasks of
    questions: vqa, gqa, nlvr, caption, video-qa, video-caption; they are written as train.jsonl, val.jsonl and
    test.jsonl with pictures beside them. So is board, questions about a board of things that a model of the base domain
    answers with reasons, and masks, pictures of one to four shapes with the shape of every pixel; the board's styles are its domains: base, sketch, false, xray, leaf, tail, novel. Other styles: clear, busy, sketch, blurred, which petiole/tiny-clip saw in its training,
    and dark, pixelated, tinted, noisy, which it did not.

    Args:
        folder: must not exist yet.
        task: what is to be told apart, or asked.
        style: how it looks; by default the task's own, for questions any of the first four, for board base.
        train: pictures of each class (32), questions (2,000), or pictures with masks (64).
        test: the same for test (40, 500, 64, or 1,000 of board); val.jsonl gets as many, of board half as many.
        seed: of the drawing.
        quiet: no progress bar.

    Raises:
        ConfigError: an unknown task or style.
        DataError: the folder exists.
    """
    from petiole.data.synthetic.scenes import QUESTIONS as ASKED
    from petiole.data.synthetic.scenes import TASKS, write_questions, write_task
    from petiole.data.synthetic.scenes.masks import TASK as MASKS
    from petiole.engine.progress import progress
    from petiole.errors import unknown

    if task == "board":
        return _board(Path(folder), style or "base", train, test, seed, quiet=quiet)
    if task == MASKS:
        return _masks(Path(folder), style, train, test, seed, quiet=quiet)
    if task not in TASKS and task not in ASKED:
        raise unknown("task of the generated world", task, [*TASKS, *ASKED, MASKS, "board"])
    usual = PER_CLASS if task in TASKS else QUESTIONS
    counts = {
        "train": usual[0] if train is None else train,
        "test": usual[1] if test is None else test,
    }
    classes = len(TASKS[task].classes) if task in TASKS else 0
    samples = sum(counts.values()) * classes or counts["train"] + 2 * counts["test"]
    write = write_task if classes else write_questions
    with progress("drawing", samples, quiet=quiet) as advance:
        write(Path(folder), task, style=style, **counts, seed=seed, advance=advance)
    return SynthesizeResult(
        folder=Path(folder),
        task=task,
        style=style or (TASKS[task].style if classes else ""),
        classes=classes,
        samples=samples,
        images=samples * (1 if classes else ASKED[task].pictures),
    )


def _masks(
    folder: Path, style: str, train: int | None, test: int | None, seed: int, *, quiet: bool
) -> SynthesizeResult:
    from petiole.data.synthetic.scenes.masks import SHOWN, TASK, write_masks
    from petiole.engine.progress import progress

    count = MASKED[0] if train is None else train
    tested = MASKED[1] if test is None else test
    with progress("drawing", count + tested, quiet=quiet) as advance:
        write_masks(folder, style=style, train=count, test=tested, seed=seed, advance=advance)
    return SynthesizeResult(
        folder=folder,
        task=TASK,
        style=style or "clear",
        classes=1 + len(SHOWN),
        samples=count + tested,
        images=count + tested,
    )


def _board(
    folder: Path, domain: str, train: int | None, test: int | None, seed: int, *, quiet: bool
) -> SynthesizeResult:
    from petiole.data.synthetic.boards import write
    from petiole.engine.progress import progress

    count = BOARD[0] if train is None else train
    tested = BOARD[1] if test is None else test
    samples = count + tested // 2 + tested
    with progress("drawing", samples, quiet=quiet) as advance:
        write(folder, domain, count, tested // 2, tested, seed, advance)
    return SynthesizeResult(
        folder=folder, task="board", style=domain, classes=0, samples=samples, images=samples
    )
