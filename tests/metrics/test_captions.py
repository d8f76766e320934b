"""Caption metrics against numbers of pycocoevalcap 1.2, and against the equations as naive loops."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petiole.metrics.captions import bleu, cider, common_subsequence, rouge

PREDICTIONS = [
    "A man rides a brown horse along the beach.",
    "two dogs are playing with a red ball in the grass",
    "a plate of food",
    "A cat is sleeping on top of a car",
    "a red bus, a red bus, a red bus",
]
REFERENCES = [
    [
        "A man riding a horse on the beach.",
        "A rider on a brown horse by the sea.",
        "The man rides his horse along the shore at sunset.",
    ],
    ["Two dogs play with a ball on the grass.", "A pair of dogs chasing a red ball."],
    ["A plate of pasta with tomatoes and basil on a wooden table.", "a plate of food"],
    ["A black dog runs through deep snow.", "The dog is running."],
    [
        "A red double-decker bus drives down the street.",
        "a red bus parked in front of a building",
        "The city's bus isn't moving.",
    ],
]
# pycocoevalcap 1.2 (Cider, BleuScorer with "closest", Rouge) over its Java tokeniser, x 100.
CIDER = [224.563526533, 200.46612422, 544.18514792, 8.791728371, 57.753320515]
BLEU = [64.285714284, 54.347658216, 38.117199135, 21.281380401]
BLEU_2 = [93.541434648, 60.30226891, 99.999999946, 5.27e-07, 33.333333326]
ROUGE = [71.34502924, 71.285475793, 100.0, 16.531165312, 44.444444444]

WORDS = st.lists(st.sampled_from("abcde"), min_size=1, max_size=9).map(" ".join)
SETS = st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)), min_size=2, max_size=6)


def test_cider_equals_the_reference() -> None:
    scored = cider(PREDICTIONS, REFERENCES)
    assert scored.value == pytest.approx(207.151969512)
    assert scored.samples == pytest.approx(CIDER)


def test_bleu_equals_the_reference_at_every_order() -> None:
    for orders, value in enumerate(BLEU, start=1):
        assert bleu(PREDICTIONS, REFERENCES, orders).value == pytest.approx(value)
    assert bleu(PREDICTIONS, REFERENCES, 2).samples == pytest.approx(BLEU_2, abs=1e-8)
    assert bleu(PREDICTIONS, REFERENCES) == bleu(PREDICTIONS, REFERENCES, 4)


def test_rouge_equals_the_reference() -> None:
    scored = rouge(PREDICTIONS, REFERENCES)
    assert scored.value == pytest.approx(60.721222958)
    assert scored.samples == pytest.approx(ROUGE)


def cider_by_loops(predictions: list[str], references: list[list[str]]) -> list[float]:
    """CIDEr-D's equation (Vedantam et al., 2015), n-gram by n-gram, over words between spaces."""

    def grams(text: str, n: int) -> list[str]:
        words = text.split()
        return [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]

    def weight(gram: str, text: str, n: int) -> float:
        holds = sum(any(gram in grams(r, n) for r in refs) for refs in references)
        return grams(text, n).count(gram) * math.log(len(references) / max(1, holds))

    def norm(text: str, n: int) -> float:
        return sum(weight(g, text, n) ** 2 for g in set(grams(text, n))) ** 0.5

    result = []
    for c, refs in zip(predictions, references, strict=True):
        total = 0.0
        for r in refs:
            for n in (1, 2, 3, 4):
                dot = sum(
                    min(weight(g, c, n), weight(g, r, n)) * weight(g, r, n)
                    for g in set(grams(c, n))
                )
                size = norm(c, n) * norm(r, n)
                bigrams = len(grams(c, 2)) - len(grams(r, 2))
                total += (dot / size if size else 0) * math.exp(-(bigrams**2) / 72)
        result.append(1000 * total / 4 / len(refs))
    return result


@settings(max_examples=40, deadline=None)
@given(SETS)
def test_cider_equals_the_equation_and_its_value_is_the_mean(
    pictures: list[tuple[str, list[str]]],
) -> None:
    predictions, references = [c for c, _ in pictures], [r for _, r in pictures]
    scored = cider(predictions, references)
    assert scored.samples == pytest.approx(cider_by_loops(predictions, references), abs=1e-9)
    assert scored.value == pytest.approx(sum(scored.samples) / len(pictures))
    assert all(-1e-9 <= score <= 1000 + 1e-9 for score in scored.samples)


@settings(max_examples=40, deadline=None)
@given(SETS)
def test_scores_are_bounded_and_follow_their_pictures_into_another_order(
    pictures: list[tuple[str, list[str]]],
) -> None:
    predictions, references = [c for c, _ in pictures], [r for _, r in pictures]
    for metric in (bleu, rouge, cider):
        forward = metric(predictions, references)
        backward = metric(predictions[::-1], references[::-1])
        assert backward.value == pytest.approx(forward.value)
        assert backward.samples[::-1] == pytest.approx(forward.samples)
    for metric in (bleu, rouge):
        assert all(0 <= score <= 100 + 1e-9 for score in metric(predictions, references).samples)


@given(WORDS, WORDS)
def test_common_subsequence_equals_the_recursion(a: str, b: str) -> None:
    x, y = a.split()[:6], b.split()[:6]

    def longest(i: int, j: int) -> int:
        if i == len(x) or j == len(y):
            return 0
        if x[i] == y[j]:
            return 1 + longest(i + 1, j + 1)
        return max(longest(i + 1, j), longest(i, j + 1))

    assert common_subsequence(x, y) == longest(0, 0)


def test_cider_of_a_copied_reference_depends_on_how_rare_its_words_are() -> None:
    others = [["x y z w"], ["p q r s"]]
    assert cider(["a b c d", "", ""], [["a b c d"], *others]).samples == [
        pytest.approx(1000),
        0,
        0,
    ]
    assert cider(["a b c d"], [["a b c d"]]).value == 0  # one picture: every idf is ln 1


def test_bleu_takes_the_shorter_of_two_equally_near_references() -> None:
    # |c| = 3 lies between 2 and 4: with R = 2 nothing is taken off, with R = 4 it would be e^(1 − 4/3).
    assert bleu(["a b c"], [["a b", "a b c d"]], orders=3).value == pytest.approx(100)
    assert bleu(["a b c"], [["a b c d"]], orders=3).value == pytest.approx(100 * math.exp(-1 / 3))


def test_an_empty_caption_scores_zero() -> None:
    for metric in (cider, bleu, rouge):
        assert metric(["", "a dog"], [["a cat"], ["a dog"]]).samples[0] == pytest.approx(
            0, abs=1e-6
        )


@pytest.mark.parametrize("metric", [cider, bleu, rouge])
def test_what_cannot_be_scored_is_refused(metric) -> None:
    with pytest.raises(ValueError, match="2 captions for 1 pictures"):
        metric(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match="Picture 1 needs a list"):
        metric(["a", "b"], [["a"], []])
    with pytest.raises(ValueError, match="Picture 0 needs a list"):
        metric(["a"], ["a"])
    with pytest.raises(ValueError, match="no captions"):
        metric([], [])
    with pytest.raises(ValueError, match="1 to 4 words, not 5"):
        bleu(["a"], [["a"]], orders=5)
