"""``petiole fold``: an adapter as what prediction needs of it: class vectors, or static weights."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from rich.console import Group, RenderableType

from petiole.commands.options import CommandResult, fact
from petiole.commands.verb import verb
from petiole.errors import ConfigError


class FoldedAdapter(CommandResult):
    """An adapter that needs no text tower any more.

    Attributes:
        adapter: its folder.
        classes: number of class vectors.
        values: numbers stored.
    """

    adapter: Path
    classes: int
    values: int

    def text(self) -> RenderableType:
        return Group(
            fact("adapter", f"{self.adapter} ({self.classes} classes, {self.values:,} numbers)"),
            fact("next", f"petiole predict {quote(str(self.adapter))} IMAGE..."),
        )


class FoldedSpeaker(CommandResult):
    """An adapter of a language model whose weights are static.

    Attributes:
        adapter: its folder.
        tasks: names.
        values: numbers stored.
        before: numbers that the adapter stored.
    """

    adapter: Path
    tasks: list[str]
    values: int
    before: int

    def text(self) -> RenderableType:
        return Group(
            fact("adapter", f"{self.adapter} ({self.values:,} numbers; before {self.before:,})"),
            fact("next", f'petiole predict {quote(str(self.adapter))} IMAGE --question "..."'),
        )


@verb
def fold(
    adapter: Path, /, *, out: Path, weights: Path | None = None
) -> FoldedAdapter | FoldedSpeaker:
    """Store what prediction needs, with equal scores: class vectors, or static weights.

    Of a prompt learner: its class vectors, so that no text tower is needed. The class names are settled by
    it. Prompts or LoRA in the image tower stay part of the adapter.

    Of a language model: what a hypernetwork, an MLP of prompts or a sum of Kronecker products makes; LoRA goes
    into the weights, unless each task has its own.

    Args:
        adapter: adapter folder, or the run folder around it.
        out: folder of the new adapter.
        weights: where the weights of an image backbone lie now, if they were moved.

    Raises:
        AdapterError: the adapter is damaged, its class vectors depend on the image, or nothing can be folded.
        ConfigError: ``out`` is there already, or ``weights`` for a language model.
    """
    from petiole.engine.adapter import kind_of
    from petiole.tasks.classification.adapter import ClassificationAdapter
    from petiole.tasks.classification.fold import fold as fold_adapter

    if Path(out).exists():
        raise ConfigError(f"{out} exists already. Move it away, or choose another --out.")
    if kind_of(Path(adapter)) == "codebook":
        raise ConfigError(
            f"{adapter} is a tuned encoder: nothing of it is made anew in a forward, so there is nothing to fold."
        )
    if kind_of(Path(adapter)) == "text":
        return _speaker(Path(adapter), Path(out), weights)
    folded = fold_adapter(ClassificationAdapter.load(Path(adapter), weights=weights))
    folded.save(Path(out))
    ledger = folded.manifest.ledger
    return FoldedAdapter(
        adapter=Path(out),
        classes=len(folded.classes),
        values=ledger.inference + ledger.fixed,
    )


def _speaker(adapter: Path, out: Path, weights: Path | None) -> FoldedSpeaker:
    from petiole.tasks.text.adapter import TextAdapter

    if weights:
        raise ConfigError(f"{adapter} names its language model; --weights is for image backbones.")
    opened = TextAdapter.load(adapter)
    folded = opened.fold()
    folded.save(out)
    values, before = (
        sum(value.numel() for value in one.adapted.state_dict().values())
        for one in (folded, opened)
    )
    return FoldedSpeaker(
        adapter=out, tasks=[one.name for one in folded.manifest.tasks], values=values, before=before
    )
