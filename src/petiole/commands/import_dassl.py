"""``petiole import-dassl``: a checkpoint of the prompt-learning family as an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Group, RenderableType

from petiole.commands.options import CommandResult, Settings, fact, pairs
from petiole.commands.verb import verb
from petiole.errors import ConfigError


class ImportedAdapter(CommandResult):
    """A checkpoint that is an adapter now.

    Attributes:
        adapter: its folder.
        method: as which it was recognised.
        classes: how many.
    """

    adapter: Path
    method: str
    classes: int

    def text(self) -> RenderableType:
        return Group(
            fact("adapter", f"{self.adapter} ({self.method}, {self.classes} classes)"),
            fact("next", f"petiole predict {quote(str(self.adapter))} IMAGE..."),
        )


@verb
def import_dassl(
    file: Path,
    /,
    *,
    backbone: str,
    out: Path,
    classes: Annotated[Sequence[str], Parameter(consume_multiple=True)] = (),
    images: Path | None = None,
    part: Literal["all", "base"] = "all",
    settings: Settings = None,
    weights: Path | None = None,
    image_size: int | None = None,
) -> ImportedAdapter:
    """Turn a checkpoint of CoOp, CoCoOp, MaPLe, IVLP or PromptSRC into an adapter; nothing in it is run.

    A checkpoint states neither its classes nor its backbone. Give the class names, or the data set that it was trained
    on; one from base to novel classes knows the base half.

    Args:
        file: e.g. model.pth.tar-200, or model-best.pth.tar.
        backbone: what it was trained on, e.g. ViT-B-16.pt.
        out: folder of the adapter; must not exist.
        classes: names in the order of the labels.
        images: a data set in place of the names.
        part: whether all of its classes were trained on, or the base half.
        settings: what the file does not state, e.g. position=middle of CoOp.
        weights: the backbone's local weights, where they are not to be fetched.
        image_size: of the backbone.

    Raises:
        PetioleError: a file that cannot be read, or that does not fit the backbone or the classes.
    """
    from petiole.backbones.registry import load_backbone
    from petiole.data.sources import open_shift
    from petiole.tasks.classification.dassl import import_dassl as import_file

    if bool(classes) == bool(images):
        raise ConfigError(
            "Give either --classes NAME... or --images DATASET, in the labels' order."
        )
    if Path(out).exists():
        raise ConfigError(f"{out} exists already. Move it away, or choose another --out.")
    names = list(classes) if images is None else open_shift(images).half(part).classes
    adapter = import_file(
        Path(file),
        load_backbone(backbone, weights=weights, image_size=image_size),
        names,
        pairs(settings),
        weights=weights,
        image_size=image_size,
    )
    adapter.save(Path(out))
    return ImportedAdapter(
        adapter=Path(out), method=adapter.manifest.method, classes=len(adapter.classes)
    )
