"""Data sets of class folders, drawn from synthetic scenes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from petiole.data.label_safe import state_augmentation
from petiole.data.synthetic.drawn import Advance, appearing
from petiole.data.synthetic.scenes.grammar import NUMBERS, class_name, plural
from petiole.data.synthetic.scenes.render import render
from petiole.data.synthetic.scenes.scene import (
    COLOURS,
    SHAPES,
    SIZES,
    STYLES,
    Composition,
    Scene,
    compositions,
)
from petiole.data.synthetic.scenes.species import species
from petiole.errors import unknown

CLASSES = 40
KEEPS_LABELS = "none"
"""A crop often shows no object, or fewer of them than the label counts."""


@dataclass(frozen=True)
class ClassFolderTask:
    """A classification task.

    Attributes:
        about: one line.
        classes: names, in the order of the labels.
        draw: (label, generator) -> a scene in the style ``clear``.
        style: as which it is written unless another is asked for.
    """

    about: str
    classes: tuple[str, ...]
    draw: Callable[[int, np.random.Generator], Scene]
    style: str = "clear"


def _chosen() -> tuple[Composition, ...]:
    """Forty held-out compositions, the same everywhere, no two of equal name."""
    kinds = compositions(held=True)
    order = np.random.default_rng(40).permutation(len(kinds))[:CLASSES]
    return tuple(kinds[i] for i in order)


def _one(kind: Composition, rng: np.random.Generator) -> Scene:
    return Scene(kind, 1, str(rng.choice(list(SIZES))), "clear")


def _any(rng: np.random.Generator, **fixed: int) -> Composition:
    """A composition that pre-training may have seen, with some parts fixed."""
    kinds = compositions(held=False)
    fitting = [k for k in kinds if all(getattr(k, part) == value for part, value in fixed.items())]
    return fitting[rng.integers(len(fitting))]


def _counted(label: int, rng: np.random.Generator) -> Scene:
    shape, count = divmod(label, len(NUMBERS))
    return replace(_one(_any(rng, shape=shape), rng), count=count + 1)


KINDS = _chosen()
TASKS = {
    "compositions": ClassFolderTask(
        "40 compositions of texture, colour and shape that pre-training never saw",
        tuple(map(class_name, KINDS)),
        lambda label, rng: _one(KINDS[label], rng),
        style="noisy",
    ),
    "species": ClassFolderTask(
        "120 species: compositions that pre-training saw, by invented names that it seldom read",
        tuple(species()),
        lambda label, rng: _one(list(species().values())[label], rng),
    ),
    "shapes": ClassFolderTask(
        "12 shapes in all colours",
        SHAPES,
        lambda label, rng: _one(_any(rng, shape=label), rng),
    ),
    "colours": ClassFolderTask(
        "10 colours in all shapes",
        tuple(COLOURS),
        lambda label, rng: _one(_any(rng, colour=label), rng),
    ),
    "counts": ClassFolderTask(
        "one to four of 12 shapes",
        tuple(
            f"{number} {shape if i == 0 else plural(shape)}"
            for shape in SHAPES
            for i, number in enumerate(NUMBERS)
        ),
        _counted,
    ),
}
"""By name. The style of ``compositions`` is one that pre-training never saw either."""


def write_task(
    folder: Path,
    name: str,
    *,
    style: str = "",
    train: int = 32,
    test: int = 40,
    seed: int = 0,
    advance: Advance = lambda _: None,
) -> Path:
    """Write ``folder``/train/<class>/*.png and test/, so many pictures of each class.

    Args:
        name: of the task.
        style: one of STYLES; the task's own unless given.
        advance: called with the pictures written since.

    Returns:
        The folder, which appears only when it is complete.

    Raises:
        ConfigError: an unknown task or style.
        DataError: the folder exists.
    """
    if name not in TASKS:
        raise unknown("task of synthetic scenes", name, TASKS)
    task = TASKS[name]
    if (style or task.style) not in STYLES:
        raise unknown("style of synthetic scenes", style, STYLES)
    with appearing(folder) as staging:
        state_augmentation(staging, KEEPS_LABELS)
        for part, (which, count) in enumerate((("train", train), ("test", test))):
            for label, title in enumerate(task.classes):
                place = staging / which / title.replace(" ", "_")
                place.mkdir(parents=True)
                for i in range(count):
                    rng = np.random.default_rng([seed, part, label, i])
                    scene = replace(task.draw(label, rng), style=style or task.style)
                    render(scene, int(rng.integers(2**31))).save(place / f"{i:04d}.png")
                advance(count)
    return folder
