"""Which answers a frozen language model cannot say: the encoder cannot make up for words that it does not have."""

from __future__ import annotations

from collections.abc import Iterable

from petiole.backbones.codebook_lvlm.model import LVLM, TextTokens
from petiole.data.dataset import listed
from petiole.data.text_dataset import TextDataset


def unsayable(tokens: TextTokens, answers: Iterable[str]) -> list[str]:
    """The answers with a word that the tokens do not have: spelt in letters by a word list, or changed on the way back."""
    knows = getattr(tokens, "knows", None)
    return [a for a in answers if not (knows(a) if knows else _comes_back(tokens, a))]


def _comes_back(tokens: TextTokens, text: str) -> bool:
    return (
        "".join(tokens.decode(tokens.split(text)).split()).casefold()
        == "".join(text.split()).casefold()
    )


def word_notes(data: TextDataset, models: Iterable[LVLM]) -> list[str]:
    """A sentence for each language model that cannot say some of the answers."""
    samples = [sample for part in data.parts.values() for sample in part]
    answers = sorted({answer for sample in samples for answer in sample.references})
    notes = []
    for model in models:
        if model.tokenizer is None or not (lacking := unsayable(model.tokenizer, answers)):
            continue
        gone = set(lacking)
        count = sum(bool(s.references) and gone.issuperset(s.references) for s in samples)
        notes.append(
            f"{len(lacking)} of {len(answers)} different answers have words that {model.name} does not know, so it will "
            f"hardly ever say them, and the {count:,} of {len(samples):,} questions that have no other answer will be "
            f"scored as wrong: {listed(lacking, 5)}. Put the answers into its words, or take a language model that "
            "knows them."
        )
    return notes
