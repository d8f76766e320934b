"""CRAFT's two savings, as ratios: a small surrogate over the large model in training, pruned over all image tokens in use.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/craft_speed.py --repeats 5

Sizes keep the paper's proportions at about a fiftieth of its scale: language models of LLaMA's shape with 15 times fewer parameters
in the small one, an encoder beside them, 256 image tokens. Weights are random, which changes no cost. Every training
measurement is a fresh process; kinds take turns, so that a drift of the machine hits all. Seconds are the processor's, of one
thread, so that other processes do not count. Questions have 24 tokens, answers 8.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

from petiole.backbones.bundled import tiny_lvlm
from petiole.backbones.bundled.word_list import WordList
from petiole.backbones.codebook_lvlm import LVLM, CodebookSpec, Tower, causal
from petiole.backbones.codebook_lvlm.bundle import OTHER, PAD, PROMPT, SPECIALS
from petiole.backbones.codebook_lvlm.model import LVLMModule
from petiole.layers.residual_quantiser import ResidualQuantiser
from petiole.layers.token_pruning import Pruning
from petiole.ledger import question_flops
from petiole.metrics.intervals import t_interval
from petiole.tasks.codebook.adapter import build_model, method_of
from petiole.tasks.codebook.model import CodebookBatch, CodebookLoss

SHAPES = {"large": (1024, 12, 16), "small": (320, 8, 5)}
"""Width, blocks and heads: 154 and 10 million parameters in the blocks."""
TOWER = {"size": 256, "patch": 16, "width": 256, "blocks": 6, "d": 256}
ENTRIES, BATCH, STEPS, WARM, QUESTION, ANSWER = 4096, 4, 3, 1, 24, 8


def model(kind: str) -> LVLM:
    """A random model of that size."""
    torch.manual_seed(0)
    width, blocks, heads = SHAPES[kind]
    image_encoder = tiny_lvlm.encoder("tower", TOWER)
    quantiser = ResidualQuantiser(ENTRIES, TOWER["d"], 4)
    side = TOWER["size"] // TOWER["patch"]
    spec = CodebookSpec.of(
        quantiser.codebooks, 4, tap=5, grid=(side, side), preprocessing=image_encoder.preprocessing
    )
    words = WordList([f"w{i}" for i in range(8000)], SPECIALS, OTHER)
    language = causal.build(
        {
            "model_type": "llama",
            "hidden_size": width,
            "intermediate_size": 11 * width // 4,
            "num_hidden_layers": blocks,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "vocab_size": len(words),
            "pad_token_id": PAD,
        }
    )
    tower = Tower(image_encoder, quantiser, spec, None)
    tower.frequencies.fill_(1 / ENTRIES)
    joint = LVLMModule(tower, causal.projector("mlp2x_gelu", TOWER["d"], width), language)
    return LVLM(kind, joint, words, PROMPT)


def step(kind: str) -> dict[str, float]:
    """Median processor seconds of a CRAFT step, peak resident memory, and what of it was there before."""
    surrogate = model(kind)
    method = method_of("craft", {"contrast": 0.0})
    adapted = build_model(method, surrogate)
    loss_module = CodebookLoss(adapted, method.losses(surrogate))
    adam, times = torch.optim.AdamW(adapted.parameters(), lr=1e-4), []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = TOWER["size"]
    ids = [[10] * QUESTION] * BATCH
    batch = CodebookBatch(
        pictures=torch.randn(BATCH, 3, size, size),
        questions=ids,
        answers=[[20] * ANSWER] * BATCH,
        captions=[],
        texts=[],
        groups=[""] * BATCH,
    )
    for _ in range(WARM + STEPS):
        start = time.process_time()
        loss_module(batch).backward()
        adam.step()
        adam.zero_grad()
        times.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": median(times[WARM:]), "megabytes": peak, "before": before}


def turns(repeats: int) -> None:
    """Small over large, in fresh processes that take turns."""
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in SHAPES}
    for _ in range(repeats):
        for kind in SHAPES:
            command = [sys.executable, __file__, "--one", kind]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[kind].append(json.loads(done.stdout.strip().splitlines()[-1]))
    for kind, rows in found.items():
        print(kind, {k: round(median(r[k] for r in rows), 2) for k in rows[0]})
    for what in ("seconds", "megabytes"):
        pairs = zip(found["small"], found["large"], strict=True)
        print_ratios(
            "small over large surrogate, a step: " + what, [a[what] / b[what] for a, b in pairs]
        )


@torch.no_grad()
def kept(repeats: int, keep: float = 0.8) -> None:
    """Pruned over all tokens: one question at a time, in one process, in turns."""
    large = model("large")
    adapted = build_model(method_of("lvlm-zero-shot", {}), large).eval()
    pictures = torch.randn(1, 3, TOWER["size"], TOWER["size"])
    question = " ".join(["w5"] * QUESTION)
    vision_output = adapted.encode_images(pictures)

    def ask(pruning: Pruning | None, seen: Any = vision_output) -> Callable[[], object]:
        return lambda: adapted.answer(
            seen or adapted.encode_images(pictures), [question], pruning=pruning, longest=ANSWER
        )

    kinds = {
        "answer": (ask(Pruning(keep)), ask(None)),
        "look and answer": (ask(Pruning(keep), None), ask(None, None)),
    }
    text = QUESTION + 3
    ratio = (
        question_flops(large, keep, text, ANSWER).language
        / question_flops(large, 1.0, text, ANSWER).language
    )
    print(f"language model's FLOPs, keep {keep} over all: {ratio:.3f}")
    whole = (
        question_flops(large, keep, text, ANSWER).total
        / question_flops(large, 1.0, text, ANSWER).total
    )
    print(f"all FLOPs, keep {keep} over all: {whole:.3f}")
    for name, (pruned, full) in kinds.items():
        ratios = []
        for i in range(repeats * 3 + 1):
            both = []
            for run in (pruned, full) if i % 2 else (full, pruned):
                start = time.process_time()
                run()
                both.append((run is full, time.process_time() - start))
            times = dict(both)
            if i:
                ratios.append(times[False] / times[True])
        print_ratios(f"keep {keep} over all tokens, seconds to {name}", ratios)


def print_ratios(what: str, ratios: list[float]) -> None:
    """Median and range of ratios of turns, and what their geometric mean is more or less, in per cent with a 95 % t interval of the logarithms."""
    log = t_interval(np.log(ratios))
    mean, low, high = (100 * np.expm1(x) for x in (log.mean, log.low, log.high))
    print(
        f"{what}: {median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f}), "
        f"{mean:+.1f} [{low:.1f}, {high:.1f}] % over {len(ratios)} turns",
        flush=True,
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--one", choices=tuple(SHAPES))
    chosen = options.parse_args()
    torch.set_num_threads(1)
    if chosen.one:
        print(json.dumps(step(chosen.one)))
        return
    turns(chosen.repeats)
    kept(chosen.repeats)


if __name__ == "__main__":
    main()
