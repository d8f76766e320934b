"""Batches as a pure function of (seed, step), so that a resumed run sees what it would have seen.

Two kinds: class- and domain-balanced, or (``batch_size``) shuffled passes over all images.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from petiole.data.dataset import Dataset
from petiole.errors import DataError
from petiole.methods.recipe import Recipe

DOMAINS = {"source": ("source",), "target": ("target",)}
"""The domains that ``train_on`` needs, where it needs certain ones; else it takes what there is."""


class Sampler:
    """Batches of rows and views.

    Balanced ones have P classes x (S source + T target) images.

    Source images are drawn without replacement where the class has enough, target ones with. When
    only one domain is trained on, it fills all S + T places, so every way of training sees equally
    many images a step.

    Args:
        data: all training images; their domains decide their part.
        recipe: P, S, T or batch_size, which domains, number of random views.
        seed: of the run.

    Raises:
        DataError: the recipe asks for a domain that has no images.
    """

    def __init__(self, data: Dataset, recipe: Recipe, seed: int) -> None:
        self.recipe, self.seed = recipe, seed
        target = np.array([domain == "target" for domain in data.domains], dtype=bool)
        self._groups = {
            domain: _by_class(data.labels, mask)
            for domain, mask in (("source", ~target), ("target", target))
        }
        needed = ("source", "target") if recipe.train_on == "sequential" else ()
        for domain in DOMAINS.get(recipe.train_on, needed):
            if not self._groups[domain]:
                raise without(domain, recipe, data)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return rows (B,) and views (B,) of one step; in balanced batches classes stand together."""
        rng = np.random.default_rng([self.seed, step])
        rows = self._shuffled(step) if self.recipe.batch_size else self._balanced(rng, step)
        views = (
            rng.integers(1, self.recipe.views + 1, len(rows))
            if self.recipe.views
            else np.zeros(len(rows), dtype=np.int64)
        )
        return torch.from_numpy(rows), torch.from_numpy(views)

    def _shuffled(self, step: int) -> NDArray[np.int64]:
        """Batch ``step`` of endless shuffled passes over the images of the step's domains."""
        size = self.recipe.batch_size
        groups = (self._groups[domain] for domain in self._shares(step))
        rows = np.sort(np.concatenate([r for group in groups for r in group.values()]))
        batches = len(rows) // size if self.recipe.drop_last else -(-len(rows) // size)
        epoch, batch = divmod(step, max(1, batches))
        # A third number keeps this stream apart from that of the views.
        order = np.random.default_rng([self.seed, epoch, 1]).permutation(rows)
        return order[batch * size : (batch + 1) * size]

    def _balanced(self, rng: np.random.Generator, step: int) -> NDArray[np.int64]:
        shares = self._shares(step)
        classes = np.array(sorted(set().union(*(self._groups[d] for d in shares))))
        chosen = rng.permutation(classes)[: self.recipe.classes_per_batch]
        parts = [
            _draw(rng, self._groups[domain][label], count, replace=domain == "target")
            for label in chosen.tolist()
            for domain, count in shares.items()
            if label in self._groups[domain]
        ]
        return np.concatenate(parts)

    def _shares(self, step: int) -> dict[str, int]:
        """Images of each domain for every class of this step."""
        s, t = self.recipe.source_per_class, self.recipe.target_per_class
        mode = self.recipe.train_on
        if mode == "sequential":
            mode = "source" if step < self.recipe.steps // 2 else "target"
        if mode == "joint":
            present = [d for d in ("source", "target") if self._groups[d]]
            return {"source": s, "target": t} if len(present) == 2 else {present[0]: s + t}
        return {mode: s + t}


def trained_on(data: Dataset, recipe: Recipe) -> int:
    """Number of images that a recipe trains on."""
    wanted = DOMAINS.get(recipe.train_on)
    return len(data) if wanted is None else sum(domain in wanted for domain in data.domains)


def without(domain: str, recipe: Recipe, data: Dataset) -> DataError:
    """The error of a recipe whose domain has no images."""
    remedy = "Give them with --source" if domain == "source" else "Add some"
    return DataError(
        f"train_on={recipe.train_on} needs {domain} images, and {data.name} has none. {remedy}, or "
        "set train_on=joint, which takes the domains that there are."
    )


def _by_class(labels: NDArray[np.int64], mask: NDArray[np.bool_]) -> dict[int, NDArray[np.int64]]:
    return {int(c): np.flatnonzero(mask & (labels == c)) for c in np.unique(labels[mask])}


def _draw(
    rng: np.random.Generator, rows: NDArray[np.int64], count: int, *, replace: bool
) -> NDArray[np.int64]:
    return rng.choice(rows, count, replace=replace or len(rows) < count)
