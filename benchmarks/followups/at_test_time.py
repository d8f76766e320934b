"""Adapting at test time beside plain prediction: accuracy, paired by image, and CPU seconds an image, on petiole/tiny-clip.

Zero-shot on the held-out compositions of the synthetic scenes in styles that differ more or less from its training.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/followups/at_test_time.py OUT --images 3
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import petiole
from petiole.data.inputs import as_dataset
from petiole.methods.test_time.base import make_test_time
from petiole.metrics.paired import paired_by_image
from petiole.tasks.classification.adapter import ClassificationAdapter, logits_of
from petiole.tasks.classification.test_time import adapted_outputs

STYLES = ("noisy", "dark")
WAYS = ("lora-ttt", "affine", "tpt", "mta")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=3, help="of each of 40 classes")
    given = parser.parse_args()
    print(
        "| Style | Prediction | accuracy | difference | CPU s an image |\n|---|---|---:|---:|---:|"
    )
    for style in STYLES:
        folder = given.out / style
        if not folder.exists():
            petiole.synthesize(folder, task="compositions", style=style, train=1, test=given.images)
        run = given.out / f"{style}-zero-shot"
        if not run.exists():
            petiole.fit(
                folder / "train",
                test=folder / "test",
                backbone="petiole/tiny-clip",
                method="zero-shot",
                out=run,
                quiet=True,
            )
        adapter = ClassificationAdapter.load(run)
        data = as_dataset(folder / "test", classes=adapter.classes)
        labels, start = np.asarray(data.labels), time.process_time()
        plain = logits_of(adapter.adapted, data.samples).argmax(1).numpy() == labels
        seconds = (time.process_time() - start) / len(data)
        print(f"| {style} | plain | {100 * plain.mean():.1f} | – | {seconds:.3f} |", flush=True)
        for name in WAYS:
            start = time.process_time()
            found = adapted_outputs(adapter.adapted, data.samples, make_test_time(name), quiet=True)
            seconds = (time.process_time() - start) / len(data)
            right = found.logits.argmax(1).numpy() == labels
            pair = paired_by_image(right, plain)
            said = f"{100 * pair.difference:+.1f} [{100 * pair.low:.1f}, {100 * pair.high:.1f}]"
            print(
                f"| {style} | {name} | {100 * right.mean():.1f} | {said} | {seconds:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
