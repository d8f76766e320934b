"""``petiole simulate``: flows, rounds and queues against what they must give, and against small worlds played event by event."""

from __future__ import annotations

import heapq
from dataclasses import replace
from math import factorial
from pathlib import Path

import numpy as np
import pytest

from builders.cli import say
from builders.images import write_images
from petiole.planning.scale import UnitCosts, extraction, serving, table

COSTS = UnitCosts(
    decode=0.1, forward=0.3, write=0.5, header=0.01, task=0.001, start=2, run=4, job=1, request=0.01, read=0.2
)  # fmt: skip


def test_the_slowest_stage_decides_and_more_of_it_help_until_another_does() -> None:
    alone = extraction(10_000, COSTS)
    assert alone.seconds == pytest.approx(2 + 10_000 * 0.4)
    assert extraction(10_000, COSTS, workers=4).seconds == pytest.approx(2 + 10_000 * 0.1)
    beside = extraction(10_000, COSTS, gpu=True, cores=2)
    assert (beside.bottleneck, beside.seconds) == ("network", pytest.approx(2 + 3000))
    assert extraction(10_000, replace(COSTS, decode=1), gpu=True, cores=2).bottleneck == "decoding"
    many = extraction(10**9, COSTS, workers=10**7)
    assert many.bottleneck == "requests to one store prefix"
    assert any("index" in note for note in many.notes)


@pytest.mark.parametrize(("runs", "places"), [(1, 1), (7, 2), (8, 2), (3, 5)])
def test_runs_go_in_rounds(runs: int, places: int) -> None:
    free = [0.0] * places
    for _ in range(runs):
        heapq.heappush(free, heapq.heappop(free) + COSTS.run + COSTS.job)
    assert table(runs, COSTS, places=places).seconds == pytest.approx(COSTS.start + max(free))


def test_a_request_waits_as_erlang_says() -> None:
    rate, servers = 4.0, 3
    service = COSTS.decode + COSTS.forward
    load = rate * service
    tail = load**servers / factorial(servers)
    sums = sum(load**k / factorial(k) for k in range(servers))
    waits = tail / ((1 - load / servers) * sums + tail) / (servers / service - rate)
    found = serving(rate, COSTS, replicas=servers)
    assert found.seconds == pytest.approx(COSTS.request + service + waits)

    rng, free, late = np.random.default_rng(0), [0.0] * servers, []
    for now in np.cumsum(rng.exponential(1 / rate, 40_000)):
        begun = max(now, heapq.heappop(free))
        heapq.heappush(free, begun + rng.exponential(service))
        late.append(begun - now)
    assert np.mean(late) == pytest.approx(waits, rel=0.1)


def test_adapters_that_are_not_in_memory_are_read() -> None:
    few = serving(1, COSTS, replicas=2, adapters=100, loaded=10, skew=0)
    assert few.seconds - serving(1, COSTS, replicas=2).seconds == pytest.approx(0.8 * 0.2, rel=0.3)
    assert serving(10**4, COSTS).seconds == float("inf")


def test_the_command(tmp_path: Path) -> None:
    said = say("simulate", "runs", "--runs", 10, "--machines", 2, "--price", 3.6, "--json")
    assert said.json["cost"] == pytest.approx(said.json["seconds"] / 1000 * 2)
    images = write_images(tmp_path / "images", 2, 0)
    command = ["simulate", "features", "--images", 100, "--like", images]
    said = say(*command, "--backbone", "petiole/tiny-vit", "--unit", "write=7", "--json")
    assert said.json["costs"]["write"] == 7
    assert 0 < said.json["costs"]["decode"] < 1
    assert said.json["seconds"] > 0
    for wrong, told in (
        (("requests", "--requests", 1, "--unit", "forwards=1"), "forward"),
        (("requests", "--requests", 1, "--price", 1), "no use for --price; features has"),
        (("features",), "How many images?"),
        (("features", "--images", 9, "--device", "cpu"), "add --like"),
    ):
        said = say("simulate", *wrong)
        assert (said.code, told in said.err) == (1, True), said.err
