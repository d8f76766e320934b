"""What int8 costs and saves: packaged backbones as floats and as int8, on scikit-learn's handwritten digits.

python benchmarks/quantized.py      a Markdown table; some minutes on one core
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


def accuracies(name: str, how: str | None, data: Path, home: Path, draws: int) -> list[float]:
    """Mean accuracy of each method over draws of ten images a class, in per cent."""
    found = []
    for method, settings in METHODS.items():
        runs = [
            petiole.fit(
                data / "real_train",
                test=data / "real_eval",
                method=method,
                settings=settings,
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
        scores = [run.record["scores"]["test"]["accuracy"] for run in runs]
        found.append(100 * sum(scores) / draws)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=3)
    options = parser.parse_args()
    titles = ["backbone", "weights", "MB", "cosine", "CPU ms an image", *METHODS]
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        write_digits(home / "digits")
        for name in BACKBONES:
            floats, _ = frozen(load_backbone(name))
            for how in (None, "int8"):
                backbone = load_backbone(name, quantize=how)
                vectors, ms = frozen(backbone)
                cosine = torch.cosine_similarity(floats, vectors).mean().item()
                size = f"{backbone.stored_bytes / 1e6:.2f}"
                row = [f"`{name}`", how or "fp32", size, f"{cosine:.5f}", f"{ms:.2f}"]
                row += [
                    f"{s:.1f}" for s in accuracies(name, how, home / "digits", home, options.draws)
                ]
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
