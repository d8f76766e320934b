"""Train the packaged CLIP on the generated world: petiole/tiny-clip.

    L = (CE over texts + CE over images) / 2 on s cos(v, e),  s learned, at most 100

Captions of a batch that are word for word the same as, or fit, another picture of it would be false negatives: of
each pair of pictures with equal kind, count and style only the first caption of that scene counts as wrong for the
others, so pairs of equal scenes are masked out of both softmaxes.

Held-out compositions and unseen styles never appear. Pictures are drawn by worker processes; a step is a function of
(seed, step), so an interrupted training goes on where it stopped.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/tiny_clip/train.py OUT --steps 6000
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader, Dataset

from petiole.backbones.bundled.tiny_clip import ClipWords, config
from petiole.data.synthetic.scenes import caption, compositions, draw_scene, render
from petiole.data.synthetic.scenes.scene import SEEN
from petiole.engine import checkpoint
from petiole.files import write_tensors

KINDS = compositions(held=False)


class Batches(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Batch ``step``: pictures (B, 3, 64, 64), ids (B, T), and a number for each scene (B,)."""

    def __init__(self, size: int, seed: int, first: int, last: int) -> None:
        self.size, self.seed, self.first, self.last = size, seed, first, last
        self.words = ClipWords()

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        if index >= len(self):
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, self.first + index])
        scenes = [draw_scene(rng, KINDS, SEEN) for _ in range(self.size)]
        pictures = np.stack([np.asarray(render(s, int(rng.integers(2**31)))) for s in scenes])
        texts = [[ClipWords.start, *self.words(caption(s, rng)), ClipWords.end] for s in scenes]
        longest = max(map(len, texts))
        ids = torch.tensor([text + [ClipWords.end] * (longest - len(text)) for text in texts])
        known: dict[Any, int] = {}
        same = [known.setdefault((s.kind, s.count, s.style), len(known)) for s in scenes]
        return torch.from_numpy(pictures).permute(0, 3, 1, 2), ids, torch.tensor(same)


def loss_of(model: Any, pictures: Tensor, ids: Tensor, same: Tensor) -> Tensor:
    """The symmetric contrastive loss; other pictures of an equal scene take no part."""
    x = pictures.float() / 127.5 - 1
    image = model.visual_projection(model.vision_model(x).pooler_output)
    text = model.text_projection(model.text_model(ids).pooler_output)
    scale = model.logit_scale.clamp(max=math.log(100)).exp()
    logits = scale * normalize(image.float(), dim=-1) @ normalize(text.float(), dim=-1).T
    equal = (same[:, None] == same) & ~torch.eye(len(same), dtype=torch.bool)
    logits = logits.masked_fill(equal, -torch.inf)
    labels = torch.arange(len(same))
    return (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2


def rate(step: int, steps: int, peak: float) -> float:
    """A rise over 5 % of the steps, then half a cosine to a hundredth."""
    rise = steps // 20
    if step < rise:
        return peak * (step + 1) / rise
    return peak * (0.01 + 0.99 * (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2)


def batches(chosen: argparse.Namespace, first: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    data = Batches(chosen.batch, chosen.seed, first, chosen.steps)
    yield from DataLoader(data, batch_size=None, num_workers=chosen.workers, prefetch_factor=4)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("out", type=Path)
    options.add_argument("--steps", type=int, default=6000)
    options.add_argument("--batch", type=int, default=256)
    options.add_argument("--lr", type=float, default=1e-3)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--workers", type=int, default=1)
    chosen = options.parse_args()
    from transformers import CLIPModel

    torch.manual_seed(chosen.seed)
    model = CLIPModel(config()).train()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=chosen.lr, betas=(0.9, 0.98), fused=True)
    terms = {k: v for k, v in vars(chosen).items() if k not in ("out", "workers")}
    request = json.dumps(terms, sort_keys=True)
    kept, start = chosen.out / "checkpoint.safetensors", 0
    chosen.out.mkdir(parents=True, exist_ok=True)
    if kept.exists():
        start = checkpoint.load(kept, request, model, optimizer)
    saved = begun = time.time()
    for step, (pictures, ids, same) in enumerate(batches(chosen, start), start):
        lr = rate(step, chosen.steps, chosen.lr)
        for group in optimizer.param_groups:
            group["lr"] = lr
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, pictures, ids, same)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            line = {
                "step": step,
                "loss": round(float(loss.detach()), 4),
                "seconds": round(time.time() - begun),
            }
            with open(chosen.out / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
        if time.time() - saved > 120:
            checkpoint.save(kept, step + 1, request, model, optimizer)
            saved = time.time()
    with torch.no_grad():
        model.logit_scale.clamp_(max=math.log(100))
    half = {name: value.half() for name, value in model.state_dict().items()}
    write_tensors(chosen.out / "tiny_clip.safetensors", half, {"training": request})


if __name__ == "__main__":
    main()
