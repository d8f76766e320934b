"""Accuracy under attack of CLIP-LoRA trained on clean and on attacked images (AdvCLIP-LoRA).

On petiole/tiny-clip: forty compositions of the synthetic scenes that its training had not seen, 8 images each, 5 to score. With --data on images of
one's own. Differences are given paired by seed, and paired by image with seeds and images resampled together; the verdicts are
of the second, with Holm's correction over all of a column. ``twice`` has the steps that AdvCLIP-LoRA's two gradients a step cost. Runs and answers are
kept in OUT, and not made again.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/followups/robust.py OUT --steps 100
    ... python benchmarks/followups/robust.py OUT --steps 30 --data FOLDER --backbone PAIR
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from kept import kept
from numpy.typing import NDArray

import petiole
from petiole.data.dataset import Dataset
from petiole.data.inputs import as_dataset
from petiole.engine.record import read_record
from petiole.files import text_digest
from petiole.methods.adversary import attack, radius
from petiole.metrics.paired import holm, paired_by_seed, paired_hierarchical, verdict
from petiole.tasks.classification.adapter import ClassificationAdapter, logits_of
from petiole.tasks.classification.robustness import logits_under_attack

TEST = 5
ATTACKS = ("fgsm 1/255", "pgd 1/255", "pgd 2/255")
SHARED = {"lr": 1e-3, "batch_size": 16, "views": 0}
HOST, TWICE, OWN = "CLIP-LoRA", "CLIP-LoRA, twice the steps", "AdvCLIP-LoRA, shared, 10/255"
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    HOST: ("clip-lora", {}),
    TWICE: ("clip-lora", {}),
    OWN: ("advclip-lora", {}),
    "each image, 10/255": ("advclip-lora", {"perturbation": "each"}),
    "each image, 2/255": ("advclip-lora", {"perturbation": "each", "attack_epsilon": "2/255"}),
    "AdvCLIP-LoRA, shared, 10/255, as in the code": ("advclip-lora", {"compat": True}),
}
PAIRS = (
    *((name, HOST) for name in ROWS if name != HOST),
    *((name, TWICE) for name in ROWS if name not in (HOST, TWICE)),
    *((name, OWN) for name in ROWS if name.startswith("each image")),
)
"""(row, the row that it is compared with)."""


def measured(
    given: argparse.Namespace, method: str, settings: Mapping[str, Any], seed: int
) -> list[list[int]]:
    """Which images are predicted right, one of 0 and 1 each: clean, and under each attack."""
    data = given.data
    words = [method, *map(str, settings.values()), str(seed)]
    place = text_digest(f"{given.backbone} {data.absolute()}")[:8]
    folder = given.out / "-".join([*words, place]).replace("/", "_")
    # A finished run is returned as it is, and refused where backbone, images or settings differ.
    petiole.fit(
        data / "train",
        test=data / "test",
        backbone=given.backbone,
        method=method,
        settings={**SHARED, **settings},
        seed=seed,
        out=folder,
        resume=folder.exists(),
        quiet=True,
    )
    adapter = ClassificationAdapter.load(folder)
    places = sorted((data / given.attacked).iterdir())
    files = {place.name: sorted(place.iterdir())[: given.images] for place in places}
    images = as_dataset(files, classes=adapter.classes)
    run = read_record(folder).id
    return [
        kept(
            given.out / "kept",
            {"run": run, "images": images.digest(), "attack": said},
            partial(answers, adapter, images, said),
        )["right"]
        for said in ("", *given.attacks)
    ]


def answers(adapter: ClassificationAdapter, images: Dataset, said: str) -> dict[str, Any]:
    """Whether each image is predicted right, under an attack such as "pgd 1/255" or, where it is empty, as it is."""
    if said:
        name, epsilon = said.split()
        adversary, within = attack(name), radius(epsilon, "--attacks")
        logits = logits_under_attack(adapter.adapted, images, adversary, within, quiet=True)
    else:
        logits = logits_of(adapter.adapted, images.samples)
    right: NDArray[np.int64] = (logits.argmax(1).numpy() == np.asarray(images.labels)).astype(int)
    return {"right": right.tolist()}


def difference(own: Sequence[float], other: Sequence[float]) -> str:
    """Of two rows in one column, with its interval over seeds."""
    found = paired_by_seed(own, other)
    if not any(a - b for a, b in zip(own, other, strict=True)):
        return "0.0"
    return f"{100 * found.difference:+.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def judged(of: Mapping[str, NDArray[np.int64]], columns: Sequence[str]) -> None:
    """Print the differences of rows (seeds, columns, images), paired by image."""
    pairs = [pair for pair in PAIRS if set(pair) <= of.keys()]
    print("\n| Difference, paired by image | points | Verdict |\n|---|---:|---|")
    for i, column in enumerate(columns):
        tests = [paired_hierarchical(of[a][:, i], of[b][:, i]) for a, b in pairs]
        for (name, other), test, p in zip(pairs, tests, holm([t.p for t in tests]), strict=True):
            said = f"{100 * test.difference:+.1f} [{100 * test.low:.1f}, {100 * test.high:.1f}]"
            print(f"| {name} − {other}, {column} | {said} | {verdict(test.low, test.high, p)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=100, help="of every row but twice")
    parser.add_argument("--backbone", default="petiole/tiny-clip")
    parser.add_argument("--data", type=Path, help="with train/ and test/, instead of scenes")
    parser.add_argument("--attacked", default="test", help="folder of --data that is attacked")
    parser.add_argument("--images", type=int, help="of a class to be attacked; all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--attacks", nargs="+", default=ATTACKS, help='such as "pgd 1/255"')
    given = parser.parse_args()
    if given.data is None:
        given.data = given.out / "compositions"
        if not given.data.exists():
            petiole.synthesize(given.data, task="compositions", train=8, test=TEST)
    columns = ["clean", *map(str.upper, given.attacks)]
    of: dict[str, NDArray[np.int64]] = {}
    for name in given.rows:
        method, settings = ROWS[name]
        length = given.steps * (2 if name == TWICE else 1)
        runs = []
        for seed in range(given.seeds):
            runs.append(measured(given, method, {**settings, "steps": length}, seed))
            print(seed, name, [round(float(np.mean(c)), 3) for c in runs[-1]], flush=True)
        of[name] = np.array(runs)
    by_seed = {name: rows.mean(-1).T for name, rows in of.items()}
    print("\n| Method |", " | ".join(columns), "|\n|---|" + "---:|" * len(columns))
    for name, found in by_seed.items():
        print(f"| {name} |", " | ".join(f"{100 * c.mean():.1f}" for c in found), "|")
    if given.seeds == 1:
        return
    print("\n| Difference, by seed |", " | ".join(columns), "|\n|---|" + "---:|" * len(columns))
    for name, other in ((a, b) for a, b in PAIRS if {a, b} <= of.keys()):
        cells = [difference(*pair) for pair in zip(by_seed[name], by_seed[other], strict=True)]
        print(f"| {name} − {other} |", " | ".join(cells), "|")
    judged(of, columns)


if __name__ == "__main__":
    main()
