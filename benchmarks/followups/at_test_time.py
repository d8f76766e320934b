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
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kept import kept
from PIL.Image import Image
from torch import Tensor

import petiole
from petiole.backbones.base import Backbone, State
from petiole.backbones.frozen_network import IMAGES
from petiole.data.corruptions import corruption
from petiole.data.dataset import Dataset, Sample
from petiole.data.inputs import as_dataset
from petiole.engine.record import read_record
from petiole.methods.test_time.base import make_test_time
from petiole.metrics.paired import holm, paired_by_image, verdict
from petiole.tasks.classification.adapter import ClassificationAdapter, logits_of
from petiole.tasks.classification.test_time import adapted_outputs

STYLES = ("noisy", "dark")
WAYS = ("lora-ttt", "affine", "tpt", "mta")
NONE, PLAIN = "none", "plain"
AT_ONCE, TIMED = 4, 8
"""Images that are adapted together, and those that a way is timed on."""
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


class Shared:
    """Runs the frozen half below all ways once for the same images.

    Args:
        backbone: whose ``lower`` this stands in for.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.lower, self.places = backbone.lower, (IMAGES, *backbone.cuts, *backbone.finals)
        self.known: list[tuple[Tensor, State]] = []

    def __call__(self, images: Tensor, cut: Sequence[str]) -> State:
        """What ``lower`` gives, or what it gave before for these images at the nearest place below."""
        above = self.places.index(cut[0])
        for seen, state in self.known:
            below = 0 < self.places.index(next(iter(state))) <= above
            if below and seen.shape == images.shape and torch.equal(seen, images):
                return dict(state)
        state = self.lower(images, cut)
        self.known = [(images, state), *self.known[:3]]
        return dict(state)


def answered(
    adapter: ClassificationAdapter, data: Dataset, change: Change, ways: Sequence[str], views: int
) -> dict[str, Any]:
    """By way, and plainly: which images are predicted right, one of 0 and 1 each, and CPU seconds an image.

    Seconds are those of a way alone, on the first images; what the ways have in common is computed once for the answers.
    """
    adapted, labels = adapter.adapted, np.asarray(data.labels)
    methods = {way: make_test_time(way, {"views": views}) for way in ways}
    found = {PLAIN: _measured(lambda refs: logits_of(adapted, refs, change=change), data.samples)}
    own = adapted.backbone.lower
    for way, method in methods.items():
        adapted_outputs(
            adapted, data.samples[:AT_ONCE], method, change, quiet=True
        )  # what is set up once
        run = partial(adapted_outputs, adapted, method=method, change=change, quiet=True)
        found[way] = _measured(lambda refs, run=run: run(refs).logits, data.samples[:TIMED])  # type: ignore[misc]
    rows: dict[str, list[Tensor]] = {way: [] for way in ways}
    adapted.backbone.lower = Shared(adapted.backbone)  # type: ignore[method-assign]
    for start in range(0, len(data), AT_ONCE):
        part = data.samples[start : start + AT_ONCE]
        for way, method in methods.items():
            rows[way].append(adapted_outputs(adapted, part, method, change, quiet=True).logits)
    adapted.backbone.lower = own  # type: ignore[method-assign]
    logits = {way: torch.cat(parts) for way, parts in rows.items()}
    for way in ways:
        alone = found[way].pop("logits")
        assert torch.equal(alone, logits[way][: len(alone)]), way
    logits[PLAIN] = found[PLAIN].pop("logits")
    for way, values in logits.items():
        found[way]["right"] = (values.argmax(1).numpy() == labels).astype(int).tolist()
    return found


def _measured(
    predict: Callable[[Sequence[Sample]], Tensor], samples: Sequence[Sample]
) -> dict[str, Any]:
    start = time.process_time()
    logits = predict(samples)
    return {"logits": logits, "seconds": (time.process_time() - start) / len(samples)}


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
        asked = {
            "run": read_record(run).id,
            "images": data.digest(),
            "changed": block,
            "ways": given.ways,
            "views": given.views,
        }
        measure = partial(answered, adapter, data, change, given.ways, given.views)
        found = kept(given.out / "kept", asked, measure)
        plain = found.pop(PLAIN)
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
