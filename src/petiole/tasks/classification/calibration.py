"""What an adapter knows of its own errors: temperature, label sets and an out-of-distribution threshold.

Everything is fitted on left-out predictions: of every target image of the training set, the logits of a fit that
had not seen it. No image is held back for it, and none of the test set is looked at.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from petiole.engine.model_card import FrozenModel
from petiole.metrics.calibration import conformal_bound, label_scores, temperature, thinned
from petiole.metrics.classification import score, uneven
from petiole.tasks.classification.novelty import INSIDE, Novelty

MOST_SCORES = 1000


class Calibration(FrozenModel):
    """Of one adapter.

    Attributes:
        temperature: T; probabilities are softmax(z / T).
        scores: 1 − p of the true class of left-out images at T, ascending, at most 1,000 of them.
        novelty: tells images that look like none of the training images by their vectors; ``None`` in adapters from before
            it was, or where fewer than 19 images were left out.
        threshold: what stands in where there are only logits: an image whose largest one lies below it looks out of
            distribution (Hendrycks et al., 2022). ``None`` where there were fewer than 19.
        images: left-out images.
        folds: fits that they were left out of, as they were asked for; 0 where nothing is fitted.
    """

    temperature: float = Field(gt=0)
    scores: list[float] = Field(min_length=1, max_length=MOST_SCORES)
    threshold: float | None
    novelty: Novelty | None = None
    images: int
    folds: int

    @classmethod
    def fit(
        cls, logits: Tensor, labels: Tensor, folds: int, novelty: Novelty | None = None
    ) -> Calibration:
        """From left-out logits (n, K) and labels (n,)."""
        z, y = logits.double().cpu().numpy(), labels.cpu().numpy()
        t = temperature(z, y)
        p = torch.softmax(torch.from_numpy(z) / t, -1).numpy()
        least = -conformal_bound(-z.max(1), INSIDE)
        return cls(
            temperature=t,
            scores=thinned(label_scores(p, y), MOST_SCORES).tolist(),
            threshold=least if np.isfinite(least) else None,
            novelty=novelty,
            images=len(y),
            folds=folds,
        )

    def probabilities(self, logits: Tensor) -> Tensor:
        """softmax(z / T), (n, K)."""
        return (logits.float() / self.temperature).softmax(-1)

    def bound(self, coverage: float) -> float:
        """The largest 1 − p of a label that belongs to an image's set; infinite with too few left-out images.

        The set {k: 1 − p_k <= bound} holds the true label with that probability; ``petiole.metrics.calibration``
        says what is guaranteed. Ties through rounding belong to it.
        """
        return conformal_bound(self.scores, coverage) + 1e-6

    def familiarity(self, logits: Tensor, vectors: Tensor) -> tuple[Tensor, float | None]:
        """How like the training images each image looks (n,), and the least that is inside, if it is known."""
        if self.novelty:
            return self.novelty.similarity(vectors), self.novelty.threshold
        return logits.amax(-1), self.threshold

    def outside(self, logits: Tensor, vectors: Tensor) -> list[bool | None]:
        """Whether each image looks out of distribution; ``None`` without a threshold."""
        found, least = self.familiarity(logits, vectors)
        return [None] * len(found) if least is None else (found < least).tolist()


class ClassificationDetails(FrozenModel):
    """What the manifest of an adapter of labelled images holds beside what every kind has."""

    calibration: Calibration | None = None


def scores_of(logits: Tensor, labels: Any, calibration: Calibration | None) -> dict[str, float]:
    """Scores by name, macro accuracy first where classes are uneven; with a calibration also its error and log-loss."""
    found = score(logits.double().softmax(-1).numpy(), labels).to_dict()
    if uneven(labels):
        found = {"macro_accuracy": found.pop("macro_accuracy"), **found}
    if calibration:
        after = score(calibration.probabilities(logits).double().numpy(), labels)
        found |= {"calibrated_ece": after.ece, "calibrated_nll": after.nll}
    return found
