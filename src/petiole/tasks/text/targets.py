"""Which target a sample teaches, and what always saying the commonest one is worth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from petiole.data.text_sample import TextSample
from petiole.errors import DataError


def drawn_target(sample: TextSample, uniform: float) -> tuple[str, float]:
    """Return one target and the weight of its loss: with soft answers s_a, a is drawn with P(a) = s_a / Σ s.

    The weight is s_a itself, so that in expectation answer a counts s_a² / Σ s. Without targets it is
    ``("", 0.0)``. It is a function of ``uniform`` alone, so a resumed run draws the same
    (VL-Adapter's reference code draws targets alike; Sung et al., 2022).

    Args:
        sample: its targets, in their order.
        uniform: a number in [0, 1).

    Raises:
        DataError: a negative weight.
    """
    if any(weight < 0 for weight in sample.targets.values()):
        raise DataError(f"Sample {sample.key!r} has a target of negative weight.")
    left = uniform * sum(sample.targets.values())
    last = ("", 0.0)
    for answer, weight in sample.targets.items():
        if not weight:
            continue
        last = (answer, weight)
        if left < weight:
            break
        left -= weight
    return last


def majority(samples: Sequence[TextSample]) -> str:
    """Return the target with the greatest weight in all; of equals, the first in the alphabet.

    The baseline that looks at nothing: predict it for every sample.

    Raises:
        DataError: no sample has a target.
    """
    total: dict[str, float] = defaultdict(float)
    for sample in samples:
        for answer, weight in sample.targets.items():
            total[answer] += weight
    if not total:
        raise DataError(
            "No sample has a target, so there is no commonest one; give training samples."
        )
    return min(total, key=lambda answer: (-total[answer], answer))
