"""Right or wrong, by sample and by group: accuracy of answers that are texts; and how far off by edits.

Functions return fractions; the tasks print them in percent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence


def matches(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return 1.0 where the prediction is exactly one of the sample's references, else 0.0.

    Nothing is normalised: that is GQA's exact match, and accuracy of NLVR2 and of video questions.

    Raises:
        ValueError: another number of predictions than of references, or a sample without a list of them.
    """
    _one_each(predictions, references)
    return [
        float(prediction in known)
        for prediction, known in zip(predictions, references, strict=True)
    ]


def consistency(right: Sequence[float], groups: Sequence[Hashable]) -> float:
    """Return the share of groups in which every sample is right (NLVR2: one sentence, several pairs).

    Args:
        right: 1.0 or 0.0 for each sample.
        groups: the group of each sample.

    Raises:
        ValueError: different lengths, or no samples.
    """
    _one_each(right, groups, listed=False)
    together: dict[Hashable, list[float]] = defaultdict(list)
    for score, group in zip(right, groups, strict=True):
        together[group].append(score)
    return sum(min(scores) for scores in together.values()) / len(together)


def choice_index(answer: str) -> int:
    """Return i of ``"a{i}"``, 0 if there is no digit: what a submission to VALUE holds (Li et al., 2021)."""
    digit = answer[1:2]
    return int(digit) if digit.isdecimal() else 0


def edits(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the Levenshtein distance: fewest insertions, deletions and substitutions from a to b."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        last, row = row, [i]
        for j, y in enumerate(b, start=1):
            row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (x != y)))
    return row[-1]


def error_rate(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> float:
    """Return edits over the length of the references, of the whole set: word or character error rate.

        Σ_i edits(p_i, r_i) / Σ_i |r_i|,   r_i: the reference of sample i with the fewest edits

    Above 1 where predictions are much too long.

    Args:
        predictions: the tokens of each; a plain ``str`` counts characters.
        references: one or more for each sample, likewise.

    Raises:
        ValueError: as in :func:`matches`, or all references are empty.
    """
    _one_each(predictions, references)
    nearest = [
        min((edits(prediction, r), len(r)) for r in known)
        for prediction, known in zip(predictions, references, strict=True)
    ]
    length = sum(n for _, n in nearest)
    if not length:
        raise ValueError("All references are empty, so an error rate has no meaning.")
    return sum(distance for distance, _ in nearest) / length


def _one_each(
    predictions: Sequence[object], references: Sequence[object], *, listed: bool = True
) -> None:
    if len(predictions) != len(references) or not predictions:
        raise ValueError(
            f"{len(predictions)} predictions for {len(references)} samples; pass one each, at least one."
        )
    for i, known in enumerate(references):
        if isinstance(known, list | tuple) and not known:
            raise ValueError(f"Sample {i} has no reference to score against.")
        if listed and isinstance(known, str):
            raise ValueError(f"Sample {i} needs a list of references, not {known!r}.")
