"""Whether many runs of one table should train as one program: a step of S runs one after the other, and stacked.

Stacked, the parameters of the runs have a leading axis and one step is a vmap of the loss over it (torch.func); each run keeps
its own batches. Decay of vectors is not kept apart, which costs nothing. Dropout is off, for a stacked run could not draw the masks that it draws alone. 1,000 made-up vectors of width
1,280 in ten classes, batches of 120; processor milliseconds a run and step, medians of steps in turn.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/stacked_runs.py --methods linear-probe cls-residual-lora
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

import petiole
from petiole.data.dataset import Dataset, Sample
from petiole.engine.optimizer import make_optimizer
from petiole.methods.registry import create
from petiole.tasks.classification.model import AdaptedClassifier, ClassificationLoss
from petiole.tasks.classification.sampler import Sampler
from petiole.tasks.classification.training import labels_of

CLASSES, WIDTH = 10, 1280


class Runs:
    """S runs of one method that differ by their seeds, both ways."""

    def __init__(self, method: str, count: int) -> None:
        self.backbone = petiole.load("petiole/efficientnet-lite0")
        self.chosen = create(method, {"adapter_dropout": 0.0})
        data = dataset()
        self.vectors = torch.randn(self.chosen.recipe.views + 1, len(data), WIDTH)
        self.labels, self.is_target = labels_of(data)
        self.samplers = [Sampler(data, self.chosen.recipe, seed) for seed in range(count)]
        self.single = [self.loss(seed) for seed in range(count)]
        self.optimizers = [make_optimizer(one, self.chosen.recipe) for one in self.single]
        stacked, self.buffers = stack_module_state(self.single)
        self.names = {name.replace(".", "/"): name for name in stacked}
        self.together = nn.ParameterDict(
            {name: nn.Parameter(stacked[path].detach()) for name, path in self.names.items()}
        )
        self.optimizer = make_optimizer(self.together, self.chosen.recipe)
        base = self.loss(0)

        def loss(own: dict[str, Tensor], buffers: dict[str, Tensor], *batch: Tensor) -> Tensor:
            state = {self.backbone.vector: batch[0]}
            value: Tensor = functional_call(base, (own, buffers), (state, *batch[1:]))
            return value

        self.losses = vmap(loss)

    def loss(self, seed: int) -> ClassificationLoss:
        torch.manual_seed(seed)
        adapted = AdaptedClassifier(self.backbone, self.chosen.plan(self.backbone, CLASSES))
        return ClassificationLoss(adapted, self.chosen.recipe.target_weight, 0.0).train()

    def one_after_the_other(self, step: int) -> None:
        for loss, optimizer, sampler in zip(
            self.single, self.optimizers, self.samplers, strict=True
        ):
            rows, views = sampler(step)
            state = {self.backbone.vector: self.vectors[views, rows]}
            loss(state, self.labels[rows], self.is_target[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()

    def stacked(self, step: int) -> None:
        rows, views = map(torch.stack, zip(*(draw(step) for draw in self.samplers), strict=True))
        own = {path: self.together[name] for name, path in self.names.items()}
        batch = self.vectors[views, rows], self.labels[rows], self.is_target[rows]
        self.losses(own, self.buffers, *batch).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def dataset() -> Dataset:
    """Ten classes of 90 source and 10 target images."""
    samples = [
        Sample(Path(f"{label}/{i}"), label, f"{label}-{i}", "source" if i < 90 else "target")
        for label in range(CLASSES)
        for i in range(100)
    ]
    return Dataset("made up", tuple(map(str, range(CLASSES))), tuple(samples))


def milliseconds(step: Callable[[int], None], index: int, runs: int) -> float:
    start = time.process_time()
    step(index)
    return 1000 * (time.process_time() - start) / runs


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--methods", nargs="+", default=["linear-probe", "cls-residual-lora"])
    options.add_argument("--runs", type=int, default=10)
    options.add_argument("--steps", type=int, default=40)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    print("| method | one after the other, ms | stacked, ms | gain |\n|---|---:|---:|---:|")
    for method in chosen.methods:
        runs = Runs(method, chosen.runs)
        apart, stacked = [], []
        for step in range(chosen.steps + 3):  # the first three warm up
            apart.append(milliseconds(runs.one_after_the_other, step, chosen.runs))
            stacked.append(milliseconds(runs.stacked, step, chosen.runs))
        a, b = (statistics.median(times[3:]) for times in (apart, stacked))
        print(f"| {method} | {a:.2f} | {b:.2f} | {a / b:.2f} |", flush=True)


if __name__ == "__main__":
    main()
