"""Time and memory of a folder of very many small images: listed, checked, cached, and found in the cache.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/many_images.py --images 10000 30000 100000

Each size is a fresh process that writes PNGs of 16 x 16 random pixels in ten classes to a temporary folder. Listing walks
the folder; checking opens it as a data set (every file is read, hashed and decoded); caching brings each image to 32 x 32
pixels and keeps the vector that a random ResNet of 60 kB gives; found again are all of them by a new process' reader, which
verifies every shard. With --values only the last step, on random vectors of width 32 in place of images: shards verified, rows
found, and all of them gathered. Prints a Markdown table: microseconds an image, of the clock and of the processor, and how far the peak of
resident memory rose from the start to the end of a step. Linear is what has the same microseconds in every row.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

STEPS = ("listed", "checked", "cached", "found again")
VALUES = ("verified", "rows found", "gathered")
Found = dict[str, tuple[float, float, float]]


def timer(found: Found) -> Callable[[str, Callable[[], Any]], Any]:
    """Does a step and keeps its seconds, those of the processor, and the megabytes by which the peak rose."""

    def step(name: str, work: Callable[[], Any]) -> Any:
        before, begun, used = _peak(), time.perf_counter(), time.process_time()
        value = work()
        seconds = time.perf_counter() - begun, time.process_time() - used
        found[name] = (*seconds, (_peak() - before) / 1024)
        return value

    return step


def of_values(images: int) -> Found:
    """The cache alone."""
    import hashlib

    import torch

    from petiole.engine.feature_store import FeatureCache, Key
    from petiole.engine.feature_table import StoredTable
    from petiole.engine.share import SHARD

    found: Found = {}
    step, key = timer(found), Key("f", "p", ("vector",))
    ids = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(images)]
    with TemporaryDirectory() as root:
        for start in range(0, images, SHARD):
            part = ids[start : start + SHARD]
            FeatureCache(Path(root)).write(key, part, {"vector": torch.randn(len(part), 32)})
        cache = FeatureCache(Path(root))
        assert step("verified", lambda: cache.missing(key, ids)) == []
        rows = step("rows found", lambda: cache.rows([key], ids))
        step(
            "gathered", lambda: list(StoredTable(rows, images, torch.device("cpu")).batches(images))
        )
    return found


def measured(images: int) -> Found:
    """Of one size in this process: seconds, those of the processor, and megabytes, by step."""
    import numpy as np
    from PIL import Image

    from petiole.data.readers.folder import open_folder, visible_files
    from petiole.engine.feature_extractor import Features
    from petiole.engine.feature_store import FeatureCache
    from petiole.testing import backbones

    rng, found = np.random.default_rng(0), {}
    step = timer(found)

    with TemporaryDirectory() as root:
        folder = Path(root, "images")
        for number in range(images):
            file = folder / str(number % 10) / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file)
        backbone = backbones.resnet()
        backbone.fingerprint  # noqa: B018 - computed once, of the weights

        def features() -> Any:
            cache = FeatureCache(Path(root, "cache"))
            return Features(backbone, cache, quiet=True).vectors(data)

        step("listed", lambda: sum(1 for _ in visible_files(folder)))
        data = step("checked", lambda: open_folder(folder))
        vectors = step("cached", features)
        assert np.array_equal(step("found again", features), vectors)
    return found


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--values", action="store_true", help="no images, the cache alone")
    parser.add_argument("--one", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps((of_values if args.values else measured)(args.one)))
        return
    steps = VALUES if args.values else STEPS
    print("| Images |", " | ".join(f"{step}, µs | of the processor | MB" for step in steps), "|")
    print("|---:|" + "---:|" * (3 * len(steps)))
    for images in args.images:
        command = [sys.executable, __file__, "--one", str(images), *["--values"] * args.values]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        row = json.loads(said.splitlines()[-1])
        cells = [
            f"{1e6 * seconds / images:.0f} | {1e6 * used / images:.0f} | {mb:.0f}"
            for seconds, used, mb in (row[step] for step in steps)
        ]
        print(f"| {images:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
