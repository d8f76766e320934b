"""Pictures of one to four shapes, and masks that say which shape is at each pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from petiole.data.readers.masks import CLASSES, IMAGES, MASKS
from petiole.data.synthetic.drawn import Advance, appearing
from petiole.data.synthetic.scenes.render import render_with_mask
from petiole.data.synthetic.scenes.scene import SHAPES, STYLES, SceneObject, draw_kind
from petiole.errors import unknown
from petiole.files import write_json

TASK = "masks"
SHOWN = ("circle", "square", "triangle", "star", "cross", "heart")
"""The shapes that are drawn; class 0 is the background."""
QUARTERS = ((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73))


def write_masks(
    folder: Path,
    *,
    style: str = "",
    train: int,
    test: int,
    seed: int = 0,
    advance: Advance = lambda _: None,
) -> Path:
    """Write ``folder``/{train,test}/{images,masks}/*.png and classes.json.

    Args:
        style: one of STYLES; clear unless given.
        train, test: pictures of each part.
        advance: called with the pictures written since.

    Returns:
        The folder, which appears only when it is complete.

    Raises:
        ConfigError: an unknown style.
        DataError: the folder exists.
    """
    style = style or "clear"
    if style not in STYLES:
        raise unknown("style of synthetic scenes", style, STYLES)
    with appearing(folder) as staging:
        write_json(staging / CLASSES, {"classes": ["background", *SHOWN], "ignore": 255})
        for part, (which, count) in enumerate((("train", train), ("test", test))):
            for name in (IMAGES, MASKS):
                (staging / which / name).mkdir(parents=True)
            for i in range(count):
                image, mask = draw(style, np.random.default_rng([seed, part, i, 5]))
                image.save(staging / which / IMAGES / f"{i:04d}.png")
                mask.save(staging / which / MASKS / f"{i:04d}.png")
                advance(1)
    return folder


def draw(style: str, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """One picture and its mask, a pixel the place of its class."""
    kinds = [SHAPES.index(name) for name in SHOWN]
    objects = []
    for x, y in rng.permutation(QUARTERS)[: rng.integers(1, 5)].tolist():
        kind = draw_kind(rng, lambda one: one.shape in kinds)
        dx, dy = rng.uniform(-0.06, 0.06, 2).tolist()
        objects.append(SceneObject(kind, x + dx, y + dy, float(rng.uniform(0.12, 0.2))))
    picture, numbers = render_with_mask(objects, style, int(rng.integers(2**31)))
    places = np.array([0, *(1 + kinds.index(each.kind.shape) for each in objects)], dtype=np.uint8)
    return picture, Image.fromarray(places[numbers])
