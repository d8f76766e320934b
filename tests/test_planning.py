"""What parts cost, by a clock that is told what to say; and bounds of the estimates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from builders.images import write_images
from petiole.backbones.base import Backbone
from petiole.engine.share import BATCH, SHARD
from petiole.errors import ConfigError
from petiole.planning import measure
from petiole.planning.scale import (
    ID_BYTES,
    STORE_RATE,
    UnitCosts,
    cost,
    extraction,
    serving,
    table,
)
from petiole.testing import backbones as tiny

COSTS = UnitCosts(0.1, 0.3, 0.5, 0.01, 0.001, 2, 4, 1, 0.01, 0.2)


def test_costs_are_medians_of_five_after_a_first_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sorted(write_images(tmp_path / "images", 2, 0).rglob("*.png"))[:3]
    backbone: Backbone = tiny.build("vit", tmp_path / "model")
    now, calls = [0.0], {"decode": 0, "forward": 0, "write": 0, "header": 0}

    def spend(name: str, lasts: list[float]):  # type: ignore[no-untyped-def]
        def step() -> None:
            now[0] += lasts[min(calls[name], len(lasts) - 1)]
            calls[name] += 1

        return step

    # The first call of each is slow and does not count; the median of the five that follow is the third largest.
    # Each has one call before it is timed: images for a batch, a row of features, and a shard for its header.
    steps = {
        "decode": spend("decode", [99.0] * 6 + [3, 3, 3, 9, 9, 9, 6, 6, 6, 30, 30, 30, 3, 3, 3]),
        "forward": spend("forward", [99.0, 99.0, 4, 80, 8, 16, 2]),
        "write": spend("write", [99.0, 99.0, 5, 1, 7, 2, 50]),
        "header": spend("header", [99.0, 0.5, 0.25, 2, 1, 9]),
    }
    load, load_shard = measure.load, measure.load_shard
    run, write = measure.Features.run, measure.FeatureCache.write
    monkeypatch.setattr(measure, "load", lambda one: (steps["decode"](), load(one))[1])
    monkeypatch.setattr(
        measure, "load_shard", lambda path: (steps["header"](), load_shard(path))[1]
    )
    monkeypatch.setattr(measure.Features, "run", lambda *a: (steps["forward"](), run(*a))[1])
    monkeypatch.setattr(measure.FeatureCache, "write", lambda *a: (steps["write"](), write(*a))[1])
    found = measure.measured(images, backbone, COSTS, lambda: now[0])
    assert calls == {"decode": 3 + 3 + 15, "forward": 1 + 1 + 5, "write": 1 + 1 + 5, "header": 6}
    assert found.decode == pytest.approx(6.0), "18 seconds of three images"
    assert found.forward == pytest.approx(8 / BATCH)
    assert found.write == pytest.approx(5.0)
    assert found.header == pytest.approx(1.0)
    kept = {
        name: getattr(found, name) for name in ("task", "start", "run", "job", "request", "read")
    }
    assert kept == {"task": 0.001, "start": 2, "run": 4, "job": 1, "request": 0.01, "read": 0.2}


def test_a_batch_is_filled_with_the_images_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sorted(write_images(tmp_path / "images", 2, 0).rglob("*.png"))[:2]
    backbone: Backbone = tiny.build("vit", tmp_path / "model")
    seen: list[tuple[int, ...]] = []
    shards: list[dict[str, torch.Tensor]] = []
    run, write = measure.Features.run, measure.FeatureCache.write
    monkeypatch.setattr(measure.Features, "run", lambda self, x, role: (seen.append(tuple(x.shape)), run(self, x, role))[1])  # fmt: skip
    monkeypatch.setattr(measure.FeatureCache, "write", lambda self, key, ids, shard: (shards.append(shard), write(self, key, ids, shard))[1])  # fmt: skip
    found = measure.measured(images, backbone, COSTS)
    assert {shape[0] for shape in seen} == {BATCH, 1}
    (one,) = shards[0].values()
    assert one.shape[0] == SHARD
    assert torch.equal(one[0], one[-1])
    assert min(found.decode, found.forward, found.write, found.header) > 0


def test_a_worker_that_resumes_for_more_than_a_minute_is_told() -> None:
    slow = UnitCosts(header=60.5)
    assert "1 headers first: 60 s" in extraction(1, slow).notes[0]
    assert extraction(1, UnitCosts(header=60.0)).notes == ()
    (note,) = extraction(2**33 // ID_BYTES + 1, UnitCosts(header=0.0)).notes
    assert note.startswith("names and ids of all images take 9 GB in one process")


def test_shards_and_tasks_are_whole() -> None:
    one = extraction(1, COSTS).stages
    assert one["writing"] == 0.5
    assert one["scheduler"] == pytest.approx((1 / BATCH + 1) * 0.001)
    assert extraction(SHARD, COSTS).stages["writing"] == 0.5
    assert extraction(SHARD + 1, COSTS).stages["writing"] == 1.0
    assert one["requests to one store prefix"] == 1 / STORE_RATE
    assert list(one) == [
        "decoding and network",
        "writing",
        "scheduler",
        "requests to one store prefix",
    ]


def test_runs_with_and_without_images() -> None:
    plain = table(7, COSTS, places=2)
    assert list(plain.stages) == ["runs", "opening and saving", "scheduler"]
    assert (plain.seconds, plain.bottleneck) == (2 + 4 * 5, "runs")
    images = table(7, COSTS, places=2, images=1000)
    alone = extraction(1000, COSTS, workers=2)
    assert images.stages["features"] == alone.stages[alone.bottleneck]
    assert images.seconds == pytest.approx(plain.seconds + images.stages["features"])
    assert images.bottleneck == "features"
    views = table(7, COSTS, places=2, images=1000, views=3)
    assert views.stages["features"] == pytest.approx(4 * images.stages["features"])
    quick = table(100, UnitCosts(run=0.0, job=0.001, task=1.0), places=100)
    assert quick.seconds == pytest.approx(7.7 + 100)
    for given in ({"runs": 0}, {"runs": 1, "places": 0}):
        with pytest.raises(ConfigError, match="must be above 0"):
            table(costs=COSTS, **given)


def test_the_rarely_asked_wait_for_their_adapter() -> None:
    costs = UnitCosts(decode=0.1, forward=0.1, read=0.5, request=0.01)
    found = serving(0.5, costs, replicas=2, adapters=5, loaded=2, skew=1.0)
    weights = [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]
    absent = weights[4] / sum(weights)
    assert found.notes[0] == f"{100 * absent:.1f} % of the requests wait for an adapter to be read"
    assert found.stages["reading adapters"] == pytest.approx(0.5 * absent * 0.5 / 2)
    assert found.stages["network"] == pytest.approx(0.5 * 0.2 / 2)
    assert found.stages["HTTP process"] == pytest.approx(0.005)
    assert found.stages["queue"] == pytest.approx(
        found.stages["network"] + found.stages["reading adapters"]
    )
    steep = serving(0.5, costs, replicas=2, adapters=5, loaded=2, skew=2.0)
    weights = [1, 1 / 4, 1 / 9, 1 / 16, 1 / 25]
    assert steep.stages["reading adapters"] == pytest.approx(0.5 * weights[4] / sum(weights) * 0.5 / 2)  # fmt: skip
    flat = serving(0.5, costs, replicas=2, adapters=5, loaded=2, skew=0.0)
    assert flat.stages["reading adapters"] == pytest.approx(0.5 * 0.2 * 0.5 / 2)
    assert serving(0.5, costs, adapters=3, loaded=3).stages["reading adapters"] == 0
    reading = serving(0.5, UnitCosts(decode=0, forward=0.01, read=1.0, request=0.01), adapters=100, loaded=1, skew=0)  # fmt: skip
    assert reading.bottleneck == "reading adapters"
    for name in ("requests", "replicas", "adapters", "loaded"):
        given = {"requests": 1.0, "replicas": 1, "adapters": 1, "loaded": 1, name: 0}
        with pytest.raises(ConfigError, match=f"{name} is 0; it must be above 0"):
            serving(costs=costs, **given)


def test_how_many_replicas_would_be_busy() -> None:
    costs = UnitCosts(decode=0.25, forward=0.25, request=0.001)
    assert serving(9, costs, replicas=3).notes[1].startswith("the replicas are full: 5 would be")


def test_money() -> None:
    assert cost(7200, 3, 2.5) == 15.0
