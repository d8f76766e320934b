"""Texts come to a tower as the folder's own tokenizer makes them, and names that it cannot tell apart are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    Siglip2Tokenizer,
    SiglipTokenizer,
)

from petiole.backbones.dual_encoder.openai_names import BytePairs
from petiole.backbones.dual_encoder.tokenizers import FolderTokenizer
from petiole.errors import BackboneError, ConfigError
from petiole.methods.prompt_learning.class_names import SentenceTemplate, TextHead
from petiole.testing import dual_encoder

TEXTS = ["A Red  photo", "red.", "RED photo of a dog", ""]
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]


def letters(*, mark: str = "▁") -> dict[str, int]:
    return {w: i for i, w in enumerate([*SPECIAL, *"abcdefghijklmnopqrstuvwxyz.AR", mark])}


def equal_to_the_librarys(folder: Path) -> FolderTokenizer:
    ours, theirs = FolderTokenizer(folder), AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        marked = [*([] if ours.start is None else [ours.start]), *ours(text), ours.end]
        whole = theirs(text, padding="max_length", max_length=40, padding_side="right")["input_ids"]
        assert marked + [ours.padding] * (40 - len(marked)) == whole, text
    return ours


def test_siglip2s_lower_case_and_missing_end(tmp_path: Path) -> None:
    Siglip2Tokenizer(vocab=letters(), padding_side="right").save_pretrained(tmp_path)
    ours = equal_to_the_librarys(tmp_path)
    assert ours("RED") == ours("red")
    assert (ours.start, ours.end, ours.pads_left) == (None, 0, False)


def test_clips_marks_and_options(tmp_path: Path) -> None:
    words = {
        w: i
        for i, w in enumerate(
            [
                *"abcdefghijklmnopqrstuvwxyz.",
                *(c + "</w>" for c in "abcdefghijklmnopqrstuvwxyz."),
                "<|startoftext|>",
                "<|endoftext|>",
                "<fill>",
            ]
        )
    }
    CLIPTokenizer(vocab=words, merges=[], pad_token="<fill>").save_pretrained(tmp_path)
    ours = equal_to_the_librarys(tmp_path)
    assert ours.start == words["<|startoftext|>"]
    assert (ours.end, ours.padding) == (words["<|endoftext|>"], words["<fill>"])


@pytest.mark.parametrize("lower", [False, True])
def test_a_normaliser_of_the_folder_is_at_work(tmp_path: Path, lower: bool) -> None:
    inner = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "red": 2, "RED": 3, "?": 4}, "?"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if lower:
        inner.normalizer = normalizers.Lowercase()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="</s>", unk_token="?"
    ).save_pretrained(tmp_path)
    ours = equal_to_the_librarys(tmp_path)
    assert ours("RED") == ([2] if lower else [3])


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vocabularies that sentencepiece's own trainer made: unigram.model, and bpe.model with Gemma's marks."""
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    folder = tmp_path_factory.mktemp("pieces")
    lines = ["a photo of a red dog", "two blue cats.", "the green bird; and a fish!", "ten boats"]
    (folder / "lines.txt").write_text("\n".join(lines * 20))
    own = {"input": str(folder / "lines.txt"), "hard_vocab_limit": False, "minloglevel": 2}
    siglip = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    gemma = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "byte_fallback": True}
    for kind, size, marks in (("unigram", 60, siglip), ("bpe", 320, gemma)):
        trainer.train(
            model_prefix=str(folder / kind), model_type=kind, vocab_size=size, **own, **marks
        )
    return folder


def test_siglips_sentencepieces(pieces: Path, tmp_path: Path) -> None:
    SiglipTokenizer(str(pieces / "unigram.model")).save_pretrained(tmp_path)
    (tmp_path / "spiece.model").unlink(missing_ok=True)
    (tmp_path / "spiece.model").write_bytes((pieces / "unigram.model").read_bytes())
    ours = equal_to_the_librarys(tmp_path)
    assert len(ours("A photo of a dog")) > 3
    # Canonical: lower case, no punctuation, one space.
    assert ours("A  Red, DOG!") == ours("a red dog")
    assert (ours.start, ours.end, ours.padding, ours.pads_left) == (None, 1, 1, False)


def test_siglip_2_in_gemmas_vocabulary_is_lower_cased(pieces: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes((pieces / "bpe.model").read_bytes())
    stated = {"tokenizer_class": "GemmaTokenizer", "padding_side": "right", "add_bos_token": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(stated | {"add_eos_token": True}))
    ours, theirs = FolderTokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert len(ours("two blue cats.")) > 2
    for text in TEXTS:
        assert ours(text) == theirs(text.lower(), add_special_tokens=False)["input_ids"], text
    assert ours("RED") == ours("red") != theirs("RED", add_special_tokens=False)["input_ids"]


def test_openais_vocabulary_cleans_as_its_library_does() -> None:
    ours = BytePairs("here")
    import open_clip

    for text in ["a  photo &amp; a dog", "cafÃ©", "A Dog"]:
        row = open_clip.tokenize([text])[0].tolist()
        assert [ours.start, *ours(text), ours.end] == row[: row.index(ours.end) + 1]


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="has no tokenizer"):
        FolderTokenizer(tmp_path)


# --- class names ---------------------------------------------------------------------------------


def test_names_that_a_tower_cannot_tell_apart_or_read_are_refused_by_name() -> None:
    head = TextHead(dual_encoder.towers(), 2, SentenceTemplate())
    with pytest.raises(ConfigError, match="the same tokens for: 'red' and 'RED'"):
        head.rename(["red", "RED", "blue"])
    with pytest.raises(ConfigError, match=r"nothing of its vocabulary in the name: ''"):
        head.rename(["", "blue"])
    with pytest.raises(
        ConfigError, match=r"more than its 48 tokens in the sentence of: 'z+' \(\d+\)"
    ):
        head.rename(["z" * 60, "blue"])
    head.rename(["red", "blue"])
    assert head.names == ("red", "blue")
