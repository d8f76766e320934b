"""The loop that the trainings here share: AdamW, warm-up and cosine, bf16, and going on where it stopped.

A step is a function of (seed, step): batch ``step`` is item ``step`` of a data set.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from petiole.engine import checkpoint

EVERY = 50


def options(about: str, *, steps: int, batch: int, lr: float) -> argparse.ArgumentParser:
    """What every training is told."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    return parser


def request(chosen: argparse.Namespace) -> str:
    """What makes two trainings the same."""
    terms = {k: str(v) for k, v in vars(chosen).items() if k not in ("out", "workers")}
    return json.dumps(terms, sort_keys=True)


def rate(step: int, steps: int, peak: float) -> float:
    """A rise over 5 % of the steps, then half a cosine to a hundredth."""
    rise = steps // 20
    if step < rise:
        return peak * (step + 1) / rise
    return peak * (0.01 + 0.99 * (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2)


class From(Dataset[Any]):
    """Batches from ``first`` on."""

    def __init__(self, batches: Callable[[int], Any], first: int, last: int) -> None:
        self.batches, self.first, self.last = batches, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> Any:
        if index >= len(self):
            raise IndexError(index)
        return self.batches(self.first + index)


def _loaded(batches: Callable[[int], Any], first: int, chosen: argparse.Namespace) -> Iterator[Any]:
    ahead = 4 if chosen.workers else None
    yield from DataLoader(
        From(batches, first, chosen.steps),
        batch_size=None,
        num_workers=chosen.workers,
        prefetch_factor=ahead,
    )


def train(
    model: nn.Module,
    batches: Callable[[int], Any],
    loss_of: Callable[..., Tensor],
    chosen: argparse.Namespace,
) -> None:
    """Train what asks for gradients; log.jsonl and a checkpoint every two minutes go into ``chosen.out``."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=chosen.lr, betas=(0.9, 0.98), fused=True)
    kept, start = chosen.out / "checkpoint.safetensors", 0
    chosen.out.mkdir(parents=True, exist_ok=True)
    if kept.exists():
        start = checkpoint.load(kept, request(chosen), model, optimizer)
    saved = begun = time.time()
    for step, batch in enumerate(_loaded(batches, start, chosen), start):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, chosen.steps, chosen.lr)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(*batch)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % EVERY == 0 or step == chosen.steps - 1:
            seconds = round(time.time() - begun)
            line = {"step": step, "loss": round(float(loss.detach()), 4), "seconds": seconds}
            with open(chosen.out / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
        if time.time() - saved > 120:
            checkpoint.save(kept, step + 1, request(chosen), model, optimizer)
            saved = time.time()
