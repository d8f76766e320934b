"""Pre-train the language model of petiole/tiny-vl on text alone: the generated world in words.

    denoising    a sentence with spans of words hidden -> the sentence                   (as BART)
    reading      [task:] a question, and a sentence that tells all there is -> the answer
    telling      [caption:] a sentence that tells all, or its words in disorder -> a caption

    L = sum of the mean cross-entropies of their tokens; the task's name stands before every second text

The question comes first, where the visual tokens follow it later. Nothing here shows it a picture. Readings are
drawn first, once; spans and orders are drawn anew in every step.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/tiny_vl/language.py OUT
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from petiole.backbones.bundled.tiny_vl import LanguageWords, config, stored
from petiole.backbones.encoder_decoder.loading import architecture
from petiole.backbones.encoder_decoder.tokens import IGNORED, padded
from petiole.data.synthetic.scenes.language import readings, statements
from petiole.files import write_tensors

SHORT = ("vqa", "gqa")
"""Tasks about one picture; the texts of the others are twice as long, so they have batches of their own."""
Pair = tuple[str, str]
Ids = tuple[list[int], list[int]]
HIDDEN, SPAN = 0.35, 2.5
"""Share of the words that denoising hides, and the mean length of a span."""


def pairs_of_readings(rng: np.random.Generator, count: int) -> list[tuple[str, Pair]]:
    """(task, (question and context, answer))."""
    return [
        (one.task, (f"{one.question} {one.context}", one.answer))
        for one in islice(readings(rng), count)
    ]


def sentences(rng: np.random.Generator, count: int) -> list[Pair]:
    """(what tells all, a caption of the same)."""
    stream = statements(rng)
    return [(next(stream), next(stream)) for _ in range(count)]


def hidden(ids: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Text infilling: every span becomes one mask token."""
    left = round(HIDDEN * (len(ids) - 2))
    out = list(ids)
    while left > 0:
        length = min(left, max(1, int(rng.poisson(SPAN))), len(out) - 2)
        start = int(rng.integers(1, len(out) - length))
        out[start : start + length] = [LanguageWords.mask]
        left -= length
    return out


def denoising(words: LanguageWords, pair: Pair, rng: np.random.Generator) -> Ids:
    """Either sentence."""
    ids = words(pair[rng.integers(2)])
    return hidden(ids, rng), ids


def telling(words: LanguageWords, pair: Pair, rng: np.random.Generator) -> Ids:
    """The caption of what is told in order or in disorder."""
    statement, caption = pair
    if rng.random() < 0.5:
        statement = " ".join(rng.permutation(statement.removesuffix(".").split()))
    prefix = "caption: " if rng.random() < 0.5 else ""
    return words(prefix + statement), words(caption)


def reading(words: LanguageWords, found: tuple[str, Pair], rng: np.random.Generator) -> Ids:
    """The answer of a question."""
    task, (text, answer) = found
    prefix = f"{task}: " if rng.random() < 0.5 else ""
    return words(prefix + text), words(answer)


def loss_of(model: Any, rows: Iterable[Ids]) -> Tensor:
    """Mean cross-entropy of the target's tokens."""
    texts, targets = zip(*rows, strict=True)
    ids, labels = padded(texts, LanguageWords.pad), padded(targets, IGNORED)
    out = model(input_ids=ids, attention_mask=(ids != LanguageWords.pad).long(), labels=labels)
    logits: Tensor = out.logits
    return cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("out", type=Path)
    options.add_argument("--readings", type=int, default=80000)
    options.add_argument("--steps", type=int, default=2200)
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--lr", type=float, default=1.5e-3)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([chosen.seed, 2])
    words = LanguageWords()
    questions = pairs_of_readings(rng, chosen.readings)
    statement_pairs = sentences(rng, chosen.readings // 4)
    short, long = (
        [one for one in questions if (one[0] in SHORT) == is_short] for is_short in (True, False)
    )
    parts: list[tuple[str, Callable[..., Ids], Sequence[Any], int]] = [
        ("reading", reading, short, chosen.batch // 2),
        ("reading more", reading, long, chosen.batch // 4),
        ("denoising", denoising, statement_pairs, chosen.batch // 8),
        ("telling", telling, statement_pairs, chosen.batch // 8),
    ]
    torch.manual_seed(chosen.seed)
    model, _ = architecture(config())
    model.set_attn_implementation("eager")  # twice as fast on short texts
    # Without dropout: every text is fresh or nearly so, and steps are few.
    model.eval()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=chosen.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, chosen.lr, chosen.steps, pct_start=0.1, cycle_momentum=False
    )
    begun = time.time()
    for step in range(chosen.steps):
        rng = np.random.default_rng([chosen.seed, 3, step])
        terms = {}
        for name, make, pool, count in parts:
            rows = [make(words, pool[i], rng) for i in rng.integers(len(pool), size=count)]
            with torch.autocast("cpu", torch.bfloat16):
                terms[name] = loss_of(model, rows)
        torch.autograd.backward(sum(terms.values(), torch.zeros(())))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0 or step == chosen.steps - 1:
            values = {name: round(float(value.detach()), 4) for name, value in terms.items()}
            line = {"model": "tiny-vl", "step": step, **values}
            with open(chosen.out / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps({**line, "seconds": round(time.time() - begun)}) + "\n")
        if step % 250 == 249 or step == chosen.steps - 1:
            terms_of = {k: v for k, v in vars(chosen).items() if k != "out"}
            training = {"training": json.dumps(terms_of, sort_keys=True)}
            write_tensors(chosen.out / "tiny_vl.safetensors", stored(model), training)


if __name__ == "__main__":
    main()
