"""Time and memory of the leak check where every image looks like every other: an inspection line, frames of a video.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/leaks.py --images 1000 2000 4000

Each size is a fresh process: as many training as test images of 64 x 64 pixels that differ in noise alone, written as PNG
to a temporary folder, and features of width 384. Prints a Markdown table: pairs counted and kept, seconds of the check
(decoding included; of the clock and of the processor), and how far the peak of resident memory rose in it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory


def measured(images: int) -> dict[str, float]:
    """One size, in this process."""
    import numpy as np
    from PIL import Image

    from petiole.data.checks.leaks import find_leaks
    from petiole.data.sources import open_folder

    rng = np.random.default_rng(0)
    scene = np.kron(rng.integers(40, 216, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.int64)
    features = rng.standard_normal(384) + 0.01 * rng.standard_normal((2, images, 384))
    with TemporaryDirectory() as root:
        for part in ("train", "test"):
            for name in ("a", "b"):
                folder = Path(root, part, name)
                folder.mkdir(parents=True)
                for i in range(images // 2):
                    noisy = scene + rng.integers(-2, 3, scene.shape)
                    Image.fromarray(noisy.astype(np.uint8)).save(folder / f"{i}.png")
        train, test = (open_folder(Path(root, part)) for part in ("train", "test"))
        before, begun, used = _peak(), time.perf_counter(), time.process_time()
        report = find_leaks(train, test, features=tuple(features), quiet=True)
        return {
            "found": sum(report.counts().values()),
            "kept": len(report.pairs),
            "seconds": time.perf_counter() - begun,
            "processor": time.process_time() - used,
            "mb": (_peak() - before) / 1024,
        }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 2000, 4000])
    parser.add_argument("--one", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(args.one)))
        return
    print(
        "| Images a side | Pairs counted | Kept | Seconds | Of the processor | MB |\n|---:|---:|---:|---:|---:|---:|"
    )
    for images in args.images:
        command = [sys.executable, __file__, "--one", str(images)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        row = json.loads(said)
        print(
            f"| {images:,} | {row['found']:,} | {row['kept']:,} | {row['seconds']:.0f} | {row['processor']:.0f} | "
            f"{row['mb']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
