"""A tiny BART and tasks in the plain format as folders on disk, and the commands over them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from builders import seq2seq as tiny
from builders.cli import Said, say
from petiole.backbones.encoder_decoder import stored

TASKS = {"colours": "answers", "pairs": "choice", "tell": "caption"}
"""Folder -> task."""
COLOURS = {"red": (220, 30, 30), "two": (30, 60, 200)}
FIRST_WORD = 4
"""Behind BART's special ids."""
COUNTS = {"train": 8, "val": 4, "test": 6}


def language(folder: Path) -> Path:
    """A BART of random weights without eyes, which says words: the scores of all other ids are near 0."""
    made = tiny.model("bart", visual=False)
    with torch.no_grad():
        ids = made.module.language.get_parameter("model.shared.weight")
        ids[:FIRST_WORD] *= 0.05
        ids[FIRST_WORD + len(tiny.WORDS) :] *= 0.05
    stored.write(made, folder)
    tiny.save_tokenizer(folder, "bart")
    return folder


def task(folder: Path, kind: str, seed: int = 0) -> Path:
    """One task; pictures are of two colours, and what is right is seen in them."""
    rng, names = np.random.default_rng(seed), list(COLOURS)
    for part, count in COUNTS.items():
        lines = []
        for i in range(count):
            chosen = [names[int(k)] for k in rng.integers(0, 2, 1 + (kind == "choice"))]
            images = [f"{part}{i}{'ab'[k]}.png" for k in range(len(chosen))]
            for image, colour in zip(images, chosen, strict=True):
                draw(folder / "images" / image, colour, rng)
            lines.append(json.dumps(_line(kind, images, chosen)))
        (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "task.json").write_text(json.dumps({"task": kind}))
    return folder


def text_task(folder: Path) -> Path:
    """Questions without pictures."""
    folder.mkdir(parents=True)
    rows = [{"question": f"what is {w}", "answer": w} for w in ("red", "two", "no", "yes")]
    for part in COUNTS:
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "task.json").write_text('{"task": "answers"}')
    return folder


def draw(file: Path, colour: str, rng: np.random.Generator) -> None:
    """A picture of one colour and noise."""
    noise = rng.integers(0, 30, (40, 40, 3)) + np.array(COLOURS[colour])
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(file)


def rows_of(file: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file."""
    return [json.loads(row) for row in file.read_text().splitlines()]


def _line(kind: str, images: Sequence[str], colours: Sequence[str]) -> dict[str, object]:
    if kind == "choice":
        same = "true" if colours[0] == colours[1] else "false"
        return {"images": list(images), "question": "is a dog red", "answer": same}
    if kind == "caption":
        return {"image": images[0], "captions": [f"a {colours[0]} dog", "a dog"]}
    return {"image": images[0], "question": "what is a dog", "answer": colours[0]}


def ask(run: Path, question: str, *images: Path, task: str = "") -> Said:
    """Put a question about pictures to a trained model through the command line."""
    chosen = ["--task", task] if task else []
    return say("predict", run, *images, "--question", question, *chosen, "--json")


def answer_of(said: Said) -> str:
    """What it said."""
    [row] = said.json["predictions"]
    return str(row["label"])


class World(NamedTuple):
    """A model, tasks, and a measurement that was made of them."""

    root: Path
    model: Path
    command: list[object]
    out: Path
    said: Said

    def tasks(self, *names: str) -> list[Path]:
        return [self.root / name for name in names]

    def options(self, model: Path | None = None) -> list[object]:
        seen = ["--vision-backbone", "petiole/tiny-vit", "--visual-tokens", 25]
        seen += ["--cache-dir", self.root / "cache"]
        return [*("--backbone", model or self.model), *seen, "--set", "steps=3", "--quiet"]

    def run(self, row: str = "vl-adapter", seed: int = 0) -> Path:
        return self.out / "runs" / row / f"seed-{seed}"


def measured(root: Path, *more: object) -> World:
    """Three tasks, and what ``petiole multitask`` makes of them."""
    out = root / "out"
    for seed, (name, kind) in enumerate(TASKS.items()):
        task(root / name, kind, seed)
    bare = World(root, language(root / "model"), [], out, Said(0, "", ""))
    command = ["multitask", *bare.tasks(*TASKS), *bare.options(), "--out", out, *more]
    return bare._replace(command=command, said=say(*command, "--json"))
