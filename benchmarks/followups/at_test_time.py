"""Adapting at test time beside plain prediction: accuracy, paired by image, and CPU seconds an image.

Zero-shot: on the held-out compositions of the synthetic scenes in styles that differ more or less from the training of petiole/tiny-clip, or with
--data on images of one's own, as they are and corrupted (ImageNet-C, severity 3). Verdicts stand Holm's correction over the ways of one block. What
was measured is kept in OUT/kept, and not measured again.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/followups/at_test_time.py OUT --images 3
    ... python benchmarks/followups/at_test_time.py OUT --data FOLDER --backbone PAIR --corrupt none gaussian_noise --images 10
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from kept import kept
from PIL.Image import Image

import petiole
from petiole.data.corruptions import corruption
from petiole.data.dataset import Dataset
from petiole.data.inputs import as_dataset
from petiole.engine.record import read_record
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


def answered(
    adapter: ClassificationAdapter, data: Dataset, change: Change, way: str, views: int
) -> dict[str, Any]:
    """Which images are predicted right, one of 0 and 1 each, and CPU seconds an image; without a way as the adapter is."""
    start = time.process_time()
    if way:
        method = make_test_time(way, {"views": views})
        logits = adapted_outputs(adapter.adapted, data.samples, method, change, quiet=True).logits
    else:
        logits = logits_of(adapter.adapted, data.samples, change=change)
    right = logits.argmax(1).numpy() == np.asarray(data.labels)
    return {
        "right": right.astype(int).tolist(),
        "seconds": (time.process_time() - start) / len(data),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=3, help="of each class")
    parser.add_argument("--backbone", default="petiole/tiny-clip")
    parser.add_argument("--data", type=Path, help="with train/ and test/, instead of scenes")
    parser.add_argument("--corrupt", nargs="+", default=[NONE], help="of the images of --data")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--views", type=int, default=64, help="of each image")
    given = parser.parse_args()
    print(
        "| Images | Prediction | accuracy | difference | Verdict | CPU s an image |\n|---|---|---:|---:|---|---:|"
    )
    for block, folder, change in blocks(given):
        run = given.out / f"{folder.name}-zero-shot"
        petiole.fit(
            folder / "train",
            test=folder / "test",
            backbone=given.backbone,
            method="zero-shot",
            out=run,
            resume=run.exists(),
            quiet=True,
        )
        adapter = ClassificationAdapter.load(run)
        places = sorted((folder / "test").iterdir())
        files = {place.name: sorted(place.iterdir())[: given.images] for place in places}
        data = as_dataset(files, classes=adapter.classes)
        found = {}
        for way in ("", *given.ways):
            asked = {
                "run": read_record(run).id,
                "images": data.digest(),
                "changed": block,
                "way": way,
                "views": given.views if way else 1,
            }
            found[way] = kept(
                given.out / "kept",
                asked,
                partial(answered, adapter, data, change, way, given.views),
            )
        plain = found.pop("")
        print(
            f"| {block} | plain | {100 * np.mean(plain['right']):.1f} | – | reference | {plain['seconds']:.3f} |"
        )
        pairs = [paired_by_image(row["right"], plain["right"]) for row in found.values()]
        adjusted = holm([pair.p for pair in pairs])
        for (name, row), pair, p in zip(found.items(), pairs, adjusted, strict=True):
            said = f"{100 * pair.difference:+.1f} [{100 * pair.low:.1f}, {100 * pair.high:.1f}]"
            judged = verdict(pair.low, pair.high, p)
            print(
                f"| {block} | {name} | {100 * np.mean(row['right']):.1f} | {said} | {judged} | {row['seconds']:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
