"""A real pretrained seq2seq without a hub, and several tasks in it: a BART that reads American words aloud learns British.

    python benchmarks/bart_g2p/run.py WEIGHTS OUT --words 320 --seeds 5
    python benchmarks/bart_g2p/run.py WEIGHTS OUT/others --words 320 --seeds 5 --table others.toml
    python benchmarks/bart_g2p/run.py WEIGHTS OUT/few --words 32 --seeds 5 --table sharing.toml

WEIGHTS holds us_bart.safetensors, us_bart_config.json, us_gold.json and gb_gold.json (github.com/mlalma/MisakiSwift,
Apache-2.0): a BART with 0.75 M parameters, one block a side, that turns American words into phonemes, and dictionaries of both
accents. Three tasks are made of them:

    say       the letters of a word -> its British phonemes
    accent    its American phonemes -> its British ones
    spell     its British phonemes  -> its letters

A word counts if both dictionaries have it in the model's own symbols, with 3 to 7 letters, and if no other word is spelt (but for
capitals) or said as it is: then no word, and no sound of one, is both learned and scored. Words are split by their SHA-256, for all
tasks alike: 80 % to learn from, of which --words are used, 10 % for the choice of rates, 10 % for the table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from petiole.backbones.encoder_decoder import Seq2Seq
from petiole.backbones.encoder_decoder.loading import architecture, with_visual
from petiole.backbones.weights import load_strictly, read_json, read_safetensors
from petiole.data.text_sample import TextSample
from petiole.protocols import multitask
from petiole.protocols.protocol import ComparisonRow
from petiole.report.multitask import summarise
from petiole.report.scores import table
from petiole.report.table import to_markdown, write
from petiole.tasks.text.collator import TaskData
from petiole.tasks.text.registry import find
from petiole.tasks.text.workspace import TextGeneration, TextWorkspace

LETTERS = range(3, 8)
VALIDATED, SCORED = 500, 1000
LONGEST = 20
"""Symbols of an answer at most, as transformers counts them; the longest true one has 16."""
PROMPTS = {"say": "'", "accent": "-", "spell": "."}
"""The hard prompt of each task: a symbol that the pretrained model knows and that says nothing of a sound."""


class Symbols:
    """One id a symbol. Letters and phonemes have tables of their own, which agree where they share a symbol.

    An id that is one letter and another phoneme is written as the phoneme, in whatever is decoded.
    """

    pad, start, end = 0, 1, 2

    def __init__(self, letters: str, phonemes: str) -> None:
        self.ids = {c: i for i, c in enumerate(letters) if c != "_"}
        for i, c in enumerate(phonemes):
            if c != "_" and self.ids.setdefault(c, i) != i:
                raise ValueError(f"{c!r} is {self.ids[c]} among letters and {i} among phonemes.")
        self.letters, self.phonemes = set(letters) - {"_"}, set(phonemes) - {"_"}
        self.symbols = phonemes + letters[len(phonemes) :]

    def __call__(self, text: str, most: int | None = None) -> list[int]:
        ids = [self.ids[c] for c in text][: most and most - 2]
        return [self.start, *ids, self.end]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.symbols[i] for i in ids if 2 < i < len(self.symbols))

    def written(self, text: str) -> str:
        """A text as ``decode`` writes it."""
        return self.decode(self(text))


def model_of(folder: Path) -> Seq2Seq:
    """The American BART."""
    config = read_json(folder / "us_bart_config.json")
    tokenizer = Symbols(config["grapheme_chars"], config["phoneme_chars"])
    plain = {
        k: v
        for k, v in config.items()
        if k not in ("architectures", "torch_dtype", "transformers_version")
    }
    language, family = architecture(plain)
    stored = read_safetensors(folder / "us_bart.safetensors")
    shared = stored["model.shared.weight"]
    tied = (
        "model.encoder.embed_tokens.weight",
        "model.decoder.embed_tokens.weight",
        "lm_head.weight",
    )
    load_strictly(language, {**dict.fromkeys(tied, shared), **stored}, "us_bart.safetensors")
    return with_visual("bart-g2p-us", language, family, tokenizer)


def lexicon(folder: Path, tokenizer: Symbols) -> list[tuple[str, str, str]]:
    """Spelling, American sound and British sound of the words that count, in a random order that is always the same."""
    american, british = (
        json.loads((folder / f"{accent}_gold.json").read_text(encoding="utf-8"))
        for accent in ("us", "gb")
    )
    known = [
        (word, american[word], sound)
        for word, sound in british.items()
        if len(word) in LETTERS
        and set(word) <= tokenizer.letters
        and all(
            isinstance(said, str) and set(said) <= tokenizer.phonemes
            for said in (sound, american.get(word))
        )
    ]
    keys = [(word.lower(), us, gb) for word, us, gb in known]
    often = [Counter(column) for column in zip(*keys, strict=True)]
    single = [
        entry
        for entry, key in zip(known, keys, strict=True)
        if all(count[k] == 1 for count, k in zip(often, key, strict=True))
    ]
    return sorted(single, key=lambda entry: _hash(entry[0]))


def tasks_of(folder: Path, tokenizer: Symbols, words: int) -> tuple[TaskData, ...]:
    """The three tasks, on the same words."""
    parts: dict[str, list[tuple[str, str, str]]] = {"train": [], "val": [], "test": []}
    for entry in lexicon(folder, tokenizer):
        parts[{0: "test", 1: "val"}.get(_hash(entry[0]) % 10, "train")].append(entry)
    sizes = {"train": words, "val": VALIDATED, "test": SCORED}
    for part, entries in parts.items():
        if len(entries) < sizes[part] and part == "train":
            raise SystemExit(f"--words {words}: there are {len(entries)} to learn from.")
    made = []
    for name, (given, wanted) in {"say": (0, 2), "accent": (1, 2), "spell": (2, 0)}.items():
        samples = {
            part: tuple(
                _sample(entry[0], entry[given], tokenizer.written(entry[wanted]))
                for entry in entries[: sizes[part]]
            )
            for part, entries in parts.items()
        }
        task = replace(find("text"), prefix=PROMPTS[name], max_length=LONGEST)
        digest = hashlib.sha256(repr(samples).encode()).hexdigest()
        made.append(TaskData(task, samples, digest=digest, called=name))
    return tuple(made)


def _sample(key: str, given: str, wanted: str) -> TextSample:
    return TextSample(key, given, (), {wanted: 1.0}, (wanted,))


def _hash(word: str) -> int:
    return int(hashlib.sha256(word.lower().encode()).hexdigest(), 16)


@dataclass(frozen=True)
class PhonemeTasks(TextGeneration):
    """The tasks and the BART, from their folder.

    Attributes:
        weights: the folder.
        words: to learn from.
    """

    weights: Path = Path()
    words: int = 0

    def open(self) -> TextWorkspace:
        model = model_of(self.weights)
        return TextWorkspace(self, model, tasks_of(self.weights, model.tokenizer, self.words))  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--words", type=int, default=320)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--table", default="rows.toml", help="of this folder")
    chosen = parser.parse_args()
    stated = tomllib.loads((Path(__file__).parent / chosen.table).read_text(encoding="utf-8"))
    study = multitask.Multitask.checked(
        rows=[ComparisonRow(**row) for row in stated["rows"]],
        reference=stated["reference"],
        model="bart-g2p-us",
        tasks=list(PROMPTS),
        seeds=chosen.seeds,
    )
    task = PhonemeTasks(
        study.model, tuple(PROMPTS), weights=chosen.weights, words=chosen.words, quiet=True
    )
    jobs = multitask.jobs_of(study, task, chosen.out, stated["settings"], resume=True)
    multitask.run_all(study, jobs, chosen.out, resume=True)
    found = table(summarise(chosen.out))
    write(found, chosen.out)
    print(to_markdown(found))


if __name__ == "__main__":
    main()
