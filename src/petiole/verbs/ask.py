"""``petiole ask``: an image and a question to a trained language model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import RenderableType
from rich.text import Text

from petiole.errors import ConfigError
from petiole.verbs.common import Result


class Asked(Result):
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
) -> Asked:
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
    from petiole.backbones.registry import load
    from petiole.data.vl.sample import Sample
    from petiole.engine.language_adapter import LanguageAdapter
    from petiole.engine.lessons import Lessons, TaskData
    from petiole.engine.sight import BackboneSight
    from petiole.errors import unknown
    from petiole.tasks.registry import TASKS, find

    opened = LanguageAdapter.load(adapter, device=device)
    card, names = opened.manifest.model, opened.manifest.tasks
    chosen = task or names[0]
    if chosen not in names:
        raise unknown("task of this adapter", chosen, names)
    sight = None
    if images:
        if not card.eyes:
            raise ConfigError(
                f"{adapter} was trained on given features, so it does not say how pictures are seen. Ask it "
                "through petiole.engine.speaker with features of the same kind."
            )
        sight = BackboneSight(Path("/"), load(card.eyes, device=device), None, card.places)
    described = find(chosen if chosen in TASKS else "answers")
    data = TaskData(described, {}, sight)
    model = opened.speaker.model
    lessons = Lessons(model, [data], prefixes=card.prefixes)
    sample = Sample("asked", question, tuple(str(Path(p).resolve()) for p in images or ()))
    answer = opened.speaker.answer(
        lessons.inputs([data], [sample]), described, names.index(chosen)
    )[0]
    return Asked(task=chosen, question=question, answer=answer)
