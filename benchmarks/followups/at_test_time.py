"""Adapting at test time beside plain prediction: accuracy, paired by image, and CPU seconds an image.

Zero-shot: on the held-out compositions of the synthetic scenes in styles that differ more or less from the training of petiole/tiny-clip, or with
--data on images of one's own, as they are and corrupted (ImageNet-C, severity 3). Verdicts stand Holm's correction over the ways of one block.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/followups/at_test_time.py OUT --images 3
    ... python benchmarks/followups/at_test_time.py OUT --data FOLDER --backbone PAIR --corrupt none gaussian_noise --images 10
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL.Image import Image

import petiole
from petiole.data.corruptions import corruption
from petiole.data.inputs import as_dataset
from petiole.methods.test_time.base import make_test_time
from petiole.metrics.paired import holm, paired_by_image, verdict
from petiole.tasks.classification.adapter import ClassificationAdapter, logits_of
from petiole.tasks.classification.test_time import adapted_outputs

STYLES = ("noisy", "dark")
WAYS = ("lora-ttt", "affine", "tpt", "mta")
NONE = "none"
Change = Callable[[Image], Image]


def as_it_is(image: Image) -> Image:
    """The same image."""
    return image


def blocks(given: argparse.Namespace) -> Iterator[tuple[str, Path, Change]]:
    """What is measured: a name, a folder with train/ and test/, and what is done to an image first."""
    if given.data:
        for name in given.corrupt:
            yield name, given.data, as_it_is if name == NONE else corruption(name)
        return
    for style in STYLES:
        folder = given.out / style
        if not folder.exists():
            petiole.synthesize(folder, task="compositions", style=style, train=1, test=given.images)
        yield style, folder, as_it_is


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=3, help="of each class")
    parser.add_argument("--backbone", default="petiole/tiny-clip")
    parser.add_argument("--data", type=Path, help="with train/ and test/, instead of scenes")
    parser.add_argument("--corrupt", nargs="+", default=[NONE], help="of the images of --data")
    given = parser.parse_args()
    print(
        "| Images | Prediction | accuracy | difference | Verdict | CPU s an image |\n|---|---|---:|---:|---|---:|"
    )
    for block, folder, change in blocks(given):
        run = given.out / f"{folder.name}-zero-shot"
        if not run.exists():
            petiole.fit(
                folder / "train",
                test=folder / "test",
                backbone=given.backbone,
                method="zero-shot",
                out=run,
                quiet=True,
            )
        adapter = ClassificationAdapter.load(run)
        places = sorted((folder / "test").iterdir())
        files = {place.name: sorted(place.iterdir())[: given.images] for place in places}
        data = as_dataset(files, classes=adapter.classes)
        labels, start = np.asarray(data.labels), time.process_time()
        found = logits_of(adapter.adapted, data.samples, change=change)
        plain = found.argmax(1).numpy() == labels
        seconds = (time.process_time() - start) / len(data)
        print(f"| {block} | plain | {100 * plain.mean():.1f} | – | reference | {seconds:.3f} |")
        pairs, rows = [], []
        for name in WAYS:
            start, way = time.process_time(), make_test_time(name)
            logits = adapted_outputs(adapter.adapted, data.samples, way, change, quiet=True).logits
            seconds = (time.process_time() - start) / len(data)
            right = logits.argmax(1).numpy() == labels
            pairs.append(paired_by_image(right, plain))
            rows.append((name, 100 * right.mean(), seconds))
        adjusted = holm([pair.p for pair in pairs])
        for (name, accuracy, seconds), pair, p in zip(rows, pairs, adjusted, strict=True):
            said = f"{100 * pair.difference:+.1f} [{100 * pair.low:.1f}, {100 * pair.high:.1f}]"
            judged = verdict(pair.low, pair.high, p)
            print(
                f"| {block} | {name} | {accuracy:.1f} | {said} | {judged} | {seconds:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
