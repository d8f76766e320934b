"""What a run says at once: answers that a language model cannot say, and codes that say nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from petiole.backbones.bundled.word_list import WordList
from petiole.data.readers.registry import open_questions
from petiole.data.text_dataset import TextDataset
from petiole.data.text_sample import TextSample
from petiole.errors import DataError
from petiole.tasks.codebook.code_usage import collapse
from petiole.tasks.codebook.words import unsayable, word_notes

WORDS = WordList(["red", "blue", "bar", "."], 3, 2)


class Pieces:
    """Tokens of a language model in pieces, which has no umlauts."""

    def split(self, text: str) -> list[int]:
        return [ord(c) for c in text if c.isascii()]

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


def test_words_that_a_model_does_not_have() -> None:
    assert unsayable(WORDS, ["Red", "red bar.", "rust", "röt"]) == ["rust", "röt"]
    assert unsayable(Pieces(), ["rust", "rost fäule"]) == ["rost fäule"]


def test_a_note_counts_questions_without_another_answer(tmp_path: Path) -> None:
    def sample(key: str, *answers: str) -> TextSample:
        return TextSample(key, "what ?", ("i.png",), dict.fromkeys(answers, 1.0), answers)

    samples = (sample("1", "red"), sample("2", "rust"), sample("3", "rust", "blue"))
    data = TextDataset("question", tmp_path, {"train": samples, "test": (sample("4", "bar"),)})
    models = [SimpleNamespace(name=n, tokenizer=t) for n, t in (("a", WORDS), ("b", Pieces()))]
    (note,) = word_notes(data, models)
    assert note.startswith("1 of 4 different answers have words that a does not know")
    assert "the 1 of 4 questions that have no other answer" in note
    assert ": rust." in note


def test_codes_that_collapsed_and_an_encoder_that_left_its_codebook() -> None:
    start = {"perplexity": 4.9, "residual": 11.7}
    assert collapse({"perplexity": 129.7, "residual": 3.8}, start) == ""
    assert "the codes have collapsed" in collapse({"perplexity": 1.0, "residual": 3.8}, start)
    far = collapse({"perplexity": 4.0, "residual": 5609.9}, start)
    assert far.startswith("the encoder has left the codebook: its tokens lie 479 times as far")


@pytest.mark.parametrize("field", [{"answer": "red"}, {"answers": ["red", "scarlet"]}])
def test_plain_lines_are_questions(tmp_path: Path, field: dict[str, object]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    line = {"image": "a.png", "question": "What colour?", **field}
    for part in ("train", "test"):
        (tmp_path / f"{part}.jsonl").write_text(json.dumps(line) + "\n")
    data = open_questions(tmp_path, task="question")
    assert data.task == "question"
    assert data["train"][0].references == tuple(field.get("answers", ["red"]))
    assert sum(data["train"][0].targets.values()) == pytest.approx(1.0)
    with pytest.raises(DataError, match="says no task"):
        open_questions(tmp_path)
    (tmp_path / "task.json").write_text('{"task": "vqa"}')
    assert open_questions(tmp_path, task="question").task == "vqa"


@pytest.mark.parametrize(("perplexity", "residual", "amiss"), [(1.5, 20.0, False), (1.49, 2.0, True), (1.5, 20.1, True)])  # fmt: skip
def test_codes_at_the_bounds_are_fine(perplexity: float, residual: float, amiss: bool) -> None:
    start = {"perplexity": 4.0, "residual": 2.0}
    assert bool(collapse({"perplexity": perplexity, "residual": residual}, start)) == amiss
