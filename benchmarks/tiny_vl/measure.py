"""How good petiole/tiny-grid and petiole/tiny-vl are, each alone: probes of pictures, and answers from text.

OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/tiny_vl/measure.py [--grid FILE] [--language FILE]
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from language import denoising, sentences
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from petiole.backbones.base import Backbone
from petiole.backbones.bundled.tiny_vl import LanguageWords
from petiole.backbones.encoder_decoder import Inputs, Seq2Seq
from petiole.backbones.encoder_decoder.loading import load_language_model
from petiole.backbones.encoder_decoder.tokens import IGNORED, padded
from petiole.backbones.registry import load_backbone
from petiole.data.preprocessing import evaluate_transform
from petiole.data.synthetic.scenes.language import ReadingText, readings
from petiole.data.synthetic.scenes.layout import Group, View, placed_objects
from petiole.data.synthetic.scenes.render import render_objects
from petiole.data.synthetic.scenes.scene import MOST, SEEN, UNSEEN, SceneObject, compositions

PARTS = ("shape", "colour", "texture", "count", "quadrant")
TRAIN, TEST = 2500, 600
FRESH = 10**6
"""Seeds from here on are nobody's."""


def scene(rng: np.random.Generator, held: bool) -> tuple[list[SceneObject], list[int]]:
    """One group, a lone thing anywhere every second time; and its labels, the quadrant -1 for several."""
    kinds = compositions(held=held)
    kind = kinds[rng.integers(len(kinds))]
    if rng.random() < 0.5:
        view = View((Group(kind, int(rng.integers(2, MOST + 1))),), beside=bool(rng.random() < 0.5))
        there = placed_objects(view, rng)
        return there, [kind.shape, kind.colour, kind.texture, len(there) - 1, -1]
    radius = float(rng.uniform(0.13, 0.24))
    x, y = (float(at) for at in rng.uniform(radius, 1 - radius, 2))
    where = 2 * (y > 0.5) + (x > 0.5)
    return [SceneObject(kind, x, y, radius)], [kind.shape, kind.colour, kind.texture, 0, where]


@torch.no_grad()
def seen(
    backbone: Backbone, styles: tuple[str, ...], count: int, seed: int, held: bool = False
) -> tuple[Tensor, Tensor]:
    """Mean and maximum over the map's positions (count, 2 D), and labels (count, 5)."""
    transform = evaluate_transform(backbone.preprocessing)
    values, labels = [], []
    for start in range(0, count, 100):
        rows = []
        for i in range(start, min(count, start + 100)):
            rng = np.random.default_rng([FRESH, seed, i])
            there, label = scene(rng, held)
            rows.append(transform(render_objects(there, styles[i % len(styles)], FRESH + i)))
            labels.append(label)
        tokens = backbone.lower(torch.stack(rows), (backbone.patches,))[backbone.patches]  # type: ignore[no-untyped-call]
        values.append(torch.cat([tokens.mean(1), tokens.amax(1)], dim=1))
    return torch.cat(values), torch.tensor(labels)


def probe(values: Tensor, labels: Tensor) -> nn.Linear:
    """A multinomial logistic regression, with weight decay 1e-3."""
    linear = nn.Linear(values.shape[1], int(labels.max()) + 1)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=150, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(linear(values), labels) + 1e-3 * linear.weight.square().sum()
        torch.autograd.backward(loss)
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return linear


def probe_accuracy(backbone: Backbone) -> dict[str, dict[str, float]]:
    """Per cent right by style, of linear probes that learned in seen styles and compositions."""
    values, labels = seen(backbone, SEEN, TRAIN, 0)
    shift, scale = values.mean(0), values.std(0) + 1e-3
    probes = []
    for i in range(len(PARTS)):
        known = labels[:, i] >= 0
        probes.append(probe((values[known] - shift) / scale, labels[known, i]))
    table: dict[str, dict[str, float]] = {}
    cases = {f"{style}": ((style,), False) for style in (*SEEN, *UNSEEN)}
    for name, (styles, held) in {**cases, "held-out compositions": (SEEN, True)}.items():
        values, labels = seen(backbone, styles, TEST, 1, held)
        row = {}
        for i, part in enumerate(PARTS):
            known = labels[:, i] >= 0
            guesses = probes[i]((values[known] - shift) / scale).argmax(1)
            row[part] = percent((guesses == labels[known, i]).float().mean())
        table[name] = row
    return table


def percent(share: Tensor | float) -> float:
    return round(100 * float(share), 1)


@torch.no_grad()
def answers(model: Seq2Seq, texts: list[str]) -> list[str]:
    """Greedy answers."""
    assert model.tokenizer is not None
    out: list[str] = []
    for start in range(0, len(texts), 100):
        ids = padded(
            [model.tokenizer(text) for text in texts[start : start + 100]], LanguageWords.pad
        )
        encoded = model.encode(Inputs(ids, ids != LanguageWords.pad))
        out += [model.tokenizer.decode(row) for row in model.generate(encoded, longest=12)]
    return out


def reading(model: Seq2Seq, each: int = 300) -> dict[str, dict[str, float]]:
    """Per cent of answers right, beside the commonest answer and the question without its context."""
    by_task: dict[str, list[ReadingText]] = {}
    for one in islice(readings(np.random.default_rng(FRESH)), 8 * each):
        by_task.setdefault(one.task, []).append(one)
    table = {}
    for task, rows in sorted(by_task.items()):
        rows = rows[:each]
        right = [row.answer for row in rows]
        full = answers(model, [f"{task}: {row.question} {row.context}" for row in rows])
        blind = answers(model, [f"{task}: {row.question}" for row in rows])
        table[task] = {
            "with context": percent(np.mean([a == b for a, b in zip(full, right, strict=True)])),
            "question only": percent(np.mean([a == b for a, b in zip(blind, right, strict=True)])),
            "commonest answer": percent(Counter(right).most_common(1)[0][1] / len(right)),
        }
    return table


@torch.no_grad()
def restoring(model: Seq2Seq, count: int = 300) -> float:
    """Per cent of all tokens of sentences with hidden words that are right, each given those before it."""
    words, rng = LanguageWords(), np.random.default_rng(FRESH + 1)
    texts, targets = zip(
        *(denoising(words, pair, rng) for pair in sentences(rng, count)), strict=True
    )
    ids, labels = padded(texts, LanguageWords.pad), padded(targets, IGNORED)
    guesses = model.logits(model.encode(Inputs(ids, ids != LanguageWords.pad)), labels).argmax(-1)
    known = labels != IGNORED
    known[:, 0] = False  # the start token
    return percent((guesses == labels)[known].float().mean())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--grid", type=Path)
    options.add_argument("--language", type=Path)
    chosen = options.parse_args()
    backbone = load_backbone("petiole/tiny-grid", weights=chosen.grid)
    print(json.dumps({"tiny-grid, probes, %": probe_accuracy(backbone)}, indent=1), flush=True)
    model = load_language_model("petiole/tiny-vl", weights=chosen.language)
    print(json.dumps({"tiny-vl, text questions, %": reading(model)}, indent=1))
    print(json.dumps({"tiny-vl, denoised tokens, %": restoring(model)}))


if __name__ == "__main__":
    main()
