"""``petiole pair``: two towers out of an image backbone and a sentence encoder."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from rich.console import Group, RenderableType

from petiole.commands.options import CommandResult, fact
from petiole.commands.verb import verb
from petiole.errors import ConfigError
from petiole.ranges import PositiveFloat


class PairResult(CommandResult):
    """A written pair.

    Attributes:
        folder: to be given as --backbone.
        texts: sentences that the projection was fitted on.
        width: of the joint space.
    """

    folder: Path
    texts: int
    width: int

    def text(self) -> RenderableType:
        return Group(
            fact("folder", f"{self.folder} ({self.texts:,} texts, {self.width:,} numbers)"),
            fact("next", f"petiole generalise IMAGES --backbone {quote(str(self.folder))}"),
        )


@verb
def pair(
    folder: Path,
    /,
    *,
    text: Path,
    image: str = "petiole/efficientnet-lite0",
    weights: Path | None = None,
    image_size: int | None = None,
    captions: Path | None = None,
    template: str = "a photo of a {}.",
    penalty: PositiveFloat = 1.0,
    scale: PositiveFloat = 40.0,
    image_projection: bool = False,
    quiet: bool = False,
) -> PairResult:
    """Join an image backbone and a sentence encoder, both frozen, by one ridge regression.

    Without --captions sentences learn the rows of the image network's own ImageNet classifier by its 1,000 class
    names, which takes seconds and no images. With them they learn the vectors of the pictures that they describe.
    This is not CLIP: what it knows of words is what the encoder and those sentences say.

    Args:
        folder: to write; must not exist.
        text: folder of a BERT or RoBERTa encoder, e.g. of a sentence-transformers model.
        image: the image backbone.
        weights: its local weights, where they are not to be fetched.
        image_size: pixels, where the backbone accepts other sizes.
        captions: CSV or Parquet table; ``path`` is an image, ``label`` its caption.
        template: about ImageNet's class names.
        penalty: of the ridge.
        scale: of the logits. CLIP has 100; pairs of EfficientNet-Lite0 and MiniLM are calibrated between 30 and 50.
        image_projection: give the images' side a projection too, the identity, for methods that train one (carot).
        quiet: no progress bar.

    Raises:
        ConfigError: the folder exists, or a number means nothing.
        BackboneError: a network cannot be loaded.
        DataError: a caption's picture cannot be read.
    """
    from petiole.backbones.registry import load_backbone
    from petiole.backbones.vision.classifier import imagenet_names, imagenet_rows
    from petiole.engine import pairing

    if folder.exists():
        raise ConfigError(f"{folder} exists already. Move it away, or choose another folder.")
    backbone = load_backbone(image, weights=weights, image_size=image_size)
    if captions is None:
        texts = [template.format(name) for name in imagenet_names()]
        targets = imagenet_rows(image, weights)
    else:
        texts, targets = pairing.seen(backbone, captions, quiet=quiet)
    towers, tensors = pairing.make(
        backbone,
        Path(text),
        texts,
        targets,
        penalty=penalty,
        scale=scale,
        image_projection=image_projection,
    )
    pairing.save(
        folder, tensors, Path(text), image=image, image_weights=weights, image_size=image_size
    )
    return PairResult(folder=folder, texts=len(texts), width=towers.width)
