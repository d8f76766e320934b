"""Features through Ray Data beside this process: the same values, throughput, memory, and a killed worker.

    RAY_AUTH_MODE=disabled OMP_NUM_THREADS=1 python benchmarks/ray_features.py /tmp/features [--images 64 320]

Two numbers of images are computed here, on one node of one core, and the larger one on two nodes, and again while a worker is killed in the middle. Seconds are those of the
processor, of all processes that compute: on a core of its own that is the time that it takes, and other work on the machine does not change it. The
difference of both numbers is free of the start of Ray and of the network. Of the copies of the network (actors) it says how many there were at
first and at most.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import torch
from PIL import Image

from petiole.commands.features import Extracted, features
from petiole.commands.placement import ExecutorOptions
from petiole.engine.feature_store import verified
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


def ours(process: int) -> bool:
    """Whether this process, or one that it started, started that one."""
    while process > 1 and process != os.getpid():
        process = int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return process == os.getpid()


def workers() -> dict[int, tuple[float, float]]:
    """Workers of our clusters: seconds of the processor, and megabytes of their own."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::" not in (place / "cmdline").read_bytes() or not ours(int(place.name)):
                continue
            resident, shared = (place / "statm").read_text().split()[1:3]
            times = (place / "stat").read_text().rsplit(")", 1)[1].split()[11:13]
            used = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
            found[int(place.name)] = (used, (int(resident) - int(shared)) * 4096 / 2**20)
        except (OSError, ValueError):
            continue
    return found


def actors() -> int:
    """Copies of the network in our clusters."""
    found = 0
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            found += b"ray::MapWorker" in (place / "cmdline").read_bytes() and ours(int(place.name))
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
def watched(kill_at: float) -> Iterator[dict[str, Any]]:
    """Look on; kill the worker that first has used so many seconds of the processor."""
    over = threading.Event()
    seen: dict[str, Any] = {"used": {}, "largest": 0.0, "killed": False, "actors": []}

    def watch() -> None:
        while not over.wait(0.05):
            now = workers()
            seen["actors"].append(actors())
            seen["used"] |= {pid: used for pid, (used, _) in now.items()}
            seen["largest"] = max([seen["largest"], *(size for _, size in now.values())])
            ripe = [pid for pid, (used, _) in now.items() if kill_at and used > kill_at]
            if ripe and not seen["killed"]:
                os.kill(ripe[0], signal.SIGKILL)
                seen["killed"] = True

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def extract(
    images: Path, cache: Path, place: str, kill_at: float = 0
) -> tuple[Extracted, float, float]:
    """Compute all; also the seconds of the processor, of all and of the busiest worker."""
    rmtree(cache, ignore_errors=True)
    start = time.process_time()
    with watched(kill_at) as seen:
        done = features(
            images,
            backbone="petiole/efficientnet-lite0",
            cache_dir=cache,
            quiet=True,
            device="cpu",
            placement=ExecutorOptions("local" if place == "local" else "ray"),
        )
    used = time.process_time() - start if place == "local" else sum(seen["used"].values())
    told = f"{done.computed:6} images, {used:6.1f} s of the processor"
    if place != "local":
        copies = [n for n in seen["actors"] if n]
        told += f", largest worker {seen['largest']:,.0f} MB, copies {copies[0]} to {max(copies)}"
    print(f"{place:<10}{told}{', one worker killed' if seen['killed'] else ''}", flush=True)
    return done, used, max(seen["used"].values(), default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--images", type=int, nargs=2, default=[64, 320])
    options = parser.parse_args()
    root: Path = options.root.resolve()
    torch.set_num_threads(1)
    few, many = (draw(root / f"images-{count}", count) for count in options.images)
    extract(few, root / "local", "local")  # the first call of all is slower
    _, start, _ = extract(few, root / "local", "local")
    here, end, _ = extract(many, root / "local", "local")
    with nodes(1):
        _, begun, worker = extract(few, root / "ray", "one node")
        there, ended, _ = extract(many, root / "ray", "one node")
    compare(root / "local", root / "ray", there, here)
    print(f"throughput of Ray / local: {(end - start) / (ended - begun):.2f}", flush=True)
    with nodes(2):
        two, _, _ = extract(many, root / "two", "two nodes")
        middle = worker + (end - start) / 4
        done, _, _ = extract(many, root / "killed", "killed", kill_at=middle)
    compare(root / "local", root / "two", two, here)
    compare(root / "local", root / "killed", done, here)


def compare(one: Path, other: Path, done: Extracted, here: Extracted) -> None:
    """Say whether two stores hold the same."""
    a, b = stored(one), stored(other)
    same = sum(all(torch.equal(a[i][r], b[i][r]) for r in a[i]) for i in a if i in b)
    print(
        f"{other.name}: {same} of {len(a)} equal; digests {here.digest == done.digest}", flush=True
    )


if __name__ == "__main__":
    main()
