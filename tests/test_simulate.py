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
from petiole.engine.share import BATCH, SHARD
from petiole.errors import ConfigError
from petiole.planning.scale import ID_BYTES, UnitCosts, extraction, serving, table

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


def test_every_stage_by_hand() -> None:
    """Numbers that are all different, so that none stands for another."""
    costs = UnitCosts(0.3, 0.7, 11, 13, 17, 19, 23, 29, 31, 37)
    found = extraction(2 * SHARD + 1, costs, workers=5, cores=7, gpu=True)
    images = 2 * SHARD + 1
    assert found.stages == pytest.approx(
        {
            "network": images * 0.7 / 5,
            "decoding": images * 0.3 / 7 / 5,
            "writing": 3 * 11 / 5,
            "scheduler": (images / BATCH + 3) * 17,
            "requests to one store prefix": images / 5500,
        }
    )
    assert found.seconds == pytest.approx(19 + max(found.stages.values()))
    rows = table(11, costs, places=4, images=100, views=2)
    first = extraction(300, costs, workers=4)
    assert rows.stages == pytest.approx(
        {"runs": 3 * 23, "opening and saving": 3 * 29, "scheduler": 11 * 17, "features": max(first.stages.values())}
    )  # fmt: skip
    assert rows.seconds == pytest.approx(19 + rows.stages["features"] + max(3 * (23 + 29), 11 * 17))
    for wrong in ({"images": 0}, {"images": 1, "workers": 0}, {"images": 1, "cores": 0}):
        with pytest.raises(ConfigError, match="must be above 0"):
            extraction(costs=costs, **wrong)


def test_what_grows_too_large_is_noted_just_beyond_its_bound() -> None:
    quick = replace(COSTS, header=0.0)
    most = 2**33 // ID_BYTES
    assert extraction(most, quick).notes == ()
    assert "names and ids" in extraction(most + 1, quick).notes[0]
    slow = replace(COSTS, header=60.0)
    assert extraction(SHARD, slow).notes == ()
    assert "2 headers first: 120 s" in extraction(SHARD + 1, slow).notes[0]


def test_what_is_full_is_said() -> None:
    costs = UnitCosts(decode=0.25, forward=0.25, request=0.125, read=1.0)
    half = serving(1, costs)  # a queue of one server: rho / (1 - rho) services
    assert half.seconds == pytest.approx(0.125 + 0.5 + 0.5)
    assert half.bottleneck == "network"
    assert serving(1.5, costs).bottleneck == "queue"  # three services of waiting
    full = serving(6, costs, replicas=3)
    assert (full.seconds, full.bottleneck) == (float("inf"), "network")
    assert "the replicas are full: 3 would be busy" in full.notes[1]
    entry = serving(16, costs, replicas=1000)
    assert (entry.seconds, entry.bottleneck) == (float("inf"), "HTTP process")
    assert entry.notes[1] == "the HTTP process is full: start 2 of them"


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
    for gpu, decoding in ((("--gpu",), 0.5), (("--gpu", "--cores", 8), 0.0625)):
        said = say(
            "simulate", "features", "--images", 10**6, "--unit", "decode=0.5e-6", *gpu, "--json"
        )
        assert said.json["stages"]["decoding"] == pytest.approx(decoding)
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
        (("features", "--images", 9, "--cores", 2), "add --gpu"),
    ):
        said = say("simulate", *wrong)
        assert (said.code, told in said.err) == (1, True), said.err
