"""How costs grow with images, classes, adapters and draws: processor seconds, in one figure, and the slopes.

    images     solving a head on N stored vectors of width 192 (made up), ten classes
    classes    the same with 16 vectors of each of C classes
    adapters   a batch of 32 images through a pool of A LoRA adapters on tiny-vit, each image its own while there are enough
    draws      petiole compare of the averaged ridge and the closed-form rows beside it, five shots of ten drawn classes

Medians of ``--repeats``; compare is done once. A slope is that of the last two points, log over log: 1 is linear.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/growth.py docs/growth.svg
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import petiole
from petiole.backbones.base import Backbone
from petiole.data.synthetic.scenes import write_task
from petiole.methods.registry import create
from petiole.tasks.classification.model import AdaptedClassifier

HEADS = ("averaged-ridge", "logistic-regression")
BATCH = 32
Line = dict[int, float]


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    """Of the processor, median."""
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def solving(backbone: Backbone, method: str, images: int, classes: int, repeats: int) -> float:
    """A head on made-up vectors of classes that overlap."""
    torch.manual_seed(0)
    labels = torch.arange(images) % classes
    x = torch.randn(classes, backbone.width)[labels] + 3 * torch.randn(images, backbone.width)
    head = AdaptedClassifier(backbone, create(method).plan(backbone, classes)).head
    ours = torch.ones(images, dtype=torch.bool)
    return seconds(lambda: head.solve(x, labels, ours), repeats)


def pooled(backbone: Backbone, counts: list[int], repeats: int) -> Line:
    """A batch through pools of ever more adapters."""
    pool, found = petiole.AdapterPool(backbone), {}
    images = torch.randn(BATCH, 3, *backbone.preprocessing.size)
    for count in counts:
        for i in range(len(pool.names), count):
            pool.add(str(i), AdaptedClassifier(backbone, create("lora-qkv").plan(backbone, 10)))
        step = max(1, count // BATCH)
        names = [str(i * step % count) for i in range(BATCH)]
        pool.mixed(images, names)
        found[count] = seconds(lambda names=names: pool.mixed(images, names), repeats)
    return found


def compared(counts: list[int]) -> Line:
    """Comparisons of ever more draws; features are stored before."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = write_task(root / "colours", "colours", train=20, test=20)
        for count in [1, *counts]:  # the first stores the features
            terms = {"shots": 5, "split_seeds": count, "cache_dir": root / "cache", "quiet": True}
            terms |= {"backbone": "petiole/tiny-clip", "methods": ["averaged-ridge"]}
            out = root / f"{len(list(root.iterdir()))}"
            found[count] = seconds(
                lambda terms=terms, out=out: petiole.compare(data, out=out, **terms)
            )
    return found


def slope(line: Line) -> float:
    """Of the last two points."""
    (n0, t0), (n1, t1) = list(line.items())[-2:]
    return math.log(t1 / t0) / math.log(n1 / n0)


def draw(panels: dict[str, dict[str, Line]], out: Path) -> None:
    """All panels side by side, all axes logarithmic, seconds to one scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.2), layout="constrained")
    places = figure.subplots(1, len(panels), sharey=True)
    places[0].set_ylabel("CPU seconds")
    for axes, (title, lines) in zip(places, panels.items(), strict=True):
        for name, line in lines.items():
            axes.loglog(list(line), list(line.values()), marker="o", label=name)
        axes.set_xlabel(title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(out, format="svg", metadata={"Date": None})


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("out", type=Path, help="the figure")
    options.add_argument("--images", type=int, nargs="+", default=[1000, 4000, 16000, 64000])
    options.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000])
    options.add_argument("--adapters", type=int, nargs="+", default=[1, 8, 64, 256, 1024])
    options.add_argument("--draws", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    options.add_argument("--repeats", type=int, default=3)
    chosen = options.parse_args()
    backbone, repeats = petiole.load("petiole/tiny-vit"), chosen.repeats
    panels = {
        "images": {
            m: {n: solving(backbone, m, n, 10, repeats) for n in chosen.images} for m in HEADS
        },
        "classes": {
            m: {c: solving(backbone, m, 16 * c, c, repeats) for c in chosen.classes} for m in HEADS
        },
        "adapters": {"LoRA, mixed batch": pooled(backbone, chosen.adapters, repeats)},
        "draws": {"compare": compared(chosen.draws)},
    }
    for title, lines in panels.items():
        for name, line in lines.items():
            points = ", ".join(f"{n:,}: {t:.3f}" for n, t in line.items())
            print(f"| {title} | {name} | {points} | {slope(line):.2f} |")
    draw(panels, chosen.out)


if __name__ == "__main__":
    main()
