"""Word-level tokens for the small bundled language models: known words and signs, all else in letters.

red zebra.  ->  red z ##e ##b ##r ##a .
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence


class WordList:
    """Ids of words; the first ``specials`` ids are the model's own.

    Texts are read without regard to case.

    Args:
        known: words and signs with an id each, in order.
        specials: ids before the first word.
        other: id of a sign that is not known.
    """

    def __init__(self, known: Sequence[str], specials: int, other: int) -> None:
        letters = string.ascii_lowercase + string.digits
        spelt = [letter for letter in letters if letter not in known]
        self.known = tuple(known)
        self.words = [*known, *spelt, *(f"##{letter}" for letter in letters)]
        self.specials, self.other = specials, other
        self.ids = {word: i for i, word in enumerate(self.words, start=specials)}

    def __len__(self) -> int:
        return len(self.words) + self.specials

    def knows(self, text: str) -> bool:
        """Whether every word and sign of a text has an id of its own."""
        return all(word in self.ids for word in _words(text))

    def split(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        ids: list[int] = []
        for word in _words(text):
            parts = [word] if word in self.ids else [word[0], *(f"##{c}" for c in word[1:])]
            ids += [self.ids.get(part, self.other) for part in parts]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text in small letters, spaced as one writes; special tokens are left out."""
        text = " ".join(self.words[i - self.specials] for i in ids if i >= self.specials)
        return re.sub(r" (##|(?=[],.:?]))|(?<=\[) ", "", text).removeprefix("##")


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+|[^a-z0-9\s]", text.lower())
