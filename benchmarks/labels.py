"""Which images to label: typical ones against a random choice, and against k a class, which needs the labels it chooses.

Half of each data set is held back. From the other half so many images are chosen as there are classes, times 1, 2, 5
and 10; a ridge head on the frozen vectors learns from their labels and is scored on the held-back half.

    random         uniformly, as a person would who has not looked at the images
    typiclust      what petiole label chooses
    k a class      equally many of each class, as few-shot tables do

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/labels.py photos/ digits
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from frozen_vectors import Vectors, options, vectors
from petiole.backbones.registry import load_backbone
from petiole.data.typiclust import typiclust
from petiole.layers.ridge import RidgeHead
from petiole.metrics.statistics import t_interval

BUDGETS = (1, 2, 5, 10)
Rows = NDArray[np.int64]


def random(pool: Vectors, budget: int, seed: int) -> Rows:
    return np.random.default_rng([seed, 1]).choice(len(pool.y), budget, replace=False)


def typical(pool: Vectors, budget: int, seed: int) -> Rows:
    found = typiclust(pool.x, np.zeros(len(pool.y), dtype=bool), budget, seed)
    return np.array([one.row for one in found])


def by_class(pool: Vectors, budget: int, seed: int) -> Rows:
    rng, each = np.random.default_rng([seed, 2]), budget // pool.classes
    rows = (np.flatnonzero(pool.y == c) for c in range(pool.classes))
    return np.concatenate([rng.choice(r, min(each, len(r)), replace=False) for r in rows])


WAYS: dict[str, Callable[[Vectors, int, int], Rows]] = {
    "random": random,
    "typiclust": typical,
    "k a class": by_class,
}


def accuracy(pool: Vectors, rows: Rows, test: Vectors) -> float:
    head = RidgeHead(pool.x.shape[1], pool.classes)
    x, y = torch.from_numpy(pool.x[rows]), torch.from_numpy(pool.y[rows])
    head.solve(x, y, torch.ones(len(rows), dtype=torch.bool))
    return float((head(torch.from_numpy(test.x)).argmax(1).numpy() == test.y).mean())


def halves(data: Vectors, seed: int) -> tuple[Vectors, Vectors]:
    """Pool and test."""
    inside = np.zeros(len(data.y), dtype=bool)
    chosen = np.random.default_rng([seed, 0]).permutation(len(data.y))[: len(data.y) // 2]
    inside[chosen] = True
    pool, test = (Vectors(data.name, data.x[m], data.y[m]) for m in (inside, ~inside))
    return pool, test


def main() -> None:
    given = options(__doc__ or "").parse_args()
    backbone = load_backbone(given.backbone)
    print(
        "| data | labels | random | typiclust | k a class | typiclust − random | k a class − random |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    gains: dict[str, list[list[float]]] = {"typiclust": [], "k a class": []}
    for name in given.data:
        data = vectors(name, backbone, given.most)
        for times in BUDGETS:
            budget = times * data.classes
            found: dict[str, list[float]] = {way: [] for way in WAYS}
            for seed in range(given.draws):
                pool, test = halves(data, seed)
                for way, choose in WAYS.items():
                    found[way].append(accuracy(pool, choose(pool, budget, seed), test))
            cells = [f"{100 * np.mean(scores):.1f}" for scores in found.values()]
            for way, table in gains.items():
                table.append([a - b for a, b in zip(found[way], found["random"], strict=True)])
                gain = t_interval(table[-1])
                low, high = 100 * gain.low, 100 * gain.high
                cells.append(f"{100 * gain.mean:+.1f} [{low:+.1f}, {high:+.1f}]")
            print(f"| {data.name} | {times} × {data.classes} | {' | '.join(cells)} |")
    for way, table in gains.items():
        over = t_interval(np.mean(table, axis=0))  # the draw is the unit
        print(f"\n{way} − random, mean over rows: {over.format()} points over {given.draws} draws")


if __name__ == "__main__":
    main()
