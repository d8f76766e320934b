"""VQA accuracy: the equation as a loop, the quirks of both modes, and real questions with ten answers."""

import gzip
import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petiole.errors import ConfigError
from petiole.metrics.vqa import accuracy, normalise, soft_score, without_punctuation

QUESTIONS = Path(__file__).parents[3] / "shared" / "data" / "vqa2_text"
ANSWER = st.sampled_from(["red", "blue", "2", "two", "A dog", "dog", "yes", "no.", "Yes"])


def by_loop(said: str, people: list[str]) -> float:
    """Mean over the subsets that leave one person out; the texts are compared as they are."""
    total = 0.0
    for left_out in range(len(people)):
        agree = 0
        for j, answer in enumerate(people):
            if j != left_out and answer == said:
                agree += 1
        total += min(1, agree / 3)
    return total / len(people)


@pytest.mark.parametrize(
    ("agree", "worth"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1), (10, 1)]
)
def test_worth_of_an_answer_by_the_people_who_gave_it(agree: int, worth: float) -> None:
    assert accuracy("red", ["red"] * agree + ["blue"] * (10 - agree)) == pytest.approx(worth)


@given(ANSWER, st.lists(ANSWER, min_size=2, max_size=12))
def test_both_modes_equal_the_loop_over_their_texts(said: str, people: list[str]) -> None:
    differ = len(set(people)) > 1
    texts = [normalise(a) for a in people] if differ else people
    official = by_loop(normalise(said) if differ else said, texts)
    assert accuracy(said, people) == pytest.approx(official)
    older = by_loop(normalise(said), [without_punctuation(a) for a in people] if differ else people)
    assert accuracy(said, people, "vlt5") == pytest.approx(older)


# Computed by the evaluation's own code (processPunctuation, then processDigitArticle).
@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("Two dogs", "2 dogs"),
        ("none", "0"),
        ("The  Red\tcar.\n", "red car"),
        ("a", ""),
        ("dont know", "don't know"),
        ("couldntve", "couldntve"),
        ("couldn'tve", "couldn't've"),
        ("couldnt've", "couldn't've"),
        ("yalld've", "yalld've"),
        ("y'alld've", "y'all'd've"),
        ("'ows'at", "'ow's'at"),
        ("somebody'd", "somebodyd"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("black/white, grey", "black white grey"),
        ("t-shirt", "t shirt"),
        ("1,000", "1000"),
        ("1,000 t-shirts/hats", "1000 tshirtshats"),
        ("red,blue", "red blue"),
        ("3.5", "3.5"),
        ("5. floor", "5 floor"),
        ("p.m.", "pm"),
        ("." * 40, "." * 8),
    ],
)
def test_normal_form_with_the_quirks_of_the_evaluation(answer: str, normal: str) -> None:
    assert normalise(answer) == normal


def test_the_modes_differ_where_people_write_numbers_as_words() -> None:
    people = ["two"] * 6 + ["three"] * 4
    assert accuracy("two", people) == 1
    assert accuracy("two", people, "vlt5") == 0  # becomes "2", and the people's "two" stays


def test_the_modes_differ_where_all_people_agree() -> None:
    assert accuracy("The dog.", ["dog"] * 10) == 0  # official: nothing is normalised then
    assert accuracy("The dog.", ["dog"] * 10, "vlt5") == 1


def test_soft_score_is_the_weight_of_the_label() -> None:
    labels = {"net": 1.0, "mesh": 0.3}
    assert [soft_score(a, labels) for a in ("net", "mesh", "Net", "")] == [1.0, 0.3, 0, 0]


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"mode of VQA accuracy 'oficial'.*official"):
        accuracy("a", ["a", "b"], "oficial")  # type: ignore[arg-type]
    for answers in (["red"], [], "red"):
        with pytest.raises(ValueError, match="needs two or more"):
            accuracy("red", answers)


@pytest.fixture(scope="module")
def real() -> list[tuple[str, list[str]]]:
    if not QUESTIONS.is_dir():
        pytest.skip("the real questions of VQA v2 are not on this machine")
    raw = gzip.decompress((QUESTIONS / "vqa_annotatons_test.gzip").read_bytes())
    return [
        (a["question_type"], [b["answer"] for b in a["answers"]])
        for a in json.loads(raw)["annotations"]
    ]


def test_majority_answers_to_real_questions_score_as_the_loop_says(
    real: list[tuple[str, list[str]]],
) -> None:
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, people in real:
        seen[kind].update(people)
    said = {kind: max(sorted(answers), key=answers.__getitem__) for kind, answers in seen.items()}
    ours = [accuracy(said[kind], people) for kind, people in real]
    loops = []
    for kind, people in real:
        if len({p.strip() for p in people}) == 1:
            loops.append(by_loop(said[kind], people))
        else:
            loops.append(by_loop(normalise(said[kind]), [normalise(p) for p in people]))
    assert ours == pytest.approx(loops)
    assert 0.3 < sum(ours) / len(ours) < 0.6  # question type alone: far from nothing, far from all


def test_people_agree_with_each_other_more_than_the_majority_answer_does(
    real: list[tuple[str, list[str]]],
) -> None:
    # One person's answer against the other nine. A human is worth about 0.8 here.
    humans = [accuracy(people[0], people[1:]) for _, people in real]
    assert 0.7 < sum(humans) / len(humans) < 0.9
    best = [max(accuracy(a, people) for a in people) for _, people in real]
    assert sum(best) / len(best) > 0.9
