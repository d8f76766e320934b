"""Answers with a reason: hand-made cases of each measure, and means that are never NaN."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petiole.metrics.explanations import (
    Judgement,
    content_words,
    faithful,
    judge,
    normalise,
    relevant,
    right,
    split,
    summary,
)

FACTS = (
    "the red thing at top left is a circle",
    "the circle at top left is red",
    "there is a red circle",
    "there is a blue square",
)
ASKED = "what shape is the red thing ?"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("circle because the red thing is a circle .", ("circle", "the red thing is a circle .")),
        ("circle .", ("circle .", "")),
        ("Two, Because it is because.", ("Two,", "it is because.")),
        ("circle because", ("circle", "")),
        ("because it is", ("", "it is")),
        ("becauseway", ("becauseway", "")),
        ("", ("", "")),
    ],
)
def test_an_answer_is_parted_at_the_first_because(text: str, parts: tuple[str, str]) -> None:
    assert split(text) == parts


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (" The  Red-Thing, is a CIRCLE . ", "red thing is circle"),
        ("1.5", "1 5"),
        ("A", "a"),
        ("anthem", "anthem"),
        ("STRASSE straße", "strasse strasse"),
        ("...", ""),
    ],
)
def test_normal_form(text: str, normal: str) -> None:
    assert normalise(text) == normal


@given(st.text("aAnthe.,! \t", max_size=12) | st.text(max_size=12))
def test_what_is_normal_stays_so(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_only_the_short_part_must_match() -> None:
    assert right("A circle because I say so", ["square", "Circle because the thing is round."])
    assert not right("square because it is a circle", ["circle"])
    assert not right("", ["A"])


def test_content_words_are_those_of_the_question_itself() -> None:
    assert content_words(ASKED) == {"shape", "red"}
    assert content_words("How many circles are there? Answer with one of: one, two.") == {"circle"}
    assert content_words("briefly : where is the box") == {"box"}
    assert content_words("What is shown?") == frozenset()


@pytest.mark.parametrize(
    ("question", "clause", "judged"),
    [
        (ASKED, "the red thing at top left is a circle .", True),
        (ASKED, "that is its shape", True),
        (ASKED, "there is a blue thing", False),
        (ASKED, "", False),
        ("how many boxes are there ?", "there is a red box and there is a blue box", True),
        ("which diseases ?", "the disease is rust", True),
        ("What is shown? Answer with one of: a rust, a blight.", "there is rust", None),
    ],
)
def test_a_clause_is_to_the_point_if_it_has_a_content_word(
    question: str, clause: str, judged: bool | None
) -> None:
    assert relevant(clause, question) is judged


@pytest.mark.parametrize(
    ("clause", "true"),
    [
        ("there is a red circle and there is a blue square .", True),
        ("There is the red circle, and there is a blue square", True),
        ("there is a red circle and there is a green square", False),
        ("there is a red circle and", False),
        ("there is a red circle there is a blue square", False),
        ("there is a red band", False),
        ("", False),
    ],
)
def test_a_clause_is_true_if_all_its_statements_are_facts(clause: str, true: bool) -> None:
    assert faithful(clause, FACTS) is true


def test_an_empty_fact_makes_nothing_true() -> None:
    assert not faithful("and", ["", "."])


def test_an_answer_is_judged_by_what_was_asked() -> None:
    said = "circle because the red thing at top left is a circle ."
    assert judge(said, [said], ASKED, FACTS) == Judgement(True, True, True, True)
    assert judge("circle", [said], ASKED, FACTS) == Judgement(True, False, False, False)
    assert judge("circle because .", [said], ASKED) == Judgement(True, False, False, None)
    brief = f"Briefly, {ASKED}"
    assert judge("circle .", [said], brief, FACTS) == Judgement(True, obeys=True)
    assert judge(said, [said], brief, FACTS) == Judgement(True, obeys=False)


def test_means_are_over_all_answers_and_over_those_explained() -> None:
    judged = [
        Judgement(True, True, True, False),
        Judgement(False, True, True, True),
        Judgement(True, False, False, False),
        Judgement(True, False, None, None),
        Judgement(True, obeys=True),
    ]
    assert summary(judged) == {
        "exact_match": 80,
        "presence": 50,
        "relevance": pytest.approx(200 / 3),
        "relevance_given": 100,
        "faithfulness": pytest.approx(100 / 3),
        "faithfulness_given": 50,
        "format": 100,
    }
    with pytest.raises(ValueError, match="nothing to average"):
        summary([])


def test_what_nobody_explains_has_no_conditional_value() -> None:
    assert summary([judge("circle", ["circle"], ASKED, FACTS)]) == {
        "exact_match": 100,
        "presence": 0,
        "relevance": 0,
        "faithfulness": 0,
    }


MAYBE = st.none() | st.booleans()


@given(st.lists(st.builds(Judgement, st.booleans(), MAYBE, MAYBE, MAYBE, MAYBE), min_size=1))
def test_means_are_percentages(judged: list[Judgement]) -> None:
    values = summary(judged)
    assert next(iter(values)) == "exact_match"
    assert all(math.isfinite(v) and 0 <= v <= 100 for v in values.values())


@given(
    st.lists(st.sampled_from(["circle", *(f"circle because {f}" for f in FACTS), "two because no"]))
)
def test_all_answers_count_as_those_explained_times_their_share(said: list[str]) -> None:
    values = summary([judge(s, ["circle"], ASKED, FACTS) for s in [*said, "circle because no"]])
    for name in ("relevance", "faithfulness"):
        assert values[name] == pytest.approx(values["presence"] * values[f"{name}_given"] / 100)
