"""What adapters inside the blocks cost: forward, training step, memory, and what the cut saves.

In one run, ViT-S/14 with random weights (values do not change the cost), steps interleaved, medians
of processor seconds with the lowest and highest. Rivals at equal rank r = 16: full fine-tuning as a user writes it (a copy
of timm's model, AdamW) and peft's own LoRA on a copy of timm's model. timm fuses q, k and v, so peft
adapts all three at once there: that row is named so; ours on q and v alone stands beside it, and peft
on separate q and v projections (the same network as a Dinov2Model) in a pair of its own.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/inside_blocks/cost.py --size 224
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cached_property
from typing import Literal

import peft
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Dinov2Config, Dinov2Model

from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import IMAGES
from petiole.backbones.vision import dinov2, vit
from petiole.data.preprocessing import Preprocessing
from petiole.device import Precision
from petiole.engine.memory import peak_memory
from petiole.engine.precision import autocast
from petiole.methods.registry import create
from petiole.tasks.classification.model import AdaptedClassifier

CLASSES, RANK = 100, 16
CPU = torch.device("cpu")
Step = Callable[[], object]
Builder = Callable[[], Step]


class Bench:
    """Everything that is timed. A group gives builders, so that one step can be built alone."""

    def __init__(
        self, size: int, batch: int, precision: Precision, device: torch.device = CPU
    ) -> None:
        self.size, self.precision, self.device = size, precision, device
        self.images = torch.randn(batch, 3, size, size, device=device)
        self.labels = torch.arange(batch, device=device) % CLASSES
        half = (0.5, 0.5, 0.5)
        self.stated = Preprocessing(
            size=(size, size), crop=1.0, interpolation="bicubic", mean=half, std=half
        )

    @cached_property
    def fused(self) -> Backbone:
        """timm's ViT-S/14: one projection for q, k and v."""
        name = "vit_small_patch14_dinov2"
        network = timm.create_model(name, num_classes=0, img_size=self.size).to(self.device)
        return vit.wrap(name, network, self.stated)

    @cached_property
    def separate(self) -> Backbone:
        """The same network as transformers builds it: three projections."""
        config = Dinov2Config(
            hidden_size=384, num_attention_heads=6, image_size=self.size, patch_size=14
        )
        return dinov2.wrap("dinov2-small", Dinov2Model(config).to(self.device), self.stated)

    def forward(self) -> dict[str, Builder]:
        """Prediction: the bare vector against the adapted one."""

        def adapted(name: str, **settings: object) -> Step:
            built = self.adapted(name, self.fused, **settings).eval()
            return self.without_gradients(lambda: built.pooled({IMAGES: self.images}))

        def bare() -> Step:
            reads = (self.fused.vector,)
            return self.without_gradients(lambda: self.fused.upper({IMAGES: self.images}, reads))

        return {
            "bare": bare,
            "adaptertune r=16": lambda: adapted("adaptertune", rank=RANK),
            "lora q,v r=16": lambda: adapted("lora-qkv", rank=RANK, targets="q,v"),
        }

    def training(self) -> dict[str, Builder]:
        """Optimiser steps on whole images."""
        lora = {"rank": RANK, "targets": "q,v"}
        return {
            "adaptertune r=16": lambda: self.ours("adaptertune", self.fused, rank=RANK),
            "full, ours": lambda: self.ours("full", self.fused),
            "full, plain": lambda: self.plain(self.fused.module.train().requires_grad_(True)),
            "lora q,v, ours": lambda: self.ours("lora-qkv", self.fused, **lora),
            "lora fused qkv, peft": lambda: self.plain(self.peft(self.fused.module, ["qkv"])),
            "lora q,v of Dinov2Model, ours": lambda: self.ours("lora-qkv", self.separate, **lora),
            "lora q,v of Dinov2Model, peft": lambda: self.plain(
                self.peft(self.separate.module, self.targets())
            ),
        }

    def cut(self) -> dict[str, Builder]:
        """The last four blocks, from their own input and from the images."""
        own = {"rank": RANK, "blocks": "last:4"}
        return {
            "last:4 from the cut": lambda: self.ours("adaptertune", self.fused, start="cut", **own),
            "last:4 from the images": lambda: self.ours("adaptertune", self.fused, **own),
            "last:4 with a graph from the images": lambda: self.ours(
                "adaptertune", self.fused, start="graph", **own
            ),
        }

    def adapted(self, name: str, backbone: Backbone, **settings: object) -> AdaptedClassifier:
        made = AdaptedClassifier(backbone, create(name, settings).plan(backbone, CLASSES))
        return made.to(self.device)

    def ours(
        self,
        name: str,
        backbone: Backbone,
        *,
        start: Literal["images", "cut", "graph"] = "images",
        **settings: object,
    ) -> Step:
        """A step of petiole's; ``graph`` keeps one from the images on, as a plain loop might."""
        adapted = self.adapted(name, backbone, **settings).train()
        optimizer = torch.optim.AdamW(adapted.parameters(), 1e-4, fused=True)
        state = {IMAGES: self.images.clone().requires_grad_(start == "graph")}
        if start == "cut":
            with autocast(self.device, self.precision):
                lower = backbone.lower(self.images, adapted.cut)
            state = {role: value.float() for role, value in lower.items()}

        def step() -> None:
            with adapted.attached():
                with autocast(self.device, self.precision):
                    logits = adapted(state).logits
                torch.autograd.backward(cross_entropy(logits.float(), self.labels))
            optimizer.step()
            optimizer.zero_grad()

        return step

    def peft(self, network: nn.Module, targets: list[str]) -> nn.Module:
        config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets)
        injected: nn.Module = peft.get_peft_model(network, config).base_model.model
        return injected.train()

    def targets(self) -> list[str]:
        paths = {id(module): path for path, module in self.separate.module.named_modules()}
        roles = [f"block.{i}.attn.{name}" for i in range(12) for name in ("q", "v")]
        return [paths[id(self.separate.site(role).module)] for role in roles]

    def plain(self, network: nn.Module) -> Step:
        """A step as written without petiole."""
        head = nn.Linear(384, CLASSES, device=self.device)
        trained = [p for p in [*network.parameters(), *head.parameters()] if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, 1e-4, fused=True)

        def step() -> None:
            with autocast(self.device, self.precision):
                out = network(self.images)
                vector = out if isinstance(out, Tensor) else out.last_hidden_state[:, 0]
                logits = head(vector)
            torch.autograd.backward(cross_entropy(logits.float(), self.labels))
            optimizer.step()
            optimizer.zero_grad()

        return step

    def without_gradients(self, step: Step) -> Step:
        def run() -> None:
            with torch.no_grad(), autocast(self.device, self.precision):
                step()

        return run


GROUPS = {"forward": "bare", "training": "adaptertune r=16", "cut": "last:4 from the cut"}
"""What is timed together, and what the others are divided by."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--size", type=int, default=224)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--repeats", type=int, default=7)
    options.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    options.add_argument("--group", choices=GROUPS, help="one group only")
    options.add_argument("--rows", nargs="+", help="of the group, over the first of them")
    options.add_argument("--memory", help="of one step of the group, alone in this process")
    chosen = options.parse_args()
    if chosen.memory:
        print(json.dumps(memory(chosen)))
        return
    for group in [chosen.group] if chosen.group else GROUPS:
        # Each step on a network of its own: peft and full fine-tuning change theirs.
        rows = chosen.rows or list(builders(chosen, group))
        steps = {name: builders(chosen, group)[name]() for name in rows}
        times = interleaved(steps, chosen.repeats)
        unit = chosen.rows[0] if chosen.rows else GROUPS[group]
        for name, own in times.items():
            ratios = [a / b for a, b in zip(own, times[unit], strict=True)]
            row = {
                "group": group,
                "name": name,
                "seconds": spread(own),
                f"over {unit}": spread(ratios),
            }
            if group != "forward":
                row |= in_a_process_of_its_own(group, name)
            print(json.dumps(row), flush=True)


def builders(chosen: argparse.Namespace, group: str) -> dict[str, Builder]:
    torch.manual_seed(0)
    found: dict[str, Builder] = getattr(Bench(chosen.size, chosen.batch, chosen.precision), group)()
    return found


def interleaved(steps: dict[str, Step], repeats: int) -> dict[str, list[float]]:
    """Processor seconds of every step, round after round; the first round warms up and is dropped."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            times[name].append(time.process_time() - start)
    return {name: own[1:] for name, own in times.items()}


def spread(values: list[float]) -> list[float]:
    """Median, lowest, highest."""
    return [round(f(values), 4) for f in (statistics.median, min, max)]


def memory(chosen: argparse.Namespace) -> dict[str, float]:
    """Resident megabytes in the course of two steps, and of the libraries alone."""
    with peak_memory(CPU) as peak:
        libraries = peak()
    step = builders(chosen, chosen.group)[chosen.memory]()
    with peak_memory(CPU) as peak:
        step()
        step()
        return {"peak_mb": round(peak()), "libraries_mb": round(libraries)}


def in_a_process_of_its_own(group: str, name: str) -> dict[str, float]:
    command = [sys.executable, *sys.argv, "--group", group, "--memory", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
