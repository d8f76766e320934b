"""What is said beside a label: the set of labels that covers the truth, and whether to leave the image to a person."""

from __future__ import annotations

from math import inf

from petiole.errors import ConfigError
from petiole.tasks.classification.calibration import Calibration


class Doubt:
    """What was asked for beside labels, of one adapter.

    Args:
        calibration: of the adapter, if it has one.
        coverage: how often the label set shall hold the true label; ``None`` for no sets.
        abstain_below: probability below which an image is better left to a person.
        adapter: what it is called in errors.

    Attributes:
        bound: largest 1 - p of a label that belongs to a set; ``None`` where no sets are asked for.
        notes: what the probabilities and sets mean, for people.

    Raises:
        ConfigError: the adapter is not calibrated, or a number is no probability.
    """

    def __init__(
        self,
        calibration: Calibration | None,
        coverage: float | None = None,
        abstain_below: float | None = None,
        *,
        adapter: str,
    ) -> None:
        self.below = abstain_below
        self.bound: float | None = None
        self.notes: list[str] = []
        for option, value in {"coverage": coverage, "abstain-below": abstain_below}.items():
            if value is None:
                continue
            if not 0 < value < 1:
                raise ConfigError(f"--{option} is a probability, e.g. 0.9, not {value}.")
            if calibration is None:
                raise ConfigError(
                    f"{adapter} is not calibrated, so --{option} would mean nothing: fit it again with "
                    "--calibration-folds 5."
                )
        if calibration is None:
            self.notes.append(
                "the adapter is not calibrated: its probabilities rank classes, no more"
            )
        elif coverage is not None:
            self.bound = calibration.bound(coverage)
            if self.bound == inf:
                self.notes.append(
                    f"{calibration.images} left-out images are too few for sets at {coverage:g}: "
                    "each set holds all classes"
                )

    def label_set(self, label: str, probabilities: dict[str, float]) -> list[str]:
        """Labels of the set, most probable first, given all probabilities in that order; none where none were asked for."""
        bound = self.bound
        if bound is None:
            return []
        return [n for n, p in probabilities.items() if 1 - p <= bound or n == label]

    def abstain(self, probability: float, outside: bool | None) -> bool | None:
        """Whether to leave an image to a person; ``None`` where nothing was asked for."""
        return None if self.below is None else probability < self.below or bool(outside)
