"""Class names as sentences that a tower of letters reads: what is asked of it, and what is refused."""

from __future__ import annotations

from threading import RLock
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from petiole.errors import ConfigError
from petiole.methods.prompt_learning.class_names import (
    NamedTexts,
    SentenceTemplate,
    TextHead,
    readable,
    towers_of,
    words,
)
from petiole.methods.prompt_learning.refined_head import RefinedByImage, RefinedHead, Refiner
from petiole.methods.prompt_learning.textrefiner import LearnedCache, TextRefiner
from petiole.methods.registry import create
from petiole.testing.dual_encoder import Letters

WIDTH = 6


class Tower:
    """Reads a text as the mean of its letters' vectors; writes down how many texts a pass had."""

    def __init__(self, longest: int = 40) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embed = nn.Embedding(40, WIDTH)
        self.tokenizer: Any = Letters()
        self.longest, self.width = longest, WIDTH
        self.passes: list[int] = []

    def encode(self, ids: Tensor, *, trimmed: bool) -> Tensor:
        assert trimmed
        self.passes.append(len(ids))
        return self.embed(ids).mean(1)


def towers(**more: Any) -> Any:
    text = Tower(**more)
    return SimpleNamespace(name="letters", width=WIDTH, text=text, lock=RLock(), scale=torch.tensor(5.0))  # fmt: skip


@pytest.mark.parametrize(
    ("position", "slots", "name_at"),
    [("end", [1, 2, 3], 4), ("middle", [1, 4, 5], 2), ("front", [3, 4, 5], 1)],
)
def test_a_context_stands_about_the_name(position: Any, slots: list[int], name_at: int) -> None:
    sentence = SentenceTemplate(context=3, position=position)
    ((ids, found),) = sentence.tokens("ab", towers())
    assert found == slots
    assert ids[0] == Letters.start
    assert ids[-3:] == [27, 28, Letters.end]
    assert ids[name_at : name_at + 2] == [1, 2]
    assert [ids[i] for i in slots] == [24] * 3  # an x for each
    assert len(ids) == 1 + 3 + 2 + 3


def test_half_of_a_context_stands_before_the_name() -> None:
    for context, before in ((4, 2), (5, 2), (6, 3)):
        ((ids, slots),) = SentenceTemplate(context=context, position="middle").tokens("a", towers())
        assert ids[1 + before] == 1
        assert slots == [i for i in range(1, context + 2) if i != 1 + before]


def test_words_stand_between_context_and_name_and_underscores_are_spaces() -> None:
    sentence = SentenceTemplate(context=1, words="b")
    ((ids, slots),) = sentence.tokens("a_c", towers())
    assert (ids, slots) == ([38, 24, 2, 27, 1, 27, 3, 27, 28, 39], [1])
    own = towers()
    own.text.tokenizer.start = None
    plain = SentenceTemplate(templates=("{}", "a {}")).tokens("b", own)
    assert plain == [([2, 39], []), ([1, 27, 2, 39], [])]
    ((ids, slots),) = sentence.tokens("c", own)
    assert (ids[0], slots) == (24, [0])


def test_names_that_a_tower_cannot_read_are_all_said() -> None:
    own = towers(longest=6)
    own.text.tokenizer.unknown = 26

    def check(*names: str) -> None:
        sentence = SentenceTemplate(templates=("{}",))
        readable(names, [sentence.tokens(name, own) for name in names], own)

    check("abcd", "b")  # six tokens, with start and end
    with pytest.raises(ConfigError) as refused:
        check("z", "abcde", "a", "A", "zz", "az")
    said = str(refused.value)
    assert "letters cannot tell these classes apart" in said
    assert "nothing of its vocabulary in the names: 'z', 'zz'; " in said
    assert "the same tokens for: 'a' and 'A'; " in said
    assert "more than its 6 tokens in the sentence of: 'abcde' (7). Rename" in said
    with pytest.raises(ConfigError, match=r"in the name: 'z'\. Rename"):
        check("z", "a")
    with pytest.raises(ConfigError, match=r"'abcdeh' \(8\) and 1 more\."):
        check(*(f"abcde{letter}" for letter in "defgh"), "abcdej")


def test_names_are_read_before_they_are_taken() -> None:
    own = towers()
    head = TextHead(own, 2, SentenceTemplate())
    assert head.names == ("class 0", "class 1")
    with pytest.raises(ConfigError, match="the same tokens"):
        head.rename(["a", "A"])
    assert head.names == ("class 0", "class 1")
    head.rename(["ab", "c"])
    assert head.ids.shape == (2, len("a photo of a ab.") + 2)
    assert head.ids[1, -2:].tolist() == [Letters.end] * 2  # the shorter one is filled
    own.text.tokenizer = None
    head.rename(["a", "A", "b"])
    assert head.ids.shape == (3, 8)
    shape = NamedTexts(own, 2, SentenceTemplate(context=3))
    assert shape.ids.tolist() == [[0] * 11] * 2
    assert shape.slots.tolist() == [[1, 2, 3]] * 2


def test_sentences_of_a_class_are_made_unit_vectors_and_averaged() -> None:
    own = towers()
    for templates in (("{}",), ("a {}", "{}"), ("b{}", "c {}", "{} d")):
        head = TextHead(own, 3, SentenceTemplate(templates=templates))
        head.rename(["p", "q r", "s"])
        texts = head.texts()
        assert texts.shape == (3, len(templates), WIDTH)
        each = normalize(texts, dim=2)
        want = each[:, 0] if len(templates) == 1 else normalize(each.sum(1), dim=1)
        torch.testing.assert_close(head.embeddings(), want)
        vectors = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(head(vectors), 5 * normalize(vectors, dim=1) @ want.T)


def test_class_vectors_are_kept_until_forgotten_or_a_gradient_is_wanted() -> None:
    own = towers()
    head = TextHead(own, 2, SentenceTemplate())
    with torch.no_grad():
        first = head.embeddings()
        assert head.embeddings() is first
    second = head.embeddings()
    assert second is not first
    assert head.embeddings() is second
    with torch.no_grad():
        assert head.embeddings() is second
    head.train()
    assert head.embeddings() is not second
    known = head.embeddings()
    with head.reading(["p", "q", "r"]):
        assert head.embeddings().shape == (3, WIDTH)
        assert head.names == ("p", "q", "r")
    assert head.embeddings() is known
    assert head.names == ("class 0", "class 1")


@pytest.mark.parametrize(
    ("at_once", "passes"), [(0, [5]), (2, [2, 2, 1]), (4, [4, 1]), (5, [5]), (6, [5])]
)
def test_texts_pass_in_parts(at_once: int, passes: list[int]) -> None:
    own = towers()
    texts = NamedTexts(own, 5, SentenceTemplate())
    whole = texts.encode(torch.arange(5))
    own.text.passes.clear()
    texts.at_once = at_once
    with torch.no_grad():
        found = texts.encode(torch.arange(5))
    assert own.text.passes == passes
    torch.testing.assert_close(found, whole)
    own.text.passes.clear()
    texts.encode(torch.arange(5)).sum().backward()
    assert own.text.passes == (passes if len(passes) == 1 else passes + passes[::-1])
    assert texts.at_hand == ()
    assert not len(texts.slots_at_hand)


def test_words_of_a_phrase_and_a_phrase_that_is_too_short() -> None:
    own = towers()
    assert torch.equal(words(own, "abc", 2), own.text.embed.weight[[1, 2]])
    assert not words(own, "abc", 3).requires_grad
    with pytest.raises(ConfigError, match="'abc' has 3 tokens, fewer than the 4 of the context"):
        words(own, "abc", 4)
    own.text.tokenizer = None
    assert torch.equal(words(own, "", 3), torch.zeros(3, WIDTH))


def test_a_backbone_without_a_text_tower_and_a_template_without_a_place() -> None:
    backbone: Any = SimpleNamespace(name="vit", vector="v")
    with pytest.raises(ConfigError, match="with a text tower, and vit has none"):
        towers_of(backbone)
    for template in ("a photo", "{} and {}"):
        with pytest.raises(ConfigError, match=r"needs one \{\} for the class name"):
            create("zero-shot", {"templates": (template,)}).plan(backbone, 2)


class Host(nn.Module):
    """Class vectors that count how often they were made."""

    width, images_at_once = WIDTH, 3
    scale = torch.tensor(2.0)

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.eye(WIDTH)[:2])
        self.said: list[Any] = []

    def rename(self, names: Any) -> None:
        self.said.append(tuple(names))

    def forget(self) -> None:
        self.said.append("forget")

    def embeddings(self) -> Tensor:
        return self.rows

    def embeddings_of(self, vector: Tensor) -> Tensor:
        return self.rows.expand(len(vector), -1, -1)


@pytest.mark.parametrize("kind", [RefinedHead, RefinedByImage])
@pytest.mark.parametrize("unit", [False, True])
def test_refined_vectors_are_kept_until_forgotten(kind: Any, unit: bool) -> None:
    host, refiner = Host(), Refiner(WIDTH, 0.5, None)
    head = kind(host, refiner, unit=unit)
    assert (head.width, float(head.scale)) == (WIDTH, 2.0)
    vector = torch.randn(4, WIDTH)
    with torch.no_grad():
        first = head.pair(vector)[1]
        assert head.pair(vector)[1] is first
    second = head.pair(vector)[1]
    assert second is not first
    assert head.pair(vector)[1] is second
    with torch.no_grad():
        assert head.pair(vector)[1] is second
    head.rename(["a", "b"])
    assert host.said == ["forget", ("a", "b")]
    assert head.pair(vector)[1] is not second
    want = host.rows + 0.5 * host.rows @ refiner.map.weight.T
    met = normalize(want, dim=-1) if unit else want
    torch.testing.assert_close(head(vector), 2 * normalize(vector, dim=1) @ met.T)


def test_a_host_without_a_teacher_learns_nothing() -> None:
    head = RefinedHead(Host(), Refiner(WIDTH, 0.5, None), unit=False)
    with pytest.raises(ConfigError, match="Host learns from no teacher"):
        head.learn(torch.eye(2), torch.ones(()))


def test_what_is_read_for_comparison() -> None:
    made = {name: TextRefiner(cache=name, entries=4, reduce="mean")._cache(WIDTH) for name in ("tokens", "zeros", "noise", "mean", "none")}  # type: ignore[arg-type]  # fmt: skip
    assert made["none"] is None
    kinds = {name: isinstance(one, LearnedCache) for name, one in made.items() if one}
    assert kinds == {"tokens": True, "zeros": False, "noise": False, "mean": True}
    shapes = {name: tuple(one.entries.shape) for name, one in made.items() if one}
    assert shapes == {"tokens": (4, WIDTH), "zeros": (4, WIDTH), "noise": (4, WIDTH), "mean": (1, WIDTH)}  # fmt: skip
    assert not made["zeros"].entries.any()  # type: ignore[union-attr]
    assert made["noise"].entries.all()  # type: ignore[union-attr]
