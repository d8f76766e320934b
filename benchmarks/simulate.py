"""What ``petiole simulate`` predicts beside what is measured: extraction and runs, on one process, two, and three Ray nodes.

    RAY_AUTH_MODE=disabled OMP_NUM_THREADS=1 python benchmarks/simulate.py /tmp/simulate [--images 256] [--runs 9]

Seconds are those of the processor, of the busiest process: on cores of its own that is the time that it takes, and other work on the machine does
not change it. Unit costs are measured first, on other images and runs than those that are predicted.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import rmtree

import httpx2
import torch

from petiole.allocator import tune_allocator
from petiole.backbones.registry import load_backbone
from petiole.data.synthetic.scenes import write_task
from petiole.engine.executor import Executor, executor
from petiole.engine.run import RunSpec, run
from petiole.engine.share import WHOLE
from petiole.planning.measure import measured
from petiole.planning.scale import UnitCosts, extraction, serving, table
from petiole.protocols.jobs import Stage, store_share
from petiole.serving.library import AdapterLibrary
from ray_features import draw, workers
from ray_serve import write
from scale import jobs_of, nodes
from serve import petiole_server, photo

BACKBONE = "petiole/efficientnet-lite0"


def extract(images: Path, cache: Path, processes: int) -> float:
    """Seconds of the busiest of so many processes, each of which takes its shard."""
    rmtree(cache, ignore_errors=True)
    options = ["--backbone", BACKBONE, "--cache-dir", str(cache), "--device", "cpu", "--quiet"]
    command = [sys.executable, "-m", "petiole", "features", str(images), *options]
    started = [
        subprocess.Popen([*command, "--shard", f"{i + 1}/{processes}"], stdout=subprocess.DEVNULL)
        for i in range(processes)
    ]
    used = [os.wait4(process.pid, 0)[2] for process in started]
    return max(one.ru_utime + one.ru_stime for one in used)


def timed(spec: RunSpec) -> tuple[str, float]:
    """Do a run; in which process, and what it took of the processor there."""
    start = time.process_time()
    run(spec)
    return f"{os.uname().nodename}:{os.getpid()}", time.process_time() - start


def busiest(place: Executor, jobs: Sequence[RunSpec]) -> float:
    """Seconds of the process that worked most."""
    taken: Counter[str] = Counter()
    for process, seconds in place.map(timed, jobs):
        taken[process] += seconds  # type: ignore[assignment]
    return max(taken.values())


def serving_costs(root: Path, requests: int = 100) -> tuple[float, float, float]:
    """Seconds of the HTTP process for a request, of all the server's processes for one, and of reading an adapter."""
    write(root, 32)
    with petiole_server(root, "--device", "cpu", "--engine", "torch") as (url, pid):
        picture = {"images": ("a.jpg", photo(0), "image/jpeg")}

        def ask() -> None:
            httpx2.post(f"{url}/v1/predict", data={"adapter": "a0000"}, files=picture, timeout=60)

        def used() -> float:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

        def together() -> float:
            return sum(taken for one, (taken, *_) in workers().items() if one != os.getpid())

        ask()
        before, whole = used(), together()
        for _ in range(requests):
            ask()
        request, every = (used() - before) / requests, (together() - whole) / requests
    library = AdapterLibrary("cpu", 64, 10**8)
    library.open(str(root / "a0000"))
    start = time.process_time()
    for i in range(1, 32):
        library.open(str(root / f"a{i:04d}"))
    return request, every, (time.process_time() - start) / 31


def passed(job: int) -> int:
    """A job that does nothing."""
    return job


def overhead(name: str, place: Executor, jobs: int = 300) -> None:
    """What a job costs beyond itself, when the workers are there."""
    list(place.map(passed, range(20)))
    start, used = time.perf_counter(), time.process_time()
    list(place.map(passed, range(jobs)))
    wall, own = time.perf_counter() - start, time.process_time() - used
    told = f"{1000 * own / jobs:.2f} ms of this process a job, {1000 * wall / jobs:.2f} ms of the clock"
    print(f"{name:<34}{told}", flush=True)


def check_serving(root: Path) -> None:
    """A request that waits for no other one: all that the server's processes take for it."""
    request, found, read = serving_costs(root / "adapters")
    print(
        f"{1000 * request:.1f} ms of the HTTP process a request, {1000 * read:.1f} ms to read an adapter"
    )
    pictures = root / "pictures"
    pictures.mkdir(exist_ok=True)
    for i in range(1, 17):
        (pictures / f"{i}.jpg").write_bytes(photo(i))
    backbone = load_backbone("petiole/tiny-vit", device="cpu")
    costs = measured(sorted(pictures.iterdir()), backbone, UnitCosts(), time.process_time)
    predicted = serving(1e-6, replace(costs, request=request, read=read)).seconds
    print(costs)
    told("100 requests, one after the other", 100 * predicted, 100 * found)


def told(what: str, predicted: float, found: float) -> None:
    error = 100 * (predicted / found - 1)
    print(
        f"{what:<34}{predicted:8.1f} s predicted, {found:8.1f} s measured, {error:+.0f} %",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    root: Path = options.root.resolve()
    tune_allocator()
    torch.set_num_threads(1)

    few, many = draw(root / "few", 64), draw(root / f"many-{options.images}", options.images)
    backbone = load_backbone(BACKBONE, device="cpu")
    costs = measured(sorted(few.rglob("*.jpg")), backbone, UnitCosts(), time.process_time)
    one = draw(root / "one", 1)
    start = extract(one, root / "cache", 1) - costs.decode - 16 * costs.forward  # a chunk is whole
    costs = replace(costs, start=start)
    print(costs, flush=True)
    for processes in (1, 2):
        predicted = extraction(options.images, costs, workers=processes).seconds
        told(
            f"features, {processes} processes", predicted, extract(many, root / "cache", processes)
        )

    check_serving(root)
    photos = root / "photos"
    if not photos.exists():
        write_task(photos, "colours", train=8, test=8)
    make = partial(jobs_of, photos, steps=options.steps, draws=options.runs)
    rmtree(root / "runs", ignore_errors=True)
    unit = make(root=root / "runs" / "unit")[:4]
    store_share(Stage(tuple(unit), WHOLE))
    run(unit[0])
    costs = replace(costs, run=sum(timed(spec)[1] for spec in unit[1:]) / 3, job=0, start=0)
    print(f"{costs.run:.2f} s a run", flush=True)

    alone = 0.0

    def check(what: str, place: Executor, places: int) -> None:
        nonlocal alone
        jobs = make(root=root / "runs" / what.replace(" ", ""))[: options.runs]
        store_share(Stage(tuple(jobs), WHOLE))
        list(place.map(timed, make(root=root / "runs" / f"warm{what}")[:places]))  # workers start
        found = busiest(place, jobs)
        alone = alone or found
        told(f"runs, {what}", table(len(jobs), costs, places=places).seconds, found)
        print(f"    {100 * alone / places / found:.0f} % of the runs of one process, a place")

    for processes in (1, 2):
        local = executor("local", processes=processes)
        check(f"{processes} processes", local, processes)
        overhead(f"a job of {processes} processes", local)
    with nodes(3):
        check("3 Ray nodes", executor("ray"), 3)
        overhead("a job of Ray", executor("ray"))


if __name__ == "__main__":
    main()
