"""Features through Ray Data beside this process: the same values, throughput, memory, and a killed worker.

    RAY_AUTH_MODE=disabled OMP_NUM_THREADS=1 python benchmarks/ray_features.py /tmp/features [--images 64 1088] [--repeats 3]

Two numbers of images are computed here and on one node, in turns; all processes, Ray's own among them, are held to one core of the machine. Then the
larger number is computed on two nodes, and again while a worker is killed in the middle. Throughput is told by the clock, by seconds of the processor of
all processes together, and of those alone that compute: Ray's own processes also take their part of a core while they wait for it. The difference of both numbers is free of the start of Ray and of the network. Of the copies of the network
(actors) it says how many there were at first and at most.
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
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from petiole.commands.features import Extracted, features
from petiole.commands.placement import ExecutorOptions
from petiole.engine.feature_store import verified
from scale import nodes

TOLD = "throughput, {}: by the clock {:.2f}, by the processor {:.2f}, of what computes alone {:.2f}"


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


def workers() -> dict[int, tuple[float, float, bool]]:
    """This process and those of our clusters: seconds of the processor, megabytes of their own, and whether it is a worker."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if not ours(int(place.name)):
                continue
            worker = b"ray::" in (place / "cmdline").read_bytes()
            resident, shared = (place / "statm").read_text().split()[1:3]
            times = (place / "stat").read_text().rsplit(")", 1)[1].split()[11:13]
            used = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
            megabytes = (int(resident) - int(shared)) * 4096 / 2**20
            found[int(place.name)] = (used, megabytes, worker)
        except (OSError, ValueError):
            continue
    return found


def computes(process: int) -> bool:
    """Whether it is a worker that computes or writes features at the moment."""
    with suppress(OSError):
        return b"ray::Map" in Path(f"/proc/{process}/cmdline").read_bytes()
    return False


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
    seen: dict[str, Any] = {"used": {}, "busiest": 0.0, "largest": 0.0, "killed": False}
    seen["actors"], seen["computing"] = [], set()
    before = {pid: used for pid, (used, *_) in workers().items()}

    def look() -> None:
        now = workers()
        seen["actors"].append(actors())
        seen["used"] |= {pid: used - before.get(pid, 0.0) for pid, (used, *_) in now.items()}
        those = {pid: (used, size) for pid, (used, size, worker) in now.items() if worker}
        seen["computing"] |= {pid for pid in now if computes(pid)}
        seen["busiest"] = max([seen["busiest"], *(used for used, _ in those.values())])
        seen["largest"] = max([seen["largest"], *(size for _, size in those.values())])
        if kill_at:
            ripe = [pid for pid, (used, _) in those.items() if used > kill_at]
            if ripe and not seen["killed"]:
                os.kill(ripe[0], signal.SIGKILL)
                seen["killed"] = True

    def watch() -> None:
        while not over.wait(0.05 if kill_at else 1.0):
            look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
        look()


class Taken(NamedTuple):
    """What an extraction did, and took.

    Attributes:
        done: what it says itself.
        clock, processor, computing: seconds, those of all processes, and of those alone that compute.
        busiest: seconds of the processor of the worker that used most.
    """

    done: Extracted
    clock: float
    processor: float
    computing: float
    busiest: float


def extract(images: Path, cache: Path, place: str, kill_at: float = 0) -> Taken:
    """Compute all."""
    rmtree(cache, ignore_errors=True)
    start = time.perf_counter()
    with watched(kill_at) as seen:
        done = features(
            images,
            backbone="petiole/efficientnet-lite0",
            cache_dir=cache,
            quiet=True,
            device="cpu",
            placement=ExecutorOptions("local" if place == "local" else "ray"),
        )
        clock = time.perf_counter() - start
    used = sum(seen["used"].values())
    told = f"{done.computed:6} images, {clock:6.1f} s, {used:6.1f} s of the processor"
    if place != "local":
        copies = [n for n in seen["actors"] if n]
        told += f", largest worker {seen['largest']:,.0f} MB, copies {copies[0]} to {max(copies)}"
    print(f"{place:<10}{told}{', one worker killed' if seen['killed'] else ''}", flush=True)
    own = {os.getpid()} if place == "local" else seen["computing"]
    computing = sum(seen["used"][pid] for pid in own)
    return Taken(done, clock, used, computing, seen["busiest"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--images", type=int, nargs=2, default=[64, 1088])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    root: Path = options.root.resolve()
    torch.set_num_threads(1)
    few, many = (draw(root / f"images-{count}", count) for count in options.images)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    extract(few, root / "local", "local")  # the first call of all is slower
    turns = []
    with nodes(1):
        extract(few, root / "ray", "one node")
        for _ in range(options.repeats):
            a, b = (extract(images, root / "local", "local") for images in (few, many))
            c, d = (extract(images, root / "ray", "one node") for images in (few, many))
            kinds = ("clock", "processor", "computing")
            gains = [[getattr(y, k) - getattr(x, k) for k in kinds] for x, y in ((a, b), (c, d))]
            turns.append([here / there for here, there in zip(*gains, strict=True)])
            print(TOLD.format("Ray / local", *turns[-1]), flush=True)
    compare(root / "local", root / "ray", d.done, b.done)
    print(TOLD.format("median", *map(median, zip(*turns, strict=True))), flush=True)
    os.sched_setaffinity(0, cores)
    with nodes(2):
        two = extract(many, root / "two", "two nodes")
        middle = c.busiest + (b.processor - a.processor) / 4
        killed = extract(many, root / "killed", "killed", kill_at=middle)
    compare(root / "local", root / "two", two.done, b.done)
    compare(root / "local", root / "killed", killed.done, b.done)


def compare(one: Path, other: Path, done: Extracted, here: Extracted) -> None:
    """Say whether two stores hold the same."""
    a, b = stored(one), stored(other)
    same = sum(all(torch.equal(a[i][r], b[i][r]) for r in a[i]) for i in a if i in b)
    print(
        f"{other.name}: {same} of {len(a)} equal; digests {here.digest == done.digest}", flush=True
    )


if __name__ == "__main__":
    main()
