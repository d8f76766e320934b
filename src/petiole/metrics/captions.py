"""How near a caption is to what people wrote: CIDEr-D, BLEU and ROUGE-L, as coco-caption computes them.

Every function takes one prediction and the references of each picture, cuts them with
:func:`petiole.metrics.ptb.tokenise`, and returns a :class:`CaptionScore` in percent. CIDEr is on the scale of the
papers (114.9, not 1.149). There is one scale, for validation and for test.

Source: Vedantam et al. (CVPR 2015), Papineni et al. (ACL 2002), Lin (2004).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

from petiole.metrics.ptb import tokenise

ORDERS = 4  # n-grams of 1 to 4 words, in CIDEr and in BLEU
SIGMA = 6.0  # of CIDEr-D's length penalty, in bigrams
BETA = 1.2  # recall over precision in ROUGE-L
# coco-caption's guards of BLEU: a zero count gives a very small score, not 0, and parity needs them.
TINY, SMALL = 1e-15, 1e-9

Words = tuple[str, ...]
Grams = Counter[Words]


class CaptionScore(NamedTuple):
    """A score of the whole set, and of each sample for paired tests; both in percent.

    ``value`` is the mean of ``samples``, but for BLEU, which adds up its counts before it divides.
    """

    value: float
    samples: list[float]


def cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScore:
    """CIDEr-D x 100: tf-idf similarity of n-grams, averaged over orders n = 1…4 and references.

        g(x; s) = count of x in s · (ln N − ln max(1, df(x)))
        s_n     = Σ_x min(g(x; c), g(x; r)) · g(x; r) / (‖g(·; c)‖ ‖g(·; r)‖) · exp(−(l_c − l_r)² / (2·6²))
        CIDEr-D = 10 · mean over n, references and pictures of s_n

    x runs over the n-grams, N is the number of pictures and df(x) that of pictures whose references hold x.
    As in coco-caption, the "length" l is the number of *bigrams*. The document frequencies come from all
    references given, so a sample's score depends on the set it is scored with, and a set of one picture
    always scores 0. The maximum is 1000.

    Args:
        predictions: one caption a picture.
        references: at least one caption for each picture.

    Raises:
        ValueError: no pictures, another number of predictions than of references, or a picture without any.
    """
    candidates, humans = _cut(predictions, references)
    grams = [[_grams(words) for words in picture] for picture in humans]
    frequency = Counter(x for picture in grams for x in set().union(*picture))
    pictures = math.log(len(grams))

    def weigh(counts: Grams) -> list[dict[Words, float]]:
        vectors: list[dict[Words, float]] = [{} for _ in range(ORDERS)]
        for x, count in counts.items():
            vectors[len(x) - 1][x] = count * (pictures - math.log(max(1, frequency[x])))
        return vectors

    samples = []
    for words, picture, counts in zip(candidates, humans, grams, strict=True):
        ours = weigh(_grams(words))
        each = [
            _length_penalty(words, theirs) * fmean(map(_clipped_cosine, ours, weigh(count)))
            for theirs, count in zip(picture, counts, strict=True)
        ]
        samples.append(1000 * fmean(each))
    return CaptionScore(fmean(samples), samples)


def bleu(
    predictions: Sequence[str], references: Sequence[Sequence[str]], orders: int = ORDERS
) -> CaptionScore:
    """BLEU in percent: the geometric mean of clipped n-gram precisions, with the brevity penalty.

        p_n  = Σ_pictures Σ_x min(count_c(x), max_r count_r(x)) / Σ_pictures (|c| − n + 1)
        BLEU = min(1, e^{1 − R/C}) · (p_1 ⋯ p_N)^{1/N}

    C is the length of all captions, R that of the references nearest in length, the shorter of two equally
    near. ``samples`` are BLEU of each caption alone, without smoothing.

    Raises:
        ValueError: as in :func:`cider`, or ``orders`` is not 1, 2, 3 or 4.
    """
    if not 1 <= orders <= ORDERS:
        raise ValueError(f"BLEU counts n-grams of 1 to {ORDERS} words, not {orders}.")
    counted = [
        _overlaps(words, picture, orders)
        for words, picture in zip(*_cut(predictions, references), strict=True)
    ]
    return CaptionScore(
        _bleu([sum(column) for column in zip(*counted, strict=True)]),
        [_bleu(counts) for counts in counted],
    )


def rouge(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScore:
    """ROUGE-L in percent: F-measure of the longest common subsequence, β = 1.2.

        P = max_r lcs(c, r)/|c|,   R = max_r lcs(c, r)/|r|,   F = (1 + β²) P R / (R + β² P)

    The two maxima may come from different references. No common word scores 0.

    Raises:
        ValueError: as in :func:`cider`.
    """
    samples = []
    for words, picture in zip(*_cut(predictions, references), strict=True):
        common = [common_subsequence(words, theirs) for theirs in picture]
        precision = max(common) / max(1, len(words))
        recall = max(n / max(1, len(theirs)) for n, theirs in zip(common, picture, strict=True))
        total = recall + BETA**2 * precision
        samples.append(100 * (1 + BETA**2) * precision * recall / total if total else 0.0)
    return CaptionScore(fmean(samples), samples)


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest sequence of words that both hold in this order, gaps allowed."""
    row = [0] * (len(b) + 1)
    for x in a:
        last = row
        row = [0]
        for j, y in enumerate(b):
            row.append(last[j] + 1 if x == y else max(row[j], last[j + 1]))
    return row[-1]


def _cut(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[list[str]], list[list[list[str]]]]:
    if len(predictions) != len(references):
        raise ValueError(
            f"{len(predictions)} captions for {len(references)} pictures; pass one a picture."
        )
    if not references:
        raise ValueError("There are no captions to score.")
    for i, picture in enumerate(references):
        if isinstance(picture, str) or not picture:
            raise ValueError(
                f"Picture {i} needs a list of one or more references, not {picture!r}."
            )
    return (
        [tokenise(text) for text in predictions],
        [[tokenise(text) for text in picture] for picture in references],
    )


def _grams(words: Sequence[str], orders: int = ORDERS) -> Grams:
    return Counter(
        tuple(words[i : i + n]) for n in range(1, orders + 1) for i in range(len(words) - n + 1)
    )


def _clipped_cosine(ours: dict[Words, float], theirs: dict[Words, float]) -> float:
    dot = sum(min(w, theirs[x]) * theirs[x] for x, w in ours.items() if x in theirs)
    norms = _norm(ours.values()) * _norm(theirs.values())
    return dot / norms if norms else 0.0


def _norm(weights: Iterable[float]) -> float:
    return math.sqrt(sum(w * w for w in weights))


def _length_penalty(a: Sequence[str], b: Sequence[str]) -> float:
    gap = max(0, len(a) - 1) - max(0, len(b) - 1)  # in bigrams
    return math.exp(-(gap**2) / (2 * SIGMA**2))


def _overlaps(words: Sequence[str], picture: Sequence[Sequence[str]], orders: int) -> list[int]:
    """``[|c|, |r|, matches of order 1 … N, n-grams of order 1 … N]`` of one caption."""
    most: Grams = Counter()
    for theirs in picture:
        most |= _grams(theirs, orders)
    matches = _grams(words, orders) & most
    by_order = [sum(k for x, k in matches.items() if len(x) == n) for n in range(1, orders + 1)]
    nearest = min((abs(len(theirs) - len(words)), len(theirs)) for theirs in picture)[1]
    guesses = [max(0, len(words) - n) for n in range(orders)]
    return [len(words), nearest, *by_order, *guesses]


def _bleu(counts: Sequence[int]) -> float:
    length, nearest, *rest = counts
    orders = len(rest) // 2
    precisions = [
        (m + TINY) / (n + SMALL) for m, n in zip(rest[:orders], rest[orders:], strict=True)
    ]
    ratio = (length + TINY) / (nearest + SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    return 100 * penalty * math.prod(precisions) ** (1 / orders)
