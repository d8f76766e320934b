"""Texts from names and files: safe for those who show them (a terminal, a spreadsheet), in one form for those who compare."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_UNSEEN = {"Cc", "Cs", "Zl", "Zp"}
_SURROGATE = re.compile("[\ud800-\udfff]")
_BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """The text in which all that would steer a terminal is an escape.

    That is control characters except line feed and tab, lone surrogates, and marks that turn the direction of writing.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if character in "\n\t":
        return character
    steers = unicodedata.category(character) in _UNSEEN or character in _BIDI
    return character.encode("unicode_escape", "surrogatepass").decode() if steers else character


class SafeConsole(Console):
    """rich's console, in which no shown text can steer the terminal; styles are unaffected."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """See ``rich.console.Console.render``."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def composed(text: str) -> str:
    """The text in Unicode's normal form C, in which names are compared: é is one name, however it was typed.

    macOS stores file names in form D (e and an accent), most else in form C.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def storable(text: str) -> bool:
    """Whether UTF-8 has a form of the text; half a surrogate pair, which JSON can state, has none."""
    return text.isascii() or not _SURROGATE.search(text)


def cell(value: Any) -> Any:
    """A cell of a CSV file that people open in a spreadsheet, which would run some texts as formulas.

    Such a text is led by an apostrophe, such a path by ``./``, which leaves it the same path; all else is unchanged.

    Source: OWASP, CSV Injection.
    """
    if isinstance(value, str | PurePath) and (text := str(value)).startswith(_FORMULA):
        return ("./" if isinstance(value, PurePath) else "'") + text
    return value
