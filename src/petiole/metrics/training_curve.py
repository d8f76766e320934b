"""What a loss by step says of a run that ended: it still falls, or it once diverged and came back; and accuracy at chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FEWEST = 12
"""Steps below which nothing is said: quarters of three values and more."""


def still_falls(losses: Sequence[float]) -> bool:
    """Whether the last quarter of training took a tenth of the whole fall of the loss, beyond its noise."""
    values = np.asarray(losses, dtype=np.float64)
    if len(values) < FEWEST:
        return False
    quarters = np.array_split(values, 4)
    before, last = quarters[2], quarters[3]
    fall = before.mean() - last.mean()
    noise = np.sqrt(before.var(ddof=1) / len(before) + last.var(ddof=1) / len(last))
    return bool(fall > max(0.1 * (values[:3].mean() - last.mean()), 2 * noise))


def recovered(losses: Sequence[float]) -> bool:
    """Whether the loss was once ten times that of the start, in means of three steps, and ended below half of that peak."""
    values = np.asarray(losses, dtype=np.float64)
    if len(values) < FEWEST:
        return False
    means = np.convolve(values, np.ones(3) / 3, mode="valid")
    peak = float(means.max())
    return bool(peak > 10 * max(float(means[0]), 1e-12) and means[-1] < peak / 2)


def at_chance(correct: float, labels: Sequence[int]) -> bool:
    """Whether accuracy, a fraction, is not told from always saying the commonest class: within two standard errors."""
    n = len(labels)
    chance = float(np.bincount(np.asarray(labels)).max()) / n
    return bool(chance < 1 and correct - 2 * np.sqrt(correct * (1 - correct) / n) <= chance)


def remarks(losses: Sequence[float], correct: float, labels: Sequence[int]) -> list[str]:
    """Sentences about a run; none where nothing is odd.

    Args:
        losses: of every step.
        correct: accuracy, a fraction.
        labels: of the images that were scored.
    """
    said = {
        "The run ends at chance: its accuracy is not told from always saying the commonest class. Train longer or at "
        "another rate, or score more images.": at_chance(correct, labels),
        "The loss grew tenfold during training and came back: lower lr, or clip gradients (clip).": recovered(
            losses
        ),
        "The loss still falls at the last step: raise steps.": still_falls(losses),
    }
    return [sentence for sentence, holds in said.items() if holds]
