"""Whether random training views still show what their label says: accuracy on them beside the evaluation view.

A dual encoder is judged by its zero-shot classes; any other backbone by the nearest class mean of the other training
images' vectors in the evaluation view. Nothing is trained and no test image is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from petiole.data.dataset import Dataset
from petiole.errors import ConfigError
from petiole.methods.recipe import Recipe
from petiole.methods.registry import create
from petiole.tasks.classification.model import AdaptedClassifier

if TYPE_CHECKING:
    from petiole.tasks.classification.workspace import ClassificationWorkspace

IMAGES = 256
"""At most so many images are looked at."""
Scorer = Callable[[Tensor], Tensor]
FALL = 5.0
"""Points of accuracy above which views are said to lose labels."""


def check_views(
    workspace: ClassificationWorkspace, data: Dataset, recipe: Recipe
) -> dict[str, float]:
    """Accuracy in per cent on training images in the evaluation view and in random ones; empty where there are none.

    Returns:
        Of what is measured (``zero-shot`` or ``class means``), ``MEASURE, evaluation view`` and
        ``MEASURE, training views``.
    """
    if not recipe.views:
        return {}
    data = data.select(
        np.array([domain == "target" for domain in data.domains])
        if "target" in data.domains and recipe.train_on != "source"
        else np.ones(len(data), dtype=bool)
    )
    if len(data) > IMAGES:
        data = data.select(np.linspace(0, len(data) - 1, IMAGES).round().astype(int))
    role = workspace.backbone.vector
    table = workspace.table(data, (role,), recipe)
    rows = torch.arange(len(data))
    labels = torch.tensor(data.labels.copy())
    seen = [table.fetch(rows, torch.full_like(rows, view))[role].cpu() for view in (0, 1)]
    measure, scores = "zero-shot", _zero_shot(workspace, data)
    if scores is None:
        if int(np.bincount(data.labels).max()) < 2:
            return {}
        measure, scores = "class means", _class_means(seen[0], labels, len(data.classes))
    known = [100 * float((scores(vectors).argmax(1) == labels).float().mean()) for vectors in seen]
    return {f"{measure}, evaluation view": known[0], f"{measure}, training views": known[1]}


def warning(checked: dict[str, float], recipe: Recipe) -> str:
    """A sentence where views lose labels; else empty."""
    if not checked:
        return ""
    (name, whole), (_, views) = checked.items()
    if whole - views <= FALL:
        return ""
    return (
        f"Training views lose labels: {name.partition(',')[0]} accuracy is {views:.0f} % on views by "
        f"augmentation={recipe.augmentation}, {whole:.0f} % on the evaluation view. Try --set views=0, or another "
        "augmentation."
    )


def _zero_shot(workspace: ClassificationWorkspace, data: Dataset) -> Scorer | None:
    """Vectors (n, d) -> logits (n, K), where the backbone reads class names."""
    try:
        with torch.random.fork_rng():
            plan = create("zero-shot").plan(workspace.backbone, len(data.classes))
    except ConfigError:
        return None
    adapted = AdaptedClassifier(workspace.backbone, plan).to(workspace.features.device).eval()
    adapted.name(data.classes, data.name)

    @torch.no_grad()
    def scores(vectors: Tensor) -> Tensor:
        state = {workspace.backbone.vector: vectors.to(workspace.features.device)}
        logits: Tensor = adapted(state).logits
        return logits.float().cpu()

    return scores


def _class_means(x: Tensor, labels: Tensor, classes: int) -> Scorer:
    """Vectors of the same images, in any view -> cosines (n, K) with class means that leave the image itself out."""
    own = one_hot(labels, classes).float()
    unit = normalize(x.float(), dim=-1)
    sums, counts = own.T @ unit, own.sum(0)

    def scores(vectors: Tensor) -> Tensor:
        others = sums[None] - own[:, :, None] * unit[:, None]  # (n, K, d)
        cosines = (normalize(others, dim=-1) * normalize(vectors, dim=-1)[:, None]).sum(-1)
        return torch.where(counts[None] - own > 0, cosines, torch.tensor(-1.0))

    return scores
