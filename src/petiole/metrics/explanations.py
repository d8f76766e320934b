"""Answers with a reason, ``SHORT because CLAUSE``: right, explained, to the point, true, as asked.

    exact match   the short part is, normalised, that of a reference
    presence      there is a clause
    relevance     the clause has a content word of the question
    faithfulness  every statement of the clause is one of the facts
    format        no clause where the question says ``briefly``

Presence, relevance and faithfulness are of questions that do not say ``briefly``, format of those that do.
Relevance and faithfulness are given twice: of all answers, where one without a clause is 0, and ``_given``
that there is one. What has no sample to be a mean of is left out, never NaN.

A rule judges, no model. It is our protocol: CRAFT (Wu et al., 2026) measures explanations, but we know of no statement of its
judge.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

BECAUSE = re.compile(r"\bbecause\b", re.IGNORECASE)
BRIEFLY = "briefly"

_ARTICLES = frozenset(["a", "an", "the"])
# Of a question's words, those that name neither an object nor an attribute.
_FUNCTION_WORDS = (
    "a an the what which who whose where when why how many much is are was were be do does did has have had can could "
    "there here this that these those it its they them their you your i me my we and or not no any some one "
    "ones of in on at to from by with for as than if then all each thing things object objects image images "
    "picture pictures photo photos shown seen see show answer explain briefly please"
)
_EMPTY = frozenset(_FUNCTION_WORDS.split())


@dataclass(frozen=True)
class Judgement:
    """One answer judged; None where a measure does not apply.

    Attributes:
        right: the short part is that of a reference.
        present: there is a clause; None where ``briefly`` was asked.
        relevant: the clause is to the point; None as ``present``, or for a question without content words.
        faithful: the clause is true; None as ``present``, or without facts.
        obeys: there is no clause; None unless ``briefly`` was asked.
    """

    right: bool
    present: bool | None = None
    relevant: bool | None = None
    faithful: bool | None = None
    obeys: bool | None = None


def split(text: str) -> tuple[str, str]:
    """Return the short answer and the clause, parted at the first word "because"; no clause is ``""``."""
    answer, *clause = BECAUSE.split(text, maxsplit=1)
    return answer.strip(), "".join(clause).strip()


def normalise(text: str) -> str:
    """Return the text in lower case, without punctuation and articles, with single spaces.

    A mark becomes a space (so "1.5" is not "15"). A text of articles alone stays: "A" may be a choice.
    """
    text = unicodedata.normalize("NFC", text).casefold()
    marks = (" " if unicodedata.category(c).startswith("P") else c for c in text)
    words = "".join(marks).split()
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def right(prediction: str, references: Iterable[str]) -> bool:
    """Say whether the short part of the prediction is that of a reference, both normalised."""
    answer = normalise(split(prediction)[0])
    return any(answer == normalise(split(known)[0]) for known in references)


def content_words(question: str) -> frozenset[str]:
    """Return the words of a question that name its object or attribute, in the singular.

    They are those up to the first question mark (what follows says how to answer, as a list of classes does),
    or of the whole text without one, except function words and words for anything ("thing", "image").
    """
    words = normalise(question.split("?", maxsplit=1)[0]).split()
    return frozenset(_singular(word) for word in words if word not in _EMPTY)


def relevant(clause: str, question: str) -> bool | None:
    """Say whether the clause has a content word of the question; None if the question has none."""
    wanted = content_words(question)
    return (
        bool(wanted & {_singular(word) for word in normalise(clause).split()}) if wanted else None
    )


def faithful(clause: str, facts: Iterable[str]) -> bool:
    """Say whether every statement of the clause, parted at the word "and", is a fact, all normalised.

    A clause without any statement is not faithful. A fact must not hold "and" itself.
    """
    statements = [part.strip() for part in re.split(r"\band\b", normalise(clause))]
    known = {normalise(fact) for fact in facts} - {""}
    return all(statement in known for statement in statements)


def judge(
    prediction: str, references: Sequence[str], question: str = "", facts: Sequence[str] = ()
) -> Judgement:
    """Judge one answer.

    Args:
        prediction: what was said.
        references: right answers, with or without a clause.
        question: as it was put.
        facts: single statements that are true of the image; none if they are not known.
    """
    clause = split(prediction)[1]
    good, present = right(prediction, references), bool(normalise(clause))
    if BRIEFLY in normalise(question).split():
        return Judgement(good, obeys=not present)
    to_the_point = relevant(clause, question)
    true = faithful(clause, facts) if facts else None
    return Judgement(good, present, to_the_point, true)


def summary(judgements: Sequence[Judgement]) -> dict[str, float]:
    """Return the means in percent by name, each over the answers to which it applies; others are left out.

    Raises:
        ValueError: no judgements.
    """
    if not judgements:
        raise ValueError(
            "No answers were judged, so there is nothing to average; pass at least one."
        )
    explained = [j for j in judgements if j.present]
    means = {
        "exact_match": _mean(j.right for j in judgements),
        "presence": _mean(j.present for j in judgements),
        "relevance": _mean(j.relevant for j in judgements),
        "relevance_given": _mean(j.relevant for j in explained),
        "faithfulness": _mean(j.faithful for j in judgements),
        "faithfulness_given": _mean(j.faithful for j in explained),
        "format": _mean(j.obeys for j in judgements),
    }
    return {name: mean for name, mean in means.items() if mean is not None}


def _mean(values: Iterable[bool | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return 100 * fmean(known) if known else None


def _singular(word: str) -> str:
    """A plain rule for both sides of a comparison; it need not give real words."""
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
