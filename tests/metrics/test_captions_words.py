"""The words of captions: lines beside what Stanford's PTBTokenizer 3.4.1 and coco-caption make of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petiole.metrics.ptb import tokenise

GOLDEN = [
    ("A man's dog isn't running, don't you think?", "a man 's dog is n't running do n't you think"),
    ('"Hello" she said; it cost $5.00 (U.S.).', "hello she said it cost $ 5.00 -lrb- u.s. -rrb-"),
    (
        "The T-shirt is red-and-white -- very nice... really!",
        "the t-shirt is red-and-white very nice really",
    ),
    (
        "A cat can't sit on the cannot be mat & rug.",
        "a cat ca n't sit on the can not be mat & rug",
    ),
    (
        "He's got 3,000.50 dollars at 5:30 p.m. on 12/25/2010.",
        "he 's got 3,000.50 dollars at 5:30 p.m. on 12/25/2010",
    ),
    ("I'm gonna wanna gimme lemme gotta.", "i 'm gon na wan na gim me lem me got ta"),
    (
        "A well-known state-of-the-art 3/4 cup of sugar.",
        "a well-known state-of-the-art 3/4 cup of sugar",
    ),
    ("Mr. Smith went to the U.K. yesterday.", "mr. smith went to the u.k. yesterday"),
    ("the dogs' bowls are 100% full", "the dogs bowls are 100 % full"),
    ("A sign that says 'STOP' on it.", "a sign that says stop on it"),
    (
        "he said: `quoted' text [with brackets] {and braces}",
        "he said quoted text -lsb- with brackets -rsb- -lcb- and braces -rcb-",
    ),
    (
        "visit http://www.example.com/a?b=c or mail me@x.org",
        "visit http://www.example.com/a?b=c or mail me@x.org",
    ),
    ("50's style diner in the '90s", "50 's style diner in the '90s"),
    ("two people_sitting #1 @ home * star", "two people_sitting # 1 @ home * star"),
    (" A  man   riding a horse . ", "a man riding a horse"),
    (
        "They'll we'd you've I'd she'll it's",
        "they 'll we 'd you 've i 'd she 'll it 's",
    ),
    ("A plate with food, vegetables, and sauce..", "a plate with food vegetables and sauce"),
    ("it is a rock'n'roll band", "it is a rock 'n' roll band"),
    ("pizza w/ cheese and/or ham", "pizza w / cheese and/or ham"),
    ("a café and a naïve façade", "a café and a naïve façade"),
    ("A woman holding an umbrella -she is smiling-", "a woman holding an umbrella she is smiling"),
    ("a 5-year-old boy at 6 o'clock", "a 5-year-old boy at 6 o'clock"),
    ("$10 £5 €3", "$ 10 # 5 $ 3"),
    ("don’t use curly ’ quotes “here”", "do n't use curly quotes here"),
    ("Hello!!! what?? The flag at 10:35am?!", "hello !!! what ?? the flag at 10:35 am ?!"),
    ("An A&W sign: $3.50/lb, 1,000 sold.", "an a&w sign $ 3.50 / lb 1,000 sold"),
    ("the year 1960's T.V.s... a cat.A dog", "the year 1960 's t.v.s. a cat.a dog"),
    ("shouldn't've; y'all, 'tis said", "should n't 've y' all 't is said"),
]


@pytest.mark.parametrize(("text", "words"), GOLDEN)
def test_words_are_those_of_the_reference(text: str, words: str) -> None:
    assert tokenise(text) == words.split()


@given(st.lists(st.sampled_from([word for _, line in GOLDEN[:10] for word in line.split()])))
def test_plain_words_are_only_split_at_spaces(words: list[str]) -> None:
    plain = [word for word in words if word.isalpha() and word not in ("ca", "cannot")]
    assert tokenise("  ".join(plain)) == plain


@given(st.text())
def test_no_text_breaks_it_and_no_word_has_a_space_or_is_punctuation(text: str) -> None:
    for word in tokenise(text):
        assert word
        assert not any(c.isspace() for c in word)
        assert word not in {".", ",", "?", "!", ":", ";", "-", "--", "...", "'", "''", "`", "``"}
