"""``petiole merge``: an adapter folded into the backbone's weights."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from rich.console import Group, RenderableType

from petiole.commands.options import CommandResult, fact
from petiole.commands.verb import verb


class Merged(CommandResult):
    """A backbone with an adapter in its weights.

    Attributes:
        backbone: name of the architecture, for ``petiole.load(backbone, weights=weights)``.
        weights: the file.
        adapter: the head on it; gives what the original adapter gave.
    """

    backbone: str
    weights: Path
    adapter: Path

    def text(self) -> RenderableType:
        return Group(
            fact("backbone", f"{self.weights} ({self.backbone})"),
            fact("adapter", self.adapter),
            fact("next", f"petiole predict {quote(str(self.adapter))} IMAGE..."),
        )


@verb
def merge(adapter: Path, /, *, out: Path, weights: Path | None = None) -> Merged:
    """Fold an adapter into its backbone: no cost in prediction any more.

    Writes the backbone's new weights, their preprocessing, and beside them OUT-adapter, the head, which
    labels as the original does. LoRA, DoRA, GLoRA, SSF, tuned copies and what the library peft merges can be
    folded; bottlenecks with an activation and prompts cannot.

    Args:
        adapter: adapter folder, or the run folder around it.
        out: a .safetensors file.
        weights: where the backbone's weights lie now, if they were moved.

    Raises:
        AdapterError: the adapter is damaged, or cannot be folded; the message says why.
    """
    from petiole.engine.adapter import kind_of
    from petiole.errors import AdapterError
    from petiole.tasks.classification.adapter import ClassificationAdapter
    from petiole.tasks.classification.merge import write_merged

    kind = kind_of(Path(adapter))
    if kind == "text":
        raise AdapterError(
            f"{adapter} adapts an encoder-decoder, whose layers petiole fold makes static; there is no file of merged "
            "weights for it."
        )
    if kind == "codebook":
        raise AdapterError(
            f"{adapter} is a tuned encoder, which is used before any language model as it is; there is nothing to merge "
            "it into."
        )
    opened = ClassificationAdapter.load(Path(adapter), weights=weights)
    folder = write_merged(opened, Path(out))
    return Merged(backbone=opened.manifest.backbone.name, weights=Path(out), adapter=folder)
