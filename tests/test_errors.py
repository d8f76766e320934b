"""What is told of another library's error, also where it says nothing."""

from __future__ import annotations

import pytest

from petiole.errors import first_line


@pytest.mark.parametrize(
    ("said", "told"),
    [("one", "one"), ("one\ntwo", "one"), ("\n one \n", "one"), ("", "no reason given"), ("\n", "no reason given")],
)  # fmt: skip
def test_the_first_line_is_told(said: str, told: str) -> None:
    assert first_line(RuntimeError(said)) == told


def test_an_error_without_words_has_a_line() -> None:
    assert first_line(NotImplementedError()) == "no reason given"
