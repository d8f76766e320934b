"""Features through Ray Data beside this process: the same values, throughput, memory, and a killed worker.

    RAY_AUTH_MODE=disabled OMP_NUM_THREADS=1 python benchmarks/ray_features.py /tmp/features [--images 512 2048]

Each number of images is computed here, on one core of a cluster, and on two nodes of one core each, of which the second's worker is killed
when a first shard is stored. Printed: images a second from the first image to the last, without the start of Ray or of the network; the largest
memory of a worker and of the object store; whether the stores hold the same bits.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import torch
from PIL import Image

from petiole.commands.features import Extracted, features
from petiole.commands.placement import ExecutorOptions
from petiole.engine.feature_store import load_shard, verified
from scale import nodes


def draw(folder: Path, count: int) -> Path:
    """JPEG files of noise, 256 pixels a side."""
    for i in range(count):
        file = folder / f"{i % 8}" / f"{i}.jpg"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((256, 256)).save(file)
    return folder


def workers() -> dict[int, int]:
    """Processes of Ray that run code of ours, and their resident bytes."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            name = (place / "cmdline").read_bytes()
            if b"ray::" in name and b"IDLE" not in name:
                resident, shared = (place / "statm").read_text().split()[1:3]
                found[int(place.name)] = (int(resident) - int(shared)) * 4096
        except (OSError, ValueError):
            continue
    return found


def stored(cache: Path) -> dict[str, Any]:
    """All that a store holds, each shard checked."""
    found: dict[str, Any] = {}
    for shard in cache.rglob("*.safetensors"):
        ids, values = verified(shard)
        for row, image in enumerate(ids):
            found[image] = {role: value[row] for role, value in values.items()}
    return found


@contextmanager
def watched(cache: Path, *, kill: bool) -> Iterator[dict[str, float]]:
    """Look on: the time of the first shard, the largest worker; kill one worker of two when a shard is there."""
    over, seen = threading.Event(), {"largest": 0.0, "killed": 0.0}

    def watch() -> None:
        while not over.wait(0.1):
            now = workers()
            seen["largest"] = max([seen["largest"], *(size / 2**20 for size in now.values())])
            if "first" not in seen and (shards := list(cache.rglob("*.safetensors"))):
                seen["first"] = time.perf_counter()
                seen["rows"] = sum(len(load_shard(shard)[0]) for shard in shards)
                if kill and now:
                    os.kill(max(now, key=lambda pid: now[pid]), signal.SIGKILL)
                    seen["killed"] = 1

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def extract(images: Path, cache: Path, place: str, *, kill: bool = False) -> Extracted:
    """Compute all, and say how fast: from the first shard on, so that no start is counted."""
    rmtree(cache, ignore_errors=True)
    with watched(cache, kill=kill) as seen:
        done = features(
            images,
            backbone="petiole/efficientnet-lite0",
            cache_dir=cache,
            quiet=True,
            device="cpu",
            placement=ExecutorOptions("local" if place == "local" else "ray"),
        )
        end = time.perf_counter()
    rate = (done.computed - seen["rows"]) / max(1e-9, end - seen["first"])
    told = f"{done.computed:6} images {rate:6.1f} a second after the first shard"
    told += f", {done.seconds:6.1f} s in all, largest worker {seen['largest']:,.0f} MB"
    print(f"{place:<10}{told}{', one worker killed' if seen['killed'] else ''}", flush=True)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--images", type=int, nargs="*", default=[1024, 2048])
    options = parser.parse_args()
    root: Path = options.root.resolve()
    torch.set_num_threads(1)
    for count in options.images:
        images = draw(root / f"images-{count}", count)
        here = extract(images, root / "local", "local")
        for place, number in (("one node", 1), ("killed", 2)):
            with nodes(number) if number else nullcontext():
                there = extract(images, root / "ray", place, kill=place == "killed")
            a, b = stored(root / "local"), stored(root / "ray")
            same = sum(all(torch.equal(a[i][r], b[i][r]) for r in a[i]) for i in a if i in b)
            print(
                f"{place}: {same} of {len(a)} equal; digests {here.digest == there.digest}",
                flush=True,
            )


if __name__ == "__main__":
    main()
