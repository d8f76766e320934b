"""A tiny CLIP with a method of class names on it."""

from __future__ import annotations

from collections.abc import Sequence

from petiole.methods.registry import create
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.testing import dual_encoder as clips
from petiole.testing.random_weights import seeded

TREES = ("ash", "birch", "cedar")


def adapted(
    name: str, seed: int = 0, names: Sequence[str] = TREES, **settings: object
) -> AdaptedClassifier:
    """In evaluation mode, knowing its classes."""
    towers = clips.towers()
    with seeded(seed):
        built = AdaptedClassifier(towers, create(name, settings).plan(towers, len(names)))
    built.name(names)
    return built.eval()
