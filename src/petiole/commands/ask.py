"""``petiole ask``: an image and a question to a trained language model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import RenderableType
from rich.text import Text

from petiole.commands.options import CommandResult


class AskedAnswer(CommandResult):
    """What was said.

    Attributes:
        task: as which it was asked.
        question, answer: texts.
    """

    task: str
    question: str
    answer: str

    def text(self) -> RenderableType:
        return Text(self.answer)


def ask(
    adapter: Path,
    question: str,
    images: Annotated[list[Path], Parameter(name="--image", negative=())] | None = None,
    *,
    task: str = "",
    device: str = "cpu",
) -> AskedAnswer:
    """Ask a language model with an adapter.

    Args:
        adapter: the adapter folder, or a run folder.
        question: a question, a sentence to judge, or "" for a caption.
        images: a picture; repeat it for a pair.
        task: one of the adapter's tasks; by default its first.
        device: cpu, cuda, ...

    Raises:
        PetioleError: no such adapter or task, or an image that cannot be read.
    """
    from petiole.data.text_sample import TextSample
    from petiole.errors import unknown
    from petiole.tasks.text.adapter import TextAdapter
    from petiole.tasks.text.collator import Collator, TaskData
    from petiole.tasks.text.registry import find
    from petiole.tasks.text.training import answers

    opened = TextAdapter.load(adapter, device=device)
    kinds = {one.name: one.kind for one in opened.manifest.tasks}
    chosen = task or next(iter(kinds))
    if chosen not in kinds:
        raise unknown("task of this adapter", chosen, kinds)
    visuals = opened.visuals(Path("/")) if images else None
    tasks = [TaskData(find(kind), {}, visuals, called=name) for name, kind in kinds.items()]
    collator = Collator(opened.adapted.model, tasks, prefixes=opened.details.prefixes)
    sample = TextSample("asked", question, tuple(str(Path(p).resolve()) for p in images or ()))
    answer = answers(opened.adapted, collator, list(kinds).index(chosen), [sample])[0]
    return AskedAnswer(task=chosen, question=question, answer=answer)
