"""Jobs on a Ray cluster (Moritz et al., OSDI 2018): of this machine, or of many that share a file system."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, is_dataclass, replace
from importlib.util import find_spec
from itertools import cycle
from typing import Any, TypeVar

from petiole.allocator import tune_allocator
from petiole.engine.executor import EXECUTORS
from petiole.errors import ConfigError, RunError, first_line

J = TypeVar("J")
R = TypeVar("R")
STOPPING = 60.0
"""Seconds that runs have, after Ctrl-C, for the step in hand and its checkpoint."""


@EXECUTORS.register("ray", "a Ray cluster (petiole[ray])")
@dataclass(frozen=True)
class Ray:
    """A Ray cluster. Images, feature cache and runs lie where all its nodes see them under the same paths.

    A job whose worker or node is lost begins again elsewhere, a run from its last checkpoint. Jobs of one task (data and
    backbone) go to the same nodes, as far as these have room: see ``homes``.

    Attributes:
        address: ``host:port`` of a cluster to which this machine belongs, or ``auto``; without one, that of the environment
            (``RAY_ADDRESS``), or a new one of this machine.
        run_cpus: cores that a job is given.
        run_gpus: GPUs that a job is given, also a part of one; by default one where its task's device is no CPU.
        retries: how often a job may lose its worker or node.

    Raises:
        ConfigError: Ray is not installed.
    """

    address: str | None = None
    run_cpus: float = 1
    run_gpus: float | None = None
    retries: int = 3

    def __post_init__(self) -> None:
        if find_spec("ray") is None:
            raise ConfigError("Ray is not installed: pip install 'petiole[ray]'.")

    @property
    def places(self) -> int:
        """Jobs that fit the cluster's cores."""
        return max(1, int(self.total("CPU") / self.run_cpus))

    def total(self, what: str) -> float:
        """CPUs or GPUs of the cluster."""
        return float(connected(self.address).cluster_resources().get(what, 0))

    def nodes(self) -> list[str]:
        """Ids of the nodes on which a job fits."""
        known = connected(self.address).nodes()
        fit = (one for one in known if one["Alive"])
        return [n["NodeID"] for n in fit if n["Resources"].get("CPU", 0) >= self.run_cpus]

    def map(self, work: Callable[[J], R], jobs: Sequence[J]) -> Iterator[R]:
        """See ``Executor.map``."""
        ray = connected(self.address)
        begin = ray.remote(_begin)
        tasks = [getattr(job, "task", None) for job in jobs]
        preferred = homes(tasks, self.nodes())

        def submit(job: J, index: int) -> Any:
            share = begin.options(
                num_cpus=self.run_cpus,
                num_gpus=self.gpus_on(str(getattr(tasks[index], "device", "cpu"))),
                max_retries=0,
                scheduling_strategy=_rather_at(preferred[index]),
            )
            return share.remote(work, job, os.getcwd(), max(1, int(self.run_cpus)))

        running = {submit(job, index): index for index, job in enumerate(jobs)}
        lost = [0] * len(jobs)
        ended: dict[int, R | Exception] = {}
        try:
            for index in range(len(jobs)):
                while index not in ended:
                    (one,), _ = ray.wait(list(running), num_returns=1)
                    which = running.pop(one)
                    try:
                        ended[which] = ray.get(one)
                    except ray.exceptions.RayTaskError as error:
                        ended[which] = error.cause
                    except ray.exceptions.RayError as error:
                        lost[which] += 1
                        if lost[which] > self.retries:
                            raise RunError(
                                f"A job lost its worker or node {lost[which]} times: {first_line(error)} "
                                "Look into the cluster's logs (ray status, /tmp/ray); --resume keeps what is finished."
                            ) from error
                        running[submit(resumed(jobs[which]), which)] = which
                result = ended.pop(index)
                if isinstance(result, Exception):
                    raise result
                yield result
        finally:
            for one in running:
                ray.cancel(one)  # a KeyboardInterrupt in those that have begun
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=STOPPING)

    def gpus_on(self, device: str) -> float:
        """GPUs of what computes on a device."""
        if self.run_gpus is not None:
            return self.run_gpus
        return 0 if device.startswith("cpu") else 1


def resumed(job: J) -> J:
    """The job as it is repeated: its first attempt may have taken its folder, or even finished."""
    if is_dataclass(job) and not isinstance(job, type) and hasattr(job, "resume"):
        return replace(job, resume=True)
    return job


def homes(groups: Sequence[Hashable], nodes: Sequence[str]) -> list[str | None]:
    """The node that each job prefers; none where all are of one group, or there is one node.

    Each group in turn gets the node with the fewest jobs; nodes that are left go to the groups with the most jobs a node, whose
    jobs take turns on theirs.

    Args:
        groups: of each job: what it shares with others, which a node then opens, and reads from the disk, once.
        nodes: ids.
    """
    sizes = Counter(groups)
    if len(sizes) < 2 or len(nodes) < 2:
        return [None] * len(groups)
    load = dict.fromkeys(nodes, 0)
    own: dict[Hashable, list[str]] = {}
    for group, size in sizes.items():
        node = min(load, key=lambda one: load[one])
        load[node] += size
        own[group] = [node]
    for node in (one for one, jobs in load.items() if not jobs):
        own[max(sizes, key=lambda group: sizes[group] / len(own[group]))].append(node)
    turns = {group: cycle(places) for group, places in own.items()}
    return [next(turns[group]) for group in groups]


def _rather_at(node: str | None) -> Any:
    """Ray's strategy for a job that prefers a node: elsewhere where that is lost, or has no room now."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return node and NodeAffinitySchedulingStrategy(node, soft=True, _spill_on_unavailable=True)


def connected(address: str | None) -> Any:
    """The library, connected.

    Raises:
        ConfigError: there is no such cluster.
    """
    import ray

    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            quiet = {"log_to_driver": False, "logging_level": "warning"}
            # Without an address Ray would wait for the last cluster of this machine, also where that was killed.
            address = address or os.environ.get("RAY_ADDRESS")
            alone = {} if address else {"include_dashboard": False}
            ray.init(address or "local", **alone, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"No Ray cluster answers at {address or 'this machine'}: {first_line(error)} Start one (ray "
                "start --head), and name it as ray://HOST:6379 from one of its nodes."
            ) from error
    return ray


def begin_worker(folder: str, threads: int) -> None:
    """Set up a worker: relative paths are as where the command was given."""
    tune_allocator()
    import torch

    os.chdir(folder)
    torch.set_num_threads(threads)


def _begin(work: Callable[[J], R], job: J, folder: str, threads: int) -> R:
    """What a worker does."""
    begin_worker(folder, threads)
    return work(job)
