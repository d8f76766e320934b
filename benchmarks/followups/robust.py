"""Accuracy under attack of CLIP-LoRA trained on clean and on attacked images (AdvCLIP-LoRA).

On petiole/tiny-clip: forty compositions of the synthetic scenes that its training had not seen, 8 images each, 5 to score. With --data on images of
one's own. Every row three seeds, differences paired by seed. ``twice`` has the steps that AdvCLIP-LoRA's two gradients a step cost.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/followups/robust.py OUT --steps 100
    ... python benchmarks/followups/robust.py OUT --steps 30 --data FOLDER --backbone PAIR
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import petiole
from petiole.metrics.paired import paired_by_seed

SEEDS, TEST = 3, 5
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
) -> list[float]:
    """Clean accuracy, and that under each attack."""
    out, data = given.out, given.data
    words = [method, *map(str, settings.values()), str(seed)]
    folder = out / "-".join(words).replace("/", "_")
    kept = folder.with_suffix(".json")
    if kept.exists():
        return list(json.loads(kept.read_text()))
    if not (folder / "record.json").exists():
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
    places = sorted((data / "test").iterdir())
    test = {place.name: sorted(place.iterdir())[: given.images] for place in places}
    found = []
    for attack, epsilon in map(str.split, given.attacks):
        scores = petiole.evaluate(folder, test, attack=attack, epsilon=epsilon).scores
        clean = scores["test"]["accuracy"]
        found.append(scores[f"{attack}, {epsilon}"]["accuracy"])
    kept.write_text(json.dumps([clean, *found]))
    return [clean, *found]


def difference(own: Sequence[float], other: Sequence[float]) -> str:
    """Of two rows in one column, with its interval over seeds."""
    found = paired_by_seed(own, other)
    if not any(a - b for a, b in zip(own, other, strict=True)):
        return "0.0"
    return f"{100 * found.difference:+.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=100, help="of every row but twice")
    parser.add_argument("--backbone", default="petiole/tiny-clip")
    parser.add_argument("--data", type=Path, help="with train/ and test/, instead of scenes")
    parser.add_argument("--images", type=int, help="of a class to be attacked; all by default")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--attacks", nargs="+", default=ATTACKS, help='such as "pgd 1/255"')
    given = parser.parse_args()
    if given.data is None:
        given.data = given.out / "compositions"
        if not given.data.exists():
            petiole.synthesize(given.data, task="compositions", train=8, test=TEST)
    columns = ["clean", *map(str.upper, given.attacks)]
    runs: dict[str, list[list[float]]] = {name: [] for name in given.rows}
    for name in given.rows:
        method, settings = ROWS[name]
        for seed in range(SEEDS):
            length = given.steps * (2 if name == TWICE else 1)
            runs[name].append(measured(given, method, {**settings, "steps": length}, seed))
            print(seed, name, runs[name][-1], flush=True)
    of = {name: list(zip(*found, strict=True)) for name, found in runs.items()}
    print("\n| Method |", " | ".join(columns), "|\n|---|" + "---:|" * len(columns))
    for name, found in of.items():
        print(f"| {name} |", " | ".join(f"{100 * sum(c) / SEEDS:.1f}" for c in found), "|")
    print("\n| Difference |", " | ".join(columns), "|\n|---|" + "---:|" * len(columns))
    for name, other in ((a, b) for a, b in PAIRS if {a, b} <= runs.keys()):
        cells = [difference(*pair) for pair in zip(of[name], of[other], strict=True)]
        print(f"| {name} − {other} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
