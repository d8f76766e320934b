"""A folder's own tokenizer, as transformers reads it: every option that its files state is at work."""

from __future__ import annotations

from pathlib import Path

from petiole.backbones.preprocessor import quiet
from petiole.backbones.weights import read_json
from petiole.errors import BackboneError, boundary

FILES = (
    "tokenizer.json",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)


class FolderTokenizer:
    """Text -> ids, without the marks that the tokenizer puts around a text.

    Attributes:
        start: the mark before a text; ``None`` where there is none.
        end: the mark behind it or, where there is none, what fills the remaining slots.
        padding: what fills the slots behind the text.
        unknown: of what the vocabulary lacks; ``None`` where it lacks nothing.

    Args:
        folder: of the model.
        default: the library's class where no file names one.

    Raises:
        BackboneError: its files are missing or cannot be read, or it fills slots before a text.
    """

    def __init__(self, folder: Path, default: str = "AutoTokenizer") -> None:
        import transformers

        names = {file.name for file in folder.iterdir()}
        # Without these files transformers makes an empty tokenizer and says nothing.
        if not (names & set(FILES) or {"vocab.json", "merges.txt"} <= names):
            raise BackboneError(
                f"{folder} has no tokenizer ({', '.join(FILES)}, or vocab.json and merges.txt). Copy it from where the model "
                "came from."
            )
        config = folder / "tokenizer_config.json"
        stated = read_json(config) if config.is_file() else {}
        kind = "AutoTokenizer" if "tokenizer_class" in stated else default
        remedy = "Copy its files from where the model came from; those of sentencepiece need pip install sentencepiece."
        with boundary(folder, remedy, BackboneError, "its tokenizer cannot be read"), quiet():
            self._tokenizer = getattr(transformers, kind).from_pretrained(
                str(folder), local_files_only=True
            )
        around = self._tokenizer("")["input_ids"]
        padding = self._tokenizer.pad_token_id
        if padding is None and not around:
            raise BackboneError(
                f"{folder}: its tokenizer marks no end and has no padding. Copy tokenizer_config.json from where the model "
                "came from."
            )
        self.start: int | None = around[0] if len(around) > 1 else None
        self.end: int = around[-1] if around else padding
        self.padding: int = self.end if padding is None else padding
        self.unknown: int | None = self._tokenizer.unk_token_id
        # SigLIP 2 was trained on lower case with Gemma's vocabulary, whose own tokenizer keeps the case.
        self._lower = type(self._tokenizer).__name__.startswith("Gemma")

    @property
    def pads_left(self) -> bool:
        """Whether it fills the slots before a text."""
        return bool(self._tokenizer.padding_side == "left")

    def __call__(self, text: str) -> list[int]:
        text = text.lower() if self._lower else text
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
