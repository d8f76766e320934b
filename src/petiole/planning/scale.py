"""Extraction, runs and serving at any size, as flows through stages whose unit costs were measured.

A stage i that serves n units in parallel, each of which takes c_i seconds an item, passes n_i / c_i items a second. A flow is as
fast as its slowest stage, the bottleneck; begun and ended at once by all workers, so that

    seconds = start + items · max_i (c_i / n_i)

Requests wait as in a queue of c equal servers (Erlang's C formula; Erlang, 1917; M/M/c):

    W = C(c, a) / (c / s - λ),   a = λ s,   C(c, a) = (a^c / c!) / ((1 - a/c) Σ_{k<c} a^k / k! + a^c / c!)

where λ are requests a second and s is the seconds that one takes a server. What is left out: networks between machines, images of
different sizes, and machines that are slower than others.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from petiole.engine.share import BATCH, SHARD
from petiole.errors import ConfigError

ID_BYTES = 200
"""Of an image's id and its place in a Python set or dictionary."""
STORE_RATE = 5500.0
"""Reads a second that an object store grants to one prefix; S3 documents 5,500, of writes 3,500."""


@dataclass(frozen=True)
class UnitCosts:
    """Seconds of the parts, measured alone on one core or one device.

    The defaults were measured by ``benchmarks/simulate.py``: EfficientNet-Lite0 on one core, JPEG files 256 pixels a side; tiny-vit for ``read``.
    Those of ``task``, ``run`` and ``job`` are round numbers.

    Attributes:
        decode: of reading, decoding and transforming an image.
        forward: of an image through the frozen half.
        write: of storing a shard of 512 images.
        header: of reading which images a shard holds.
        task: of the scheduler for a task; that of Ray passes about 2,000 a second.
        start: of a worker until its first image, its network loaded.
        run: of a run: training and scoring of one head, on stored features.
        job: of a run beyond that: folders, data, adapter, record.
        request: of the HTTP process for a request.
        read: of reading an adapter that is not in memory.
    """

    decode: float = 0.0017
    forward: float = 0.024
    write: float = 0.33
    header: float = 0.00025
    task: float = 0.0005
    start: float = 7.7
    run: float = 5.0
    job: float = 1.0
    request: float = 0.0037
    read: float = 0.057


@dataclass(frozen=True)
class Prediction:
    """What was predicted.

    Attributes:
        seconds: in all; of serving, of one request.
        bottleneck: the stage that decides.
        stages: of each stage, the seconds that it would take alone; of serving, its share that is busy.
        notes: what grows too large for one machine.
    """

    seconds: float
    bottleneck: str
    stages: dict[str, float]
    notes: tuple[str, ...] = ()


def extraction(
    images: int, costs: UnitCosts, *, workers: int = 1, cores: float = 1, gpu: bool = False
) -> Prediction:
    """Images through the frozen half into the cache.

    Args:
        images: how many.
        costs: of the parts.
        workers: processes, or GPUs.
        cores: that decode for each worker; without a GPU the worker itself does both in turn.
        gpu: whether decoding is done beside the network.

    Raises:
        ConfigError: numbers that are not above 0.
    """
    _above_0(images=images, workers=workers, cores=cores)
    shards = ceil(images / SHARD)
    both = {"network": costs.forward, "decoding": costs.decode / cores}
    parts = both if gpu else {"decoding and network": costs.decode + costs.forward}
    stages = {name: images * cost / workers for name, cost in parts.items()}
    stages |= {
        "writing": shards * costs.write / workers,
        "scheduler": (images / BATCH + shards) * costs.task,
        "requests to one store prefix": images / STORE_RATE,
    }
    slowest = max(stages, key=lambda name: stages[name])
    listing = shards * costs.header
    notes = []
    if images * ID_BYTES > 2**33:
        notes.append(
            f"names and ids of all images take {images * ID_BYTES / 1e9:,.0f} GB in one process: give each of many commands a --shard"
        )
    if listing > 60:
        notes.append(
            f"a worker that resumes reads {shards:,} headers first: {listing:,.0f} s (index)"
        )
    return Prediction(costs.start + stages[slowest], slowest, stages, tuple(notes))


def table(
    runs: int, costs: UnitCosts, *, places: int = 1, images: int = 0, views: int = 0
) -> Prediction:
    """Runs of small heads over stored features, side by side.

    Args:
        runs: how many.
        costs: of the parts.
        places: runs at a time, a core each.
        images: whose features are computed first; 0 for none.
        views: random views of each image that are stored beside it.

    Raises:
        ConfigError: numbers that are not above 0.
    """
    _above_0(runs=runs, places=places)
    stored = extraction(images * (1 + views), costs, workers=places) if images else None
    # The last round may be only partly filled, so rounds are whole.
    stages = {
        "runs": ceil(runs / places) * costs.run,
        "opening and saving": ceil(runs / places) * costs.job,
        "scheduler": runs * costs.task,
    }
    work = max(stages["runs"] + stages["opening and saving"], stages["scheduler"])
    features = stored.stages[stored.bottleneck] if stored else 0.0
    stages |= {"features": features} if images else {}
    slowest = max(stages, key=lambda name: stages[name])
    return Prediction(costs.start + features + work, slowest, stages)


def serving(
    requests: float,
    costs: UnitCosts,
    *,
    replicas: int = 1,
    adapters: int = 1,
    loaded: int = 64,
    skew: float = 1.0,
) -> Prediction:
    """Requests of one image each to many adapters.

    Adapter k of n is asked for with probability proportional to k^(-skew). Each replica holds the ``loaded`` adapters that were
    used last; requests go where theirs is, so that together they hold replicas x loaded of the most used ones.

    Args:
        requests: a second.
        costs: of the parts.
        replicas: inference processes.
        adapters: in the store.
        loaded: in memory of one replica.
        skew: of popularity; 0 for all alike.

    Raises:
        ConfigError: numbers that are not above 0.
    """
    _above_0(requests=requests, replicas=replicas, adapters=adapters, loaded=loaded)
    weights = [1 / (k + 1) ** skew for k in range(adapters)]
    absent = sum(weights[replicas * loaded :]) / sum(weights)
    service = costs.decode + costs.forward + absent * costs.read
    stages = {
        "network": requests * (costs.decode + costs.forward) / replicas,
        "reading adapters": requests * absent * costs.read / replicas,
        "HTTP process": requests * costs.request,
    }
    busy = stages["network"] + stages["reading adapters"]
    stages["queue"] = busy
    slowest = max(("network", "reading adapters", "HTTP process"), key=lambda name: stages[name])
    full = max(busy, stages["HTTP process"])
    notes = [f"{100 * absent:.1f} % of the requests wait for an adapter to be read"]
    if full >= 1:
        needed = ceil(replicas * busy)
        notes.append(
            f"the HTTP process is full: start {ceil(stages['HTTP process'])} of them"
            if slowest == "HTTP process"
            else f"the replicas are full: {needed} would be busy all the time, and more are needed"
        )
        return Prediction(float("inf"), slowest, stages, tuple(notes))
    waiting = _erlang(replicas, requests * service) / (replicas / service - requests)
    if waiting > service:
        slowest = "queue"
    return Prediction(costs.request + service + waiting, slowest, stages, tuple(notes))


def cost(seconds: float, machines: float, price: float) -> float:
    """Money: seconds / 3600 · machines · price, of a machine an hour."""
    return seconds / 3600 * machines * price


def _erlang(servers: int, load: float) -> float:
    """Erlang's C: the chance to wait, by the recursion of his B, which does not overflow."""
    blocked = 1.0
    for k in range(1, servers + 1):
        blocked = load * blocked / (k + load * blocked)
    busy = load / servers
    return blocked / (1 - busy * (1 - blocked))


def _above_0(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ConfigError(f"{name} is {value}; it must be above 0.")
