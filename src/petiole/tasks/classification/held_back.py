"""Training images that are held back to judge the steps of a training, or the paths of a supernet: never the test images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from petiole.backbones.base import State
from petiole.collective import members, summed
from petiole.data.dataset import Dataset
from petiole.data.splits import holdout
from petiole.engine.feature_table import Drawn, Table
from petiole.errors import ConfigError, DataError
from petiole.layers.solved import SolvedHead
from petiole.methods.recipe import Recipe
from petiole.processes import rank
from petiole.tasks.classification.model import AdaptedClassifier, Predictions, predict

SEED = 0
"""Of the choice: the same images are held back whatever the run's seed."""


class RowsTable(Table):
    """Some rows of a table, renumbered."""

    def __init__(self, table: Table, rows: Sequence[int]) -> None:
        self.table, self.rows = table, torch.tensor(rows, dtype=torch.long)

    def fetch(self, rows: Tensor, views: Tensor) -> State:
        return self.table.fetch(self.rows[rows], views)

    def expect(self, drawn: Drawn) -> None:
        def mapped() -> tuple[Tensor, Tensor]:
            rows, views = drawn()
            return self.rows[rows], views

        self.table.expect(mapped)


class HeldBack:
    """A share of each class of the target images (of all, if there are none), and what is left to train on.

    Args:
        adapted: what is trained.
        data: training images.
        table: their values at the training cut.
        recipe: with ``held_back``.

    Attributes:
        kept, kept_table: images that are trained on, and their values.

    Raises:
        ConfigError: nothing is trained by steps.
        DataError: a class has one image.
    """

    def __init__(
        self, adapted: AdaptedClassifier, data: Dataset, table: Table, recipe: Recipe
    ) -> None:
        judges = "select=best" if recipe.select == "best" else "the search over paths"
        if isinstance(adapted.head, SolvedHead) or not recipe.steps:
            raise ConfigError(
                "select=best chooses among the steps of a training, and this method takes none: set select=last."
            )
        judged = "target" if "target" in data.domains else "source"
        pool = data.select([i for i, domain in enumerate(data.domains) if domain == judged])
        try:
            _, held = holdout(pool, recipe.held_back, SEED)
        except DataError as error:
            raise DataError(
                f"{judges} holds back {judged} images of every class and needs at least two of each: draw more "
                f"shots{', or set select=last' * (recipe.select == 'best')}. ({error})"
            ) from error
        chosen = {(image, judged) for image in held.ids}
        rows = [
            [
                i
                for i, pair in enumerate(zip(data.ids, data.domains, strict=True))
                if (pair in chosen) == out
            ]
            for out in (False, True)
        ]
        self.adapted = adapted
        self.kept, self.kept_table = data.select(rows[0]), RowsTable(table, rows[0])
        self.table, self.labels = RowsTable(table, rows[1]), torch.tensor(data.labels[rows[1]])

    def loss(self) -> float:
        """Mean log-loss of the held-back images in the evaluation view."""
        p = self._predictions(self.table, len(self.labels)).probabilities.double()
        own = p[torch.arange(len(p)), self.labels].clamp(min=1e-12)
        return float(-own.log().mean())

    def accuracy(self) -> float:
        """Share of the held-back images that is right; of several processes each judges some of them."""
        mine = list(range(rank() % members(), len(self.labels), members()))
        right = torch.zeros((), device=self.adapted.backbone.device)
        if mine:
            found = self._predictions(RowsTable(self.table, mine), len(mine)).logits.argmax(1)
            right += (found == self.labels[mine]).sum().to(right.device)
        return float(summed(right)) / len(self.labels)

    def _predictions(self, table: Table, count: int) -> Predictions:
        return predict(self.adapted, table.batches(count))
