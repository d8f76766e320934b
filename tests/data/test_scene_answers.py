"""Every answer about the generated world, found again by a reader who has the account of the picture and no code of it."""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

import pytest

from petiole.data.synthetic.scenes import COLOURS, SHAPES, TEXTURES, SceneSample, draw
from petiole.data.synthetic.scenes.annotation import SYNONYMS

NUMBERS = ("one", "two", "three", "four")
CLOSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


class Some(NamedTuple):
    count: int
    texture: str
    colour: str
    shape: str


class Seen(NamedTuple):
    groups: list[Some]
    relation: str  # of the first group to the second

    def having(self, *words: str) -> list[Some]:
        return [some for some in self.groups if set(words) <= set(some)]

    def beyond(self, relation: str, *words: str) -> list[Some]:
        """Groups that lie so to the one that the words name."""
        if len(self.groups) < 2:
            return []
        a, b = self.groups
        lies = {self.relation: (a, b), CLOSE[self.relation]: (b, a)}
        if relation not in lies or not set(words) <= set(lies[relation][1]):
            return []
        return [lies[relation][0]]


def singular(word: str) -> str:
    return next((s for s in SHAPES if word in (s, s + "s", s + "es")), word)


def read(account: str) -> Seen:
    parts = re.findall(r"(one|two|three|four) (\w+) (\w+) (\w+)", account)
    groups = [Some(NUMBERS.index(n) + 1, t, c, singular(s)) for n, t, c, s in parts]
    assert all(g.texture in TEXTURES and g.colour in COLOURS for g in groups)
    told = re.search(r"left of|right of|above|below|on the left|at the top|$", account)
    assert told is not None
    relation = {"on the left": "left of", "at the top": "above"}.get(told.group(), told.group())
    assert bool(relation) == (len(groups) == 2)
    return Seen(groups, relation)


def words(text: str) -> tuple[str, ...]:
    """The words that name kinds, without those that name nothing."""
    plain = (singular(word) for word in text.split())
    return tuple(word for word in plain if word not in ("thing", "things", "a", "the"))


def the(groups: list[Some]) -> Some:
    assert len(groups) == 1, groups
    return groups[0]


PLACE = r"(left of|right of|above|below)"
PARTS = {"colour": "colour", "pattern": "texture", "shape": "shape"}


def yes(truth: object) -> str:
    return "yes" if truth else "no"


def single_or_double(seen: Seen, question: str) -> str:
    """The answer to a question about one picture."""
    text = question.removesuffix("?")
    if m := re.fullmatch(rf"what (\w+) (?:is|are|has|have) the things? {PLACE} the (.+)", text):
        return str(getattr(the(seen.beyond(m[2], *words(m[3]))), PARTS[m[1]]))
    if m := re.fullmatch(r"what (\w+) (?:is|are|has|have) the (\w+)", text):
        return str(getattr(the(seen.having(*words(m[2]))), PARTS[m[1]]))
    if m := re.fullmatch(rf"what is {PLACE} the (\w+)", text):
        return the(seen.beyond(m[1], *words(m[2]))).shape
    if m := re.fullmatch(r"what (?:is|are) the (\w+) things?", text):
        return the(seen.having(m[1])).shape
    if m := re.fullmatch(rf"how many things are {PLACE} the (.+)", text):
        return str(the(seen.beyond(m[1], *words(m[2]))).count)
    if m := re.fullmatch(r"how many (\w+) are there", text):
        return str(the(seen.having(*words(m[1]))).count)
    if m := re.fullmatch(r"(?:is|are) the (.+) (left|above) or (right of|below) the (.+)", text):
        first = m[2] + (" of" if m[2] == "left" else "")
        found = [some in seen.beyond(first, *words(m[4])) for some in seen.having(*words(m[1]))]
        return m[2] if any(found) else m[3].removesuffix(" of")
    if m := re.fullmatch(r"are there more (\w+) than (\w+)", text):
        a, b = (the(seen.having(*words(m[i]))).count for i in (1, 2))
        return yes(a > b)
    if m := re.fullmatch(r"do the (\w+) and the (\w+) have the same (\w+)", text):
        a, b = (getattr(the(seen.having(*words(m[i]))), PARTS[m[3]]) for i in (1, 2))
        return yes(a == b)
    if m := re.fullmatch(rf"(?:is there a|are there) (.+?) {PLACE} the (.+)", text):
        found = [set(words(m[1])) <= set(some) for some in seen.beyond(m[2], *words(m[3]))]
        return yes(any(found))
    m = re.fullmatch(r"(?:is there a|are there) (\w+ \w+)", text)
    assert m, question
    return yes(seen.having(*words(m[1])))


def two_pictures(left: Seen, right: Seen, sentence: str) -> bool:
    """Whether a sentence about two pictures holds."""
    text, both = sentence.removesuffix("."), (left, right)

    def having(name: str) -> list[int]:
        return [sum(some.count for some in seen.having(*words(name))) for seen in both]

    if m := re.fullmatch(r"there are (.+) in both pictures", text):
        return all(having(m[1]))
    if m := re.fullmatch(r"only one of the pictures has (.+)", text):
        return bool(having(m[1])[0]) != bool(having(m[1])[1])
    if m := re.fullmatch(r"there are no (.+) in the pictures", text):
        return having(m[1]) == [0, 0]
    if m := re.fullmatch(r"there are (\d) (.+) in all", text):
        return sum(having(m[2])) == int(m[1])
    if m := re.fullmatch(r"the (\w+) picture has more things than the (\w+) one", text):
        a, b = having("things")
        return a > b if m[1] == "left" else b > a
    if m := re.fullmatch(r"the (left|right) picture has (.+)", text):
        return having(m[2])[m[1] == "right"] > 0
    m = re.fullmatch(rf"in one picture there are (\w+) {PLACE} (\w+)", text)
    assert m, sentence
    return any(
        set(words(m[1])) <= set(some) for seen in both for some in seen.beyond(m[2], *words(m[3]))
    )


def clip(account: str, question: str) -> str:
    """The choice that is right of a clip."""
    m = re.fullmatch(r"\[Q\] (.+)\? \[Choices\] (.+)", question)
    assert m
    choices = dict(re.findall(r"(a\d): ([^.]+)\.", m[2]))
    assert len(choices) == len(set(choices.values())) == 4
    if move := re.fullmatch(r"a .+ moves (\w+) and (turns|stays) (\w+)\.", account):
        right = move[1] if "which way" in m[1] else f"it {move[2]} {move[3]}"
    else:
        order = re.fullmatch(r"first a \w+ \w+ (\w+) comes, then a \w+ \w+ (\w+)\.", account)
        assert order
        right = order[1] if m[1] == "what comes first" else order[2]
    return next(name for name, choice in choices.items() if choice == right)


def answer(task: str, drawn: SceneSample) -> str:
    if task == "video-qa":
        return clip(drawn.context, drawn.sample.text)
    if task == "nlvr":
        left, right = drawn.context.removeprefix("left picture: ").split(" right picture: ")
        return str(two_pictures(read(left), read(right), drawn.sample.text)).lower()
    return single_or_double(read(drawn.context), drawn.sample.text)


@pytest.mark.parametrize("task", ["vqa", "gqa", "nlvr", "video-qa"])
def test_the_account_of_a_picture_holds_the_answer(task: str) -> None:
    for index in range(1000):
        drawn = draw(task, "test", index)
        most = Counter(drawn.sample.references).most_common(1)[0][0]
        assert answer(task, drawn) == most, (drawn.context, drawn.sample.text)


def accuracy(said: str, humans: tuple[str, ...]) -> float:
    """VQA's: the mean over all sets of nine people of min(1, people who agree / 3)."""
    return sum(
        min(1.0, (humans[:i] + humans[i + 1 :]).count(said) / 3) for i in range(len(humans))
    ) / len(humans)


def test_ten_people_mostly_agree_with_what_is_there() -> None:
    drawn = [draw("vqa", "test", index) for index in range(1000)]
    people = [d.sample.references for d in drawn]
    right = [answer("vqa", d) for d in drawn]
    assert all(len(humans) == 10 for humans in people)
    assert all(accuracy(a, humans) == 1 for a, humans in zip(right, people, strict=True))
    agree = sum(humans.count(a) for a, humans in zip(right, people, strict=True)) / 10000
    assert agree == pytest.approx(
        0.88, abs=0.02
    )  # 0.80, lucky guesses, and words without a synonym
    known = [(a, h) for a, h in zip(right, people, strict=True) if a in SYNONYMS]
    synonym = sum(accuracy(SYNONYMS[a], humans) for a, humans in known) / len(known)
    assert 0.2 < synonym < 0.5
    assert any(set(humans) - {a, SYNONYMS.get(a)} for a, humans in zip(right, people, strict=True))
