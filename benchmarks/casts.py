"""What casting frozen weights once would gain under bf16 autocast, which casts them in every call: a forward pass with copies and without.

OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/casts.py --repeats 7
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from petiole.backbones.registry import load

IMAGES_AT_ONCE = 16


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--repeats", type=int, default=7)
    repeats = options.parse_args().repeats
    print("| | copies over casts | equal bits |\n|---|---:|---|")
    for name in ("petiole/tiny-vit", "petiole/efficientnet-lite0"):
        backbone = load(name)
        once = load(name)
        for part in once.module.modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                part.to(torch.bfloat16)
        pixels = torch.randn(IMAGES_AT_ONCE, 3, *backbone.preprocessing.size)
        ratios = []
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            vectors = [one.lower(pixels, (one.vector,))[one.vector] for one in (backbone, once)]
            for _ in range(repeats):
                taken = []
                for one in (backbone, once):
                    start = time.process_time()
                    one.lower(pixels, (one.vector,))
                    taken.append(time.process_time() - start)
                ratios.append(taken[1] / taken[0])
        said = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
        print(f"| {name} | {said} | {torch.equal(*vectors)} |")


if __name__ == "__main__":
    main()
