"""Teach, with a user who is always right: labels needed, and time from click to answer.

Labels: at every step the user labels the twelve images that are suggested, or twelve at random; the head is judged on a held-back
half. Reported is the first number of labels with which it has 95 % of the accuracy that all labels of the other half give.

    python benchmarks/teach.py labels digits                  # scikit-learn's 1,797 handwritten digits
    python benchmarks/teach.py labels photos/ more-photos/    # folders with one folder a class
    python benchmarks/teach.py time                           # 10,000 vectors of 192 numbers, processor time of one thread
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import petiole
from petiole.data.dataset import Dataset, Sample
from petiole.data.inputs import as_dataset
from petiole.data.typiclust import typiclust
from petiole.engine.feature_extractor import Features
from petiole.serving.teach.evidence import evidence
from petiole.serving.teach.label_log import LabelLog
from petiole.serving.teach.teacher import TYPICAL, Teacher

STEP, SEEDS = 12, 3


def vectors_of(
    name: str, backbone: Any, most: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    if name == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = [
            Image.fromarray((255 - 15.9 * x).astype(np.uint8)).resize((96, 96))
            for x in digits.images
        ]
        data = as_dataset((images, digits.target.tolist()), skip_bad=True)
    else:
        data = as_dataset(Path(name), skip_bad=True)
    if len(data) > most:
        data = data.select(np.sort(np.random.default_rng(0).permutation(len(data))[:most]))
    return Features(backbone, None, quiet=True).vectors(data), data.labels


def teacher_of(vectors: NDArray[np.float32], place: Path) -> Teacher:
    """A teacher without images."""
    teacher = Teacher.__new__(Teacher)
    ids = tuple(f"{i:06d}" for i in range(len(vectors)))
    teacher.data = Dataset("vectors", ("image",), tuple(Sample(Path(one), 0, one) for one in ids))
    teacher.log = LabelLog(place)
    teacher.vectors, teacher.row_of = (
        torch.from_numpy(vectors),
        {one: i for i, one in enumerate(ids)},
    )
    teacher._seen = None
    return teacher


def user(
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    held: NDArray[np.bool_],
    *,
    enough: float,
    seed: int,
    suggested: bool,
) -> int:
    """Labels until the accuracy on the held-back half is enough."""
    rng = np.random.default_rng(seed)
    pool, truth, own = x[~held], y[~held], torch.from_numpy(x[held])
    teacher = Teacher.__new__(Teacher)
    budget = min(TYPICAL, len(pool)) * suggested
    nothing = np.zeros(len(pool), dtype=bool)
    teacher.typical = [c.row for c in typiclust(pool, nothing, budget, seed)] if budget else []
    labelled, p = nothing.copy(), None
    while not labelled.all():
        free = np.flatnonzero(~labelled)
        chosen = (
            teacher.suggested(~labelled, p, STEP) if suggested else rng.permutation(free)[:STEP]
        )
        labelled[chosen] = True
        rows = np.flatnonzero(labelled)
        names, labels = np.unique(truth[rows], return_inverse=True)
        found = evidence(torch.from_numpy(pool), rows, labels)
        p = found.probabilities
        if found.head is not None:
            guesses = names[found.head(own).argmax(-1).numpy()]
            if (guesses == y[held]).mean() >= enough:
                break
    return int(labelled.sum())


def everything(x: NDArray[np.float32], y: NDArray[np.int64], held: NDArray[np.bool_]) -> float:
    rows = np.flatnonzero(~held)
    found = evidence(torch.from_numpy(x[~held]), np.arange(len(rows)), y[rows])
    return float((found.head(torch.from_numpy(x[held])).argmax(-1).numpy() == y[held]).mean())


def labels(name: str, backbone: str, most: int) -> dict[str, Any]:
    x, y = vectors_of(name, petiole.load(backbone), most)
    needed: dict[str, list[int]] = {"suggested": [], "random": []}
    best = []
    for seed in range(SEEDS):
        held = np.random.default_rng(100 + seed).random(len(y)) < 0.5
        best.append(everything(x, y, held))
        for way, counts in needed.items():
            enough, suggested = 0.95 * best[-1], way == "suggested"
            counts.append(user(x, y, held, enough=enough, seed=seed, suggested=suggested))
    return {
        "data": name,
        "backbone": backbone,
        "images": len(y),
        "classes": int(y.max()) + 1,
        "accuracy_with_all": best,
        **needed,
    }


def times() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    n, classes = 10_000, 10
    truth = rng.integers(0, classes, n)
    vectors = (
        rng.standard_normal((classes, 192))[truth] + 1.5 * rng.standard_normal((n, 192))
    ).astype(np.float32)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for count in (20, 100, 500, 1000):
            teacher = teacher_of(vectors, Path(place, str(count)))
            teacher.typical = []
            taken = []
            for label in range(classes):
                if ids := [f"{i:06d}" for i in range(count) if truth[i] == label]:
                    teacher.log.give(ids, f"class {label}")
            for click in range(15):
                start = time.process_time()
                teacher.log.give([f"{count + click:06d}"], f"class {truth[count + click]}")
                teacher.state()
                taken.append(1000 * (time.process_time() - start))
            rows.append(
                {"images": n, "labels": count, "p50": float(np.median(taken)), "most": max(taken)}
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["labels", "time"])
    parser.add_argument("data", nargs="*")
    parser.add_argument("--backbone", default="petiole/tiny-vit")
    parser.add_argument("--most", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "time":
        for row in times():
            print(json.dumps(row), flush=True)
    for name in arguments.data:
        print(json.dumps(labels(name, arguments.backbone, arguments.most)), flush=True)


if __name__ == "__main__":
    main()
