"""``petiole serve --executor ray``: many adapters on two replicas, one of which is killed, beside the one process of --executor local.

    RAY_AUTH_MODE=disabled OMP_NUM_THREADS=1 python benchmarks/ray_serve.py /tmp/serve [--adapters 1000] [--seconds 20]

Clients ask for adapters in turn, four times as often for a tenth of them. Printed: answers a second, failed requests, adapters that
were read a request (1 would mean that none was ever found in memory), and the same while a replica is killed; then a canary's share.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import httpx2

from ray_features import ours
from serve import CLASSES, petiole_server, photo

TRIES = 4
"""Of a request that is told to come again."""


def write(root: Path, count: int) -> None:
    """Adapters that differ in their folders alone."""
    import petiole

    first = root / "a0000"
    if not first.exists():
        backbone = petiole.load("petiole/tiny-vit")
        petiole.adapt(backbone, "cls-residual-lora", classes=CLASSES, rank=4).save(first)
    for i in range(1, count):
        if not (root / f"a{i:04d}").exists():
            shutil.copytree(first, root / f"a{i:04d}")


def replicas() -> list[int]:
    """Processes of the replicas."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            name = (place / "cmdline").read_bytes()
            if b"ServeReplica:petiole" in name and ours(int(place.name)):
                found.append(int(place.name))
        except OSError:
            continue
    return found


async def load(url: str, count: int, seconds: float, kill: float = 0) -> Counter[str]:
    """Ask for so long; the statuses of all answers, and under ``again`` how often one had to ask twice."""
    images, seen = [photo(i) for i in range(16)], Counter[str]()
    often, end = max(1, count // 10), time.monotonic() + seconds
    dice = random.Random(0)

    async def client(http: httpx2.AsyncClient) -> None:
        while time.monotonic() < end:
            which = dice.randrange(often) if dice.random() < 0.8 else dice.randrange(count)
            for _ in range(TRIES):
                answer = await http.post(
                    f"{url}/v1/predict",
                    data={"adapter": f"a{which:04d}"},
                    files={"images": ("a.jpg", dice.choice(images), "image/jpeg")},
                )
                if answer.status_code not in (429, 503):
                    break
                seen["again"] += 1
                await asyncio.sleep(float(answer.headers.get("retry-after", 1)))
            seen[str(answer.status_code)] += 1

    async def killer() -> None:
        await asyncio.sleep(kill)
        os.kill(replicas()[0], signal.SIGKILL)

    async with httpx2.AsyncClient(timeout=60) as http:
        others = [killer()] if kill else []
        await asyncio.gather(*(client(http) for _ in range(8)), *others)
    return seen


def counted(url: str, name: str) -> float:
    """A number of the server's metrics."""
    found = re.search(rf"^petiole_{name}(?:_total)? (\S+)", httpx2.get(f"{url}/metrics").text, re.M)
    return float(found[1]) if found else 0.0


def measure(name: str, url: str, options: argparse.Namespace, kill: float = 0) -> None:
    """Load, and what came of it."""
    before, start = counted(url, "adapter_reads"), time.monotonic()
    seen = asyncio.run(load(url, options.adapters, options.seconds, kill))
    good, took = seen["200"], time.monotonic() - start
    failed = sum(n for status, n in seen.items() if status not in ("200", "again"))
    reads = (counted(url, "adapter_reads") - before) / max(1, good)
    told = f"{good / took:5.1f} answers a second, {failed} failed, {seen['again']} asked again"
    print(f"{name:<24}{told}, {reads:.2f} adapters read a request", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--adapters", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--loaded", type=int, default=100)
    options = parser.parse_args()
    write(options.root, options.adapters)
    told = (options.root, "--max-loaded", options.loaded, "--device", "cpu", "--engine", "torch")
    with petiole_server(*told) as (url, _):
        measure("one process", url, options)
    canary = ("--canary", "a0000=a0001:0.2")
    with petiole_server(
        *told, *canary, "--executor", "ray", "--replicas", 2, "--run-cpus", 0.5
    ) as (url, _):
        measure("two replicas", url, options)
        print(f"{counted(url, 'workers'):.0f} replicas", flush=True)
        measure("one of two killed", url, options, kill=options.seconds / 3)
        picture = {"images": ("a.jpg", photo(0), "image/jpeg")}
        names = Counter(
            httpx2.post(f"{url}/v1/predict", data={"adapter": "a0000"}, files=picture).json()[
                "adapter"
            ]
            for _ in range(100)
        )
        print(f"canary: {names['a0001']} of 100 requests at a share of 0.2", flush=True)


if __name__ == "__main__":
    main()
