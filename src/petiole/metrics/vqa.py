"""VQA accuracy: how many of ten people gave this answer.

    accuracy(p) = mean over the people i of  min(1, #{j ≠ i : answer_j = p} / 3)

so an answer of 0, 1, 2, 3, 4+ people is worth 0, 0.3, 0.6, 0.9, 1. Before the comparison texts are
normalised, and there are two habits, named here:

    official   the VQA evaluation: if the ten answers are not all the same, prediction and answers are both
               normalised fully; otherwise both are only stripped
    vlt5       VL-T5, hence VL-Adapter, after an older version of it: the prediction is always normalised
               fully, the answers only lose their punctuation, and that only if they differ. An answer "two"
               or "A dog" can then never be matched, since the prediction becomes "2" or "dog".

Source: Antol et al. (ICCV 2015), Goyal et al. (CVPR 2017).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from petiole.errors import unknown

Mode = Literal["official", "vlt5"]

_ENOUGH = 3  # people who agree make an answer right
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS = re.compile(r"\d,\d")
# The evaluation's own pattern reads (?!<=\d)(\.)(?!\d): a look-behind misspelt as a look-ahead that is always
# true. What is left drops each dot that no digit follows. It also passes re.UNICODE (= 32) as the count.
_DOT, _MOST_DOTS = re.compile(r"\.(?!\d)"), 32
_DIGITS = "zero one two three four five six seven eight nine ten"
_NUMBERS = {word: str(n) for n, word in enumerate(_DIGITS.split())} | {"none": "0"}
_ARTICLES = frozenset(["a", "an", "the"])
# Each is recognised with any one of its apostrophes left out: "dont", "couldnt've" and "couldn'tve".
_CONTRACTIONS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't "
    "he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've "
    "mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't "
    "shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's "
    "something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've "
    "they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's "
    "where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've "
    "wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"
)
_CONTRACTED = {
    word[:i] + word[i + 1 :]: word
    for word in _CONTRACTIONS.split()
    for i, character in enumerate(word)
    if character == "'"
} | {"somebody'd": "somebodyd"}  # the other way round in the evaluation's own table


def accuracy(prediction: str, answers: Sequence[str], mode: Mode = "official") -> float:
    """Return the accuracy of one answer, a fraction in [0, 1].

    Args:
        prediction: what the model says.
        answers: of ten people; any number from two can be scored, with the same equation.
        mode: ``official`` or ``vlt5``, see above.

    Raises:
        ConfigError: another mode.
        ValueError: fewer than two answers: nobody is left when one is left out.
    """
    if isinstance(answers, str) or len(answers) < 2:
        raise ValueError(
            f"VQA accuracy leaves one of the human answers out, so it needs two or more, not {answers!r}."
        )
    prediction, people = _compared(_stripped(prediction), answers, mode)
    matches = sum(answer == prediction for answer in people)
    # Leaving out one of the `matches` people who agree lowers the count by one; leaving out another does not.
    agree, others = matches * _worth(matches - 1), (len(people) - matches) * _worth(matches)
    return (agree + others) / len(people)


def soft_score(prediction: str, labels: Mapping[str, float]) -> float:
    """Return the weight of the prediction among the soft labels, in [0, 1]; 0 if it is none of them.

    The reference's ``topk_score``: no normalisation, since labels and model share one list of answers.
    """
    return float(labels.get(prediction, 0.0))


def normalise(answer: str) -> str:
    """Return the answer as the official evaluation compares it.

    Punctuation goes (see :func:`without_punctuation`), then: lower case, number words to digits ("none"
    is 0), no articles, apostrophes put back into contractions, one space between words.
    """
    words = without_punctuation(_stripped(answer)).lower().split()
    words = [_NUMBERS.get(word, word) for word in words]
    return " ".join(_CONTRACTED.get(word, word) for word in words if word not in _ARTICLES)


def without_punctuation(text: str) -> str:
    """Return the text without punctuation, by the evaluation's rule with its quirks.

    A mark becomes a space, but is deleted where the text has it beside a space anywhere, and *every* mark is
    deleted where the text has a comma between digits. Then dots go that no digit follows.
    """
    beside_digits = _THOUSANDS.search(text) is not None
    result = text
    for mark in _PUNCTUATION:
        delete = beside_digits or f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if delete else " ")
    return _DOT.sub("", result, count=_MOST_DOTS)


def _compared(prediction: str, answers: Sequence[str], mode: Mode) -> tuple[str, list[str]]:
    if mode == "official":
        people = [_stripped(answer) for answer in answers]
        if len(set(people)) == 1:
            return prediction, people
        return normalise(prediction), [normalise(answer) for answer in people]
    if mode == "vlt5":
        differ = len(set(answers)) > 1
        return normalise(prediction), [without_punctuation(a) if differ else a for a in answers]
    raise unknown("mode of VQA accuracy", mode, ["official", "vlt5"])


def _stripped(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _worth(people: int) -> float:
    return min(1.0, max(0, people) / _ENOUGH)
