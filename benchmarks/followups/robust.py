"""Accuracy under attack of CLIP-LoRA trained on clean and on attacked images (AdvCLIP-LoRA), on petiole/tiny-clip.

Forty compositions of the synthetic scenes that its training had not seen, 8 images each, 3 to score; every row three seeds, its difference from CLIP-LoRA paired by seed. ``twice`` has the steps that
AdvCLIP-LoRA's two gradients a step cost.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/followups/robust.py OUT
"""

from __future__ import annotations

import argparse
from pathlib import Path

import petiole
from petiole.metrics.paired import paired_by_seed

STEPS, SEEDS = 20, 3
ATTACKS = (("fgsm", "1/255"), ("pgd", "1/255"), ("pgd", "2/255"))
SHARED = {"steps": STEPS, "lr": 1e-3, "batch_size": 16, "views": 0}
ROWS = {
    "CLIP-LoRA": ("clip-lora", {}),
    "CLIP-LoRA, twice the steps": ("clip-lora", {"steps": 2 * STEPS}),
    "AdvCLIP-LoRA, shared": ("advclip-lora", {}),
    "AdvCLIP-LoRA, shared, as in the code": ("advclip-lora", {"compat": True}),
    "AdvCLIP-LoRA, each image": (
        "advclip-lora",
        {"perturbation": "each", "attack_epsilon": "2/255"},
    ),
}


def measured(out: Path, method: str, settings: dict[str, object], seed: int) -> list[float]:
    """Clean accuracy, and that under each attack."""
    folder = out / f"{method}-{'-'.join(map(str, settings.values())).replace('/', '_')}-{seed}"
    if not folder.exists():
        petiole.fit(
            out / "compositions/train",
            test=out / "compositions/test",
            backbone="petiole/tiny-clip",
            method=method,
            settings={**SHARED, **settings},
            seed=seed,
            out=folder,
            quiet=True,
        )
    test, found = out / "compositions/test", []
    for attack, epsilon in ATTACKS:
        scores = petiole.evaluate(folder, test, attack=attack, epsilon=epsilon).scores
        clean = scores["test"]["accuracy"]
        found.append(scores[f"{attack}, {epsilon}"]["accuracy"])
    return [clean, *found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    if not (out / "compositions").exists():
        petiole.synthesize(out / "compositions", task="compositions", train=8, test=3)
    columns = ["clean", *(f"{attack.upper()} {epsilon}" for attack, epsilon in ATTACKS)]
    print("| Method |", " | ".join(columns), "|\n|---|" + "---:|" * len(columns))
    host: list[list[float]] = []
    for label, (method, settings) in ROWS.items():
        runs = [measured(out, method, settings, seed) for seed in range(SEEDS)]
        host = host or runs
        cells = []
        for own, base in zip(zip(*runs, strict=True), zip(*host, strict=True), strict=True):
            mean = f"{100 * sum(own) / SEEDS:.1f}"
            if runs is not host and own != base:
                found = paired_by_seed(own, base)
                mean += f" ({100 * found.difference:+.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}])"
            cells.append(mean)
        print(f"| {label} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
