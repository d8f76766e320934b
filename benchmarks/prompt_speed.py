"""What the cut, the trimmed texts and the folded classes save, in one run on one machine.

A CLIP ViT-B/16 with random weights, fp32, one thread's processor seconds. Each repeat times, in a random order:

    step            a training step of CoOp (M = 4, 50 classes, 32 images) from stored image vectors
    plain           the same equations as the published code runs them: 77 slots for every class, gradients through
                    transformers' own text tower, stored image vectors too
    cached epoch    an epoch of CoOp on 64 images from stored vectors
    live epoch      the same epoch, every image through the image tower
    coop, textrefiner, folded      16 images to logits, class vectors ready as in an evaluation
    coop head, textrefiner head, folded head      the same from 256 stored vectors: what the heads alone cost

Reported: ratios of each repeat's times as median (least to most), and median milliseconds.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/prompt_speed.py --repeats 5
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from petiole.backbones.dual_encoder.clip import wrap
from petiole.backbones.dual_encoder.openai_names import clip_config
from petiole.backbones.dual_encoder.towers import TwoTowers
from petiole.backbones.preprocessor import CLIP_COLOURS
from petiole.data.preprocessing import Preprocessing
from petiole.layers.matrix import ClassMatrix
from petiole.methods.registry import create
from petiole.tasks.classification.model import AdaptedClassifier

CLASSES, BATCH, SHOTS, M = 50, 32, 64, 4
RATIOS = (
    ("plain", "step"),
    ("live epoch", "cached epoch"),
    ("textrefiner", "coop"),
    ("folded", "coop"),
    ("textrefiner head", "coop head"),
    ("folded head", "coop head"),
)


class Ids:
    """A class name of three tokens; a full stop is one more."""

    start, end = 49406, 49407

    def __call__(self, text: str) -> list[int]:
        return [1000 + crc32(word.encode()) % 30000 for word in text.replace(".", " . ").split()]


def towers() -> TwoTowers:
    from transformers import CLIPConfig, CLIPModel

    text = {"width": 512, "layers": 12, "heads": 8, "vocab_size": 49408, "context_length": 77}
    vision = {"width": 768, "layers": 12, "heads": 12, "patch_size": 16, "image_size": 224}
    torch.manual_seed(0)
    module = CLIPModel(CLIPConfig(**clip_config(512, text=text, vision=vision, act="quick_gelu")))
    stated = Preprocessing(size=(224, 224), crop=1.0, interpolation="bicubic", **CLIP_COLOURS)
    return wrap("random/clip-vit-b16", module, stated, Ids())


class Plain(nn.Module):
    """CoOp as published: the whole text tower on 77 slots, by transformers' own modules."""

    def __init__(self, backbone: TwoTowers, names: list[str]) -> None:
        super().__init__()
        self._clip: tuple[Any] = (backbone.module,)
        ids = Ids()
        rows = [[ids.start, *[343] * M, *ids(name + " ."), ids.end] for name in names]
        at = backbone.device
        self.ends = torch.tensor([len(row) - 1 for row in rows], device=at)
        self.ids = torch.tensor([row + [0] * (77 - len(row)) for row in rows], device=at)
        self.context = nn.Parameter(torch.randn(M, 512, device=at) * 0.02)

    def forward(self, vectors: Tensor) -> Tensor:
        (clip,) = self._clip
        text = clip.text_model
        words = text.embeddings.token_embedding(self.ids)
        context = self.context.expand(len(words), -1, -1)
        words = torch.cat([words[:, :1], context, words[:, 1 + M :]], dim=1)
        tokens = words + text.embeddings.position_embedding.weight
        lowest = torch.finfo(tokens.dtype).min
        mask = torch.full((77, 77), lowest, device=tokens.device).triu(1)[None, None]
        for layer in text.encoder.layers:
            out = layer(tokens, attention_mask=mask)
            tokens = out[0] if isinstance(out, tuple) else out
        tokens = text.final_layer_norm(tokens)
        pooled = clip.text_projection(tokens[torch.arange(len(tokens)), self.ends])
        return clip.logit_scale.exp() * normalize(vectors, dim=-1) @ normalize(pooled, dim=-1).T


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--ways", nargs="+", help="those alone, e.g. 'coop head' 'folded head'")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    backbone = towers()
    names = [f"thing number{i}" for i in range(CLASSES)]

    def adapted(method: str) -> AdaptedClassifier:
        made = AdaptedClassifier(backbone, create(method).plan(backbone, CLASSES))
        made.name(names)
        return made

    coop, refined, plain = adapted("coop"), adapted("coop+textrefiner"), Plain(backbone, names)
    images = torch.randn(SHOTS, 3, 224, 224)
    vectors = torch.randn(256, 512)
    labels = torch.randint(CLASSES, (SHOTS,))
    role = backbone.vector

    def train(state: dict[str, Tensor], y: Tensor) -> None:
        coop.train()
        with coop.attached():
            torch.autograd.backward(cross_entropy(coop(state).logits, y))

    def step() -> None:
        train({role: vectors[:BATCH]}, labels[:BATCH])

    def published() -> None:
        torch.autograd.backward(cross_entropy(plain(vectors[:BATCH]), labels[:BATCH]))

    def epoch(live: bool) -> Callable[[], None]:
        def run() -> None:
            for first in range(0, SHOTS, BATCH):
                part = slice(first, first + BATCH)
                state = {role: vectors[part]}
                if live:
                    state = backbone.lower(images[part], (role,))
                train(state, labels[part])

        return run

    with torch.no_grad(), coop.attached():
        matrix = coop.head.embeddings()
    folded = ClassMatrix(512, CLASSES)
    folded.matrix.copy_(matrix)

    def infer(head: nn.Module) -> Callable[[], None]:
        def run() -> None:
            with torch.no_grad():
                head(backbone.lower(images[:16], (role,))[role])

        return run

    def infer_head(head: nn.Module, rounds: int = 500) -> Callable[[], float]:
        def run() -> float:
            with torch.no_grad():
                start = time.process_time()
                for _ in range(rounds):
                    head(vectors)
                return (time.process_time() - start) / rounds

        return run

    def ready(model: AdaptedClassifier) -> nn.Module:
        """Its head, the class vectors computed."""
        model.eval()
        with torch.no_grad(), model.attached():
            model({role: vectors})
        return model.head

    heads = {"coop": ready(adapted("coop")), "textrefiner": ready(refined), "folded": folded}
    ways: dict[str, Callable[[], float | None]] = {
        "step": step,
        "plain": published,
        "cached epoch": epoch(live=False),
        "live epoch": epoch(live=True),
        **{name: infer(head) for name, head in heads.items()},
        **{f"{name} head": infer_head(head) for name, head in heads.items()},
    }
    ways = {name: ways[name] for name in chosen.ways or ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(chosen.repeats + 1):
        for name, way in random.Random(repeat).sample(list(ways.items()), len(ways)):
            start = time.process_time()
            own = way()  # those that repeat what is short measure themselves
            spent = time.process_time() - start if own is None else own
            if repeat:  # the first warms up
                seconds[name].append(spent)
    ratios = {
        f"{a} / {b}": [x / y for x, y in zip(seconds[a], seconds[b], strict=True)]
        for a, b in RATIOS
        if {a, b} <= seconds.keys()
    }
    print(
        json.dumps(
            {
                "ratios": {
                    name: [round(statistics.median(v), 3), round(min(v), 3), round(max(v), 3)]
                    for name, v in ratios.items()
                },
                "milliseconds": {
                    name: round(1000 * statistics.median(v), 3) for name, v in seconds.items()
                },
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
