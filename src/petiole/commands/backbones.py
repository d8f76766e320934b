"""``petiole backbones``: which backbone suits these images, and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from petiole.commands.options import AUTO, CommandResult, Data, ImageOptions, ModelOptions
from petiole.commands.verb import verb

if TYPE_CHECKING:
    from petiole.tasks.classification.workspace import Classification


class Backbones(CommandResult):
    """Backbones from the best on.

    Attributes:
        backbones: name, accuracy with its interval, images that judged, parameters, megabytes, GFLOPs, seconds, licence.
        unusable: backbone -> why it could not be judged.
    """

    backbones: list[dict[str, Any]]
    unusable: dict[str, str]

    def text(self) -> RenderableType:
        table = Table(box=None, pad_edge=False)
        left = ("backbone", "licence")
        for title in ("backbone", "accuracy, %", "M params", "MB", "GFLOPs", "seconds", "licence"):
            table.add_column(title, justify="left" if title in left else "right")
        for one in self.backbones:
            table.add_row(
                Text(one["name"]),
                f"{100 * one['accuracy']:.1f} ± {50 * (one['high'] - one['low']):.1f}",
                f"{one['parameters'] / 1e6:.1f}",
                f"{one['megabytes']:.1f}",
                f"{one['gflops']:.2f}",
                f"{one['seconds']:.1f}",
                Text(one["licence"]),
            )
        images = self.backbones[0]["images"]
        caption = Text(f"of {images} left-out target images, by the averaged ridge")
        missing = (Text(f"note     {name}: {why}") for name, why in self.unusable.items())
        return Group(table, caption, *missing)


@verb
def backbones(
    data: Data,
    *,
    images: ImageOptions | None = None,
    model: ModelOptions | None = None,
) -> Backbones:
    """Rank backbones by the averaged ridge on left-out target images; the test images stay closed.

    Without --backbone all at hand are tried: the packaged ones, timm's in the hub's cache, and a short
    recommended list where the hub can be reached.

    Args:
        data: labelled images, as for petiole fit.

    Raises:
        PetioleError: bad data, one image a class, or no backbone that can be used.
    """
    from dataclasses import replace

    from petiole.backbones.at_hand import licence_of
    from petiole.commands.defaults import candidates
    from petiole.commands.options import CodebookTaskOptions, TextTaskOptions
    from petiole.commands.tasks import open_task
    from petiole.protocols.backbone_selection import rank_backbones
    from petiole.protocols.model_selection import START

    model = model or ModelOptions()
    names = candidates(model.backbones or (AUTO,))
    task, subset = open_task(
        "classification",
        data,
        [START],
        replace(model, backbone=names[0]),
        images or ImageOptions(),
        TextTaskOptions(),
        CodebookTaskOptions(),
    )
    ranked, unusable = rank_backbones(cast("Classification", task), names, subset)
    return Backbones(
        backbones=[{**one.model_dump(), "licence": licence_of(one.name)} for one in ranked],
        unusable=unusable,
    )
