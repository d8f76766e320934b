"""A part of Fashion-MNIST as a folder: the first 320 training and 200 test images of each class in the published order.

    python benchmarks/fashion_mnist.py ROOT OUT

ROOT holds FashionMNIST/raw/ with the four published files (where Debian's package dataset-fashion-mnist is installed, a link to
/usr/share/datasets/fashion-mnist does).
"""

from __future__ import annotations

import argparse
import shutil
from collections import Counter
from pathlib import Path

from petiole.cache_folder import default_cache
from petiole.data.readers.public.registry import files_of

KEPT = {"train": 320, "test": 200}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    for part, files in files_of("fashion-mnist", args.root, cache=default_cache()).items():
        taken: Counter[str] = Counter()
        for entry in sorted(files, key=lambda entry: entry.path.name):
            if taken[entry.label] < KEPT[part]:
                taken[entry.label] += 1
                folder = args.out / part / entry.label
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(entry.path, folder)


if __name__ == "__main__":
    main()
