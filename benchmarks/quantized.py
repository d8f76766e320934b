"""What int8 costs and saves: packaged backbones as floats and as int8, on scikit-learn's handwritten digits.

python benchmarks/quantized.py      a Markdown table; a minute on one core, with --methods lora-qkv some more
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import petiole
from petiole.backbones.registry import load_backbone
from petiole.data.synthetic.digits import write_digits

BACKBONES = ("petiole/tiny-vit", "petiole/tiny-clip")
METHODS: dict[str, dict[str, Any]] = {"averaged-ridge": {}, "lora-qkv": {"steps": 100, "views": 0}}
IMAGES = 64


@torch.no_grad()
def frozen(backbone: petiole.Backbone) -> tuple[torch.Tensor, float]:
    """Vectors of noise, and CPU milliseconds an image."""
    images = torch.randn(
        IMAGES, 3, *backbone.preprocessing.size, generator=torch.Generator().manual_seed(0)
    )
    backbone(images[:8])
    start = time.process_time()
    vectors = backbone(images)
    return vectors, 1e3 * (time.process_time() - start) / IMAGES


def few(folder: Path) -> dict[str, list[Path]]:
    """Forty images a class."""
    return {each.name: sorted(each.iterdir())[:40] for each in sorted(folder.iterdir())}


def accuracies(
    name: str, how: str | None, data: Path, home: Path, draws: int, methods: list[str]
) -> list[str]:
    """Accuracy of each method in draws of ten images a class, in per cent: the mean, and each draw's."""
    found = []
    for method in methods:
        runs = [
            petiole.fit(
                few(data / "real_train"),
                test=few(data / "real_eval"),
                method=method,
                settings=METHODS[method],
                backbone=name,
                quantize=how,
                split_seed=draw,
                calibration_folds=0,
                cache_dir=home / "cache",
                out=home / f"{name}-{how}-{method}-{draw}",
                quiet=True,
            )
            for draw in range(draws)
        ]
        scores = [100 * run.record["scores"]["test"]["accuracy"] for run in runs]
        each = ", ".join(f"{score:.1f}" for score in scores)
        found.append(f"{sum(scores) / draws:.1f} ({each})")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["averaged-ridge"])
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=BACKBONES)
    options = parser.parse_args()
    titles = ["backbone", "weights", "MB", "cosine", "CPU ms an image", *options.methods]
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        write_digits(home / "digits")
        for name in options.backbones:
            floats, _ = frozen(load_backbone(name))
            for how in (None, "int8"):
                backbone = load_backbone(name, quantize=how)
                vectors, ms = frozen(backbone)
                cosine = torch.cosine_similarity(floats, vectors).mean().item()
                size = f"{backbone.stored_bytes / 1e6:.2f}"
                row = [f"`{name}`", how or "fp32", size, f"{cosine:.5f}", f"{ms:.2f}"]
                row += accuracies(name, how, home / "digits", home, options.draws, options.methods)
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
