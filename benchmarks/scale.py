"""The same runs one by one, in two processes, on Ray's one node and on three, and with a node killed in the middle.

    RAY_AUTH_MODE=disabled OMP_NUM_THREADS=1 python benchmarks/scale.py /tmp/scale [--steps 2000]

Prints a line for each place: whether predictions and adapters have the bits of the first, seconds, and seconds that a run
takes beyond its own training and scoring.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any
from unittest.mock import patch

from petiole.data.synthetic.scenes import write_task
from petiole.engine import ray_executor
from petiole.engine.executor import Executor, executor
from petiole.engine.record import Record
from petiole.engine.run import RunSpec
from petiole.protocols.jobs import run_jobs
from petiole.tasks.classification.workspace import Classification, Subset

FILES = ("predictions.safetensors", "adapter/adapter.safetensors")


def jobs_of(images: Path, root: Path, steps: int, draws: int) -> list[RunSpec]:
    """Two methods on several draws; every place has a cache of its own, which begins empty."""
    task = Classification(
        "petiole/efficientnet-lite0", images, image_size=64, cache=root / "cache", quiet=True
    )
    return [
        RunSpec(task, method, root / method / str(draw), {"steps": steps}, Subset(5, draw))
        for draw in range(draws)
        for method in ("linear-probe", "cosine-ln")
    ]


class Killing:
    """An executor that takes a node away when the first run is finished, while others are under way."""

    def __init__(self, inner: Executor, kill: Any) -> None:
        self.inner, self.kill = inner, kill

    @property
    def places(self) -> int:
        return self.inner.places

    def map(self, work: Any, jobs: Any) -> Iterator[Any]:
        for index, result in enumerate(self.inner.map(work, jobs)):
            yield result
            if isinstance(result, Record) and index == 0:
                self.kill()


@contextmanager
def nodes(count: int) -> Iterator[Any]:
    """A Ray cluster of so many nodes with one core each, on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    # As petiole begins one itself: without a dashboard and without statistics of its use, which cost seconds of the processor.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    others = [cluster.add_node(num_cpus=1) for _ in range(count - 1)]
    ray.init(cluster.address, log_to_driver=False, logging_level="error")
    try:
        yield lambda: cluster.remove_node(others[-1], allow_graceful=False)
    finally:
        ray.shutdown()
        cluster.shutdown()


def measure(name: str, place: Executor, images: Path, root: Path, options: Any) -> list[Record]:
    """Do all runs, and say how long they took."""
    start = time.perf_counter()
    jobs = jobs_of(images, root, options.steps, options.draws)
    records = run_jobs(jobs, executor=place, quiet=True)
    seconds = time.perf_counter() - start
    own = sum(r.costs.train_seconds + r.costs.test_seconds for r in records)
    print(f"{name:<22}{seconds:7.1f} s, of which training and scoring {own:.1f} s", flush=True)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=3)
    options = parser.parse_args()
    root: Path = options.root.resolve()
    images = root / "images"
    if not images.exists():
        write_task(images, "colours", train=8, test=8)
    for place in ("one", "two", "node", "three", "killed"):
        rmtree(root / place, ignore_errors=True)
    found = {}
    for name, processes in (("one", 1), ("two", 2)):
        local = executor("local", processes=processes)
        found[name] = measure(f"local, {processes}", local, images, root / name, options)
    with nodes(1):
        found["node"] = measure("Ray, 1 node", executor("ray"), images, root / "node", options)
    with nodes(3) as kill:
        found["three"] = measure("Ray, 3 nodes", executor("ray"), images, root / "three", options)
        dying = Killing(executor("ray"), kill)
        with patch.object(ray_executor, "resumed", wraps=ray_executor.resumed) as again:
            found["killed"] = measure("Ray, 1 of 3 killed", dying, images, root / "killed", options)
        print(
            f"runs or shares begun again after the loss of a node: {again.call_count}", flush=True
        )
    for name, records in found.items():
        pairs = zip(records, found["one"], strict=True)
        same = sum(all(a.files[f] == b.files[f] for f in FILES) for a, b in pairs)
        print(f"{name}: {same} of {len(records)} runs have the bits of the first", flush=True)


if __name__ == "__main__":
    main()
