"""How like the training images a new one looks: the cosine of its image vector to that of the nearest class mean.

    s(x) = max_c cos(v(x), m_c),     m_c the mean of unit vectors of class c

The distance to the nearest class mean of Lee et al. (2018), with directions in place of a covariance, which a few
images a class do not estimate. The largest logit does not serve: what lies far away can get a larger one than what was trained on.
"""

from __future__ import annotations

import base64
from typing import Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import linear, normalize, one_hot

from petiole.engine.model_card import FrozenModel
from petiole.metrics.calibration import conformal_bound

INSIDE = 0.95
"""Share of the left-out images that are not called out of distribution."""


class Novelty(FrozenModel):
    """Class means of one adapter's image vectors, and how near an image lies that is none of them.

    Attributes:
        means: unit class means (K', d) of the K' classes that have target images, as fp16, in base 64.
        width: d.
        threshold: an image whose similarity lies below it looks out of distribution: nineteen of twenty left-out images
            lie above it.
    """

    means: str
    width: int = Field(gt=0)
    threshold: float

    @model_validator(mode="after")
    def _whole(self) -> Self:
        size = len(base64.b64decode(self.means, validate=True))
        if not size or size % (2 * self.width):
            raise ValueError(f"{size} bytes of class means are no rows of {self.width} numbers")
        return self

    @classmethod
    def fit(cls, vectors: Tensor, labels: Tensor, left_out: Tensor) -> Novelty | None:
        """From training vectors (n, d), labels (n,) and similarities of left-out images; ``None`` with fewer than 19 of them."""
        least = -conformal_bound(-left_out.double().numpy(), INSIDE)
        if not np.isfinite(least):
            return None
        rows = class_means(vectors, labels).numpy().astype("<f2")
        means = base64.b64encode(rows.tobytes()).decode("ascii")
        return cls(means=means, width=rows.shape[1], threshold=least)

    def similarity(self, vectors: Tensor) -> Tensor:
        """s of image vectors (n, d), (n,)."""
        rows = np.frombuffer(base64.b64decode(self.means), "<f2").reshape(-1, self.width)
        return nearest(vectors, torch.from_numpy(rows.astype(np.float32)))


def class_means(vectors: Tensor, labels: Tensor) -> Tensor:
    """Unit means (K', d) of the unit vectors of each class that has images, in the order of the classes."""
    sums = one_hot(labels).to(vectors).T @ normalize(vectors, dim=-1)
    return normalize(sums[torch.bincount(labels) > 0], dim=-1)


def nearest(vectors: Tensor, means: Tensor) -> Tensor:
    """Cosine (n,) of each vector to the nearest of unit means (K', d)."""
    return linear(normalize(vectors.float(), dim=-1), means).amax(-1)


def left_out_similarity(vectors: Tensor, labels: Tensor) -> Tensor:
    """Similarity (n,) of each training image to class means that do not hold it; -1 where it is the only image of the only class."""
    unit = normalize(vectors.float(), dim=-1)
    held = one_hot(labels).to(unit)
    sums = held.T @ unit
    counts = torch.bincount(labels)
    found = linear(unit, normalize(sums, dim=-1))
    own = normalize(sums[labels] - unit, dim=-1)
    alone = counts[labels] == 1
    mine = (unit * own).sum(-1).masked_fill(alone, -1.0)[:, None]
    found = torch.where(held > 0, mine, found)
    return found.masked_fill((counts == 0)[None], -1.0).amax(-1)
