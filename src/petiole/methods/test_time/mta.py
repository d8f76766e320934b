"""MTA: the mode of the views' vectors, found by a robust mean shift without any training (Zanella & Ben Ayed, CVPR 2024).

    y_p ~ exp((K(v_p - m) + lambda sum_q w_pq y_q) / tau)        how much view p is an inlier, sum 1
    m   = unit(sum_p y_p K(v_p - m) v_p)                         the mode, from the evaluation view on

K is a Gaussian whose width for each view comes from its nearest 30 % of the others; w_pq is the inner product of two views' predictions. lambda = 4,
tau = 0.2, five rounds of five: after the paper, with fixed numbers of rounds so that images do not wait for each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from petiole.errors import ConfigError
from petiole.methods.prompt_learning.class_vectors import ClassVectors
from petiole.methods.test_time.base import TEST_TIME, Adapted, FrozenClassifier, TestTimeMethod
from petiole.ranges import NonNegativeInt, PositiveFloat

NEAR = 0.3
"""Share of the other views by which a kernel's width is set."""


@TEST_TIME.register("mta", "the mode of the views' vectors; no training")
@dataclass(frozen=True)
class MTA(TestTimeMethod):
    """Robust mean shift.

    Attributes:
        affinity: lambda.
        sharpness: tau.
        rounds: of y and of m.
    """

    affinity: float = 4.0
    sharpness: PositiveFloat = 0.2
    rounds: NonNegativeInt = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.views < 2:
            raise ConfigError(
                f"mta compares views of an image with each other: views must be at least 2, but is {self.views}."
            )

    def check(self, model: FrozenClassifier) -> None:
        if not isinstance(model.plan.head, ClassVectors):
            raise ConfigError(
                "mta averages unit vectors that are compared with class vectors, and this adapter's head has none. Use it on zero-shot, coop, maple, "
                "promptsrc or clip-lora; or --adapt lora-ttt."
            )

    @torch.no_grad()
    def adapt(self, model: FrozenClassifier, views: Tensor) -> Adapted:
        state = model.lower(views.flatten(0, 1))
        with model.attached():
            vectors = model.vectors(state).float().reshape(*views.shape[:2], -1)
            mode = self.mode(normalize(vectors, dim=-1), model.scores(vectors))
            return Adapted(mode, model.scores(mode))

    def mode(self, vectors: Tensor, logits: Tensor) -> Tensor:
        """Unit vectors (B, V, d) and logits (B, V, C) -> the mode (B, d)."""
        others = torch.cdist(vectors, vectors).sort(-1).values[..., 1:]
        near = max(1, int(NEAR * others.shape[-1]))
        width = others[..., :near].square().mean(-1) / 2  # of each view, squared
        likely = logits.softmax(-1)
        alike = likely @ likely.mT
        y = torch.full(
            vectors.shape[:2], 1 / vectors.shape[1], device=vectors.device, dtype=vectors.dtype
        )
        mode = vectors[:, 0]
        for _ in range(self.rounds):
            density = _density(vectors, mode, width)
            for _ in range(self.rounds):
                drawn = (alike @ y[..., None])[..., 0]
                y = ((density + self.affinity * drawn) / self.sharpness).softmax(-1)
            mode = normalize(((y * density)[..., None] * vectors).sum(1), dim=-1)
        return mode


def _density(vectors: Tensor, mode: Tensor, width: Tensor) -> Tensor:
    """K (B, V)."""
    distance = (vectors - mode[:, None]).square().sum(-1)
    return (-distance / (2 * width).clamp(min=1e-12)).exp()
