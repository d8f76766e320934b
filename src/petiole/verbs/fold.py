"""``petiole fold``: an adapter of class names as a matrix of class vectors."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from rich.console import Group, RenderableType

from petiole.errors import ConfigError
from petiole.verbs.common import Result, fact


class FoldedAdapter(Result):
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


def fold(adapter: Path, /, *, out: Path, weights: Path | None = None) -> FoldedAdapter:
    """Store the class vectors of a prompt learner: prediction without a text tower, equal logits.

    The class names are settled by it. Prompts or LoRA in the image tower stay part of the adapter.

    Args:
        adapter: adapter folder, or the run folder around it.
        out: folder of the new adapter.
        weights: where the backbone's weights lie now, if they were moved.

    Raises:
        AdapterError: the adapter is damaged, or its class vectors depend on the image.
        ConfigError: ``out`` is there already.
    """
    from petiole.engine.adapter import Adapter
    from petiole.engine.fold import fold as fold_adapter

    if Path(out).exists():
        raise ConfigError(f"{out} exists already. Move it away, or choose another --out.")
    folded = fold_adapter(Adapter.load(Path(adapter), weights=weights))
    folded.save(Path(out))
    ledger = folded.manifest.ledger
    return FoldedAdapter(
        adapter=Path(out),
        classes=len(folded.classes),
        values=ledger.inference + ledger.fixed,
    )
