"""Reading ahead changes nothing but the time: order, errors, bounds, what is stored."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from petiole.backbones.base import State
from petiole.backbones.vision.cnn import ConvNet
from petiole.data.dataset import Sample
from petiole.data.preprocessing import Augmentation
from petiole.data.sources import open_data
from petiole.engine import feature_filling, feature_store
from petiole.engine.feature_extractor import Features
from petiole.engine.feature_filling import fill, prefetched
from petiole.engine.feature_store import FeatureCache, Key
from petiole.engine.feature_table import LiveTable
from petiole.errors import CacheError, DataError

Tiny = Callable[..., ConvNet]
IDS = [f"{i:064x}" for i in range(11)]
KEY = Key("f" * 64, "p" * 64, ("final",))


def test_inputs_come_in_order_and_at_most_so_many_wait() -> None:
    made, taken = list[int](), list[int]()
    inputs = (taken.append(i) or i for i in range(20))
    ready = prefetched(inputs, lambda i: made.append(i) or -i, ahead=3)
    for i in range(20):
        assert next(ready) == -i
        assert len(made) <= len(taken) == min(20, i + 1 + 3)
    assert next(ready, None) is None
    assert made == list(range(20))


def test_they_are_made_while_the_caller_works() -> None:
    both = threading.Barrier(2, timeout=60)
    ready = prefetched(range(2), lambda i: both.wait() if i else i)
    assert next(ready) == 0
    both.wait()  # passes only if the second is being made now
    assert next(ready) in (0, 1)


def test_an_error_comes_where_its_input_would_have_and_the_rest_is_dropped() -> None:
    made: list[int] = []

    def prepare(i: int) -> int:
        if i == 2:
            raise DataError("the third cannot be read")
        made.append(i)
        return i

    ready = prefetched(range(100), prepare)
    assert [next(ready), next(ready)] == [0, 1]
    with pytest.raises(DataError, match="the third"):
        next(ready)
    assert max(made) < 10


def test_one_is_made_at_a_time_and_those_that_wait_are_dropped_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[Any] = []

    class Aside(ThreadPoolExecutor):
        def __init__(self, count: int) -> None:
            threads.append(count)
            super().__init__(count)

        def shutdown(self, **how: Any) -> None:  # type: ignore[override]
            threads.append(how)
            super().shutdown(**how)

    monkeypatch.setattr(feature_filling, "ThreadPoolExecutor", Aside)
    ready = prefetched("abc", str.upper)
    assert next(ready) == "A"
    ready.close()  # type: ignore[attr-defined]
    assert threads == [1, {"cancel_futures": True}]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_filling, "BATCH", 2)
    monkeypatch.setattr(feature_filling, "SHARD", 4)


def values(ids: Sequence[str]) -> State:
    return {"final": torch.tensor([[float(int(i, 16)), 1.0] for i in ids])}


@pytest.mark.usefixtures("small_shards")
def test_every_image_gets_its_own_row_across_batches_and_shards(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.write(KEY, IDS[3:5], values(IDS[3:5]))
    computed: list[str] = []

    def compute(ids: Sequence[str]) -> State:
        computed.extend(ids)
        return values(ids)

    fill(cache, KEY, [*IDS, IDS[0]], lambda ids: ids, compute, label="", quiet=True)
    assert computed == [*IDS[:3], *IDS[5:]]
    rows = FeatureCache(tmp_path).read(KEY, IDS)
    assert [int(rows[image]["final"][0]) for image in IDS] == list(range(11))


@pytest.mark.usefixtures("small_shards")
def test_the_bar_moves_by_the_images_of_each_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[Any] = []

    @contextmanager
    def progress(*of: Any, **how: Any) -> Iterator[Callable[[int], None]]:
        moved.append((of, how))
        yield moved.append

    monkeypatch.setattr(feature_filling, "progress", progress)
    cache = FeatureCache(tmp_path)
    fill(cache, KEY, IDS[:7], lambda ids: ids, values, label="images", quiet=True)
    assert moved == [(("images", 7), {"quiet": True}), 2, 2, 2, 1]
    shards = (tmp_path / KEY.digest).glob("*.safetensors")
    assert sorted(len(feature_store.load_shard(path)[0]) for path in shards) == [3, 4]


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_shard_that_cannot_be_written_ends_it_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    cache, write, tried = FeatureCache(tmp_path), FeatureCache.write, list[int]()

    def full(self: FeatureCache, key: Key, ids: Sequence[str], state: State) -> None:
        tried.append(len(ids))
        if len(tried) == at + 1:  # and there is room again afterwards
            raise CacheError("the disk is full")
        write(self, key, ids, state)

    monkeypatch.setattr(FeatureCache, "write", full)
    with pytest.raises(CacheError, match="the disk is full"):
        fill(cache, KEY, IDS, lambda ids: ids, values, label="", quiet=True)
    left = FeatureCache(tmp_path).missing(KEY, IDS)
    assert left[:4] == IDS[4 * at : 4 * at + 4], "of one that waits behind it nothing is said"
    assert len(tried) <= at + 2


def test_what_was_expected_is_read_once_and_anything_else_anew(
    photos: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, spec = open_data(photos), Augmentation()
    features = Features(tiny(), quiet=True)
    table = LiveTable(features, data.samples, ("images",), spec)
    rows = [torch.tensor(r) for r in ([3, 0], [1, 2], [4, 4])]
    view = torch.tensor([1, 2])
    plain = [LiveTable(features, data.samples, ("images",), spec).fetch(r, view) for r in rows]
    seen: list[list[str]] = []
    views = Features.views

    def counted(
        self: Features, chosen: Sequence[tuple[Sample, int]], spec: Augmentation
    ) -> list[Tensor]:
        seen.append([sample.id for sample, _ in chosen])
        return views(self, chosen, spec)

    monkeypatch.setattr(Features, "views", counted)
    table.expect(lambda: (rows[0], view))
    assert torch.equal(table.fetch(rows[0], view)["images"], plain[0]["images"])
    assert len(seen) == 1
    table.expect(lambda: (rows[2], view))
    assert torch.equal(table.fetch(rows[1], view)["images"], plain[1]["images"])
    assert torch.equal(table.fetch(rows[2], view)["images"], plain[2]["images"])


def test_one_batch_is_read_ahead_at_a_time() -> None:
    """What is kept of them is counted without a lock."""
    at_work, most = [0], [0]

    def views(chosen: Sequence[tuple[Sample, int]], spec: Augmentation) -> list[Tensor]:  # noqa: ARG001
        at_work[0] += 1
        most[0] = max(most[0], at_work[0])
        time.sleep(0.02)
        at_work[0] -= 1
        return [torch.full((1,), float(view)) for _, view in chosen]

    features: Any = SimpleNamespace(
        device=torch.device("cpu"), views=views, stack=torch.stack, run=lambda images, cut: {cut[0]: images}
    )  # fmt: skip
    table = LiveTable(features, ["image"], ("images",), Augmentation())  # type: ignore[list-item]
    for view in (3, 4):
        table.expect(lambda view=view: (torch.tensor([0]), torch.tensor([view])))  # type: ignore[misc]
    assert table.fetch(torch.tensor([0]), torch.tensor([4]))["images"].tolist() == [[4.0]]
    assert most == [1]


def test_memory_is_given_back_when_all_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[bool] = []
    monkeypatch.setattr(feature_filling, "release_memory", lambda: given.append(True))
    cache = FeatureCache(tmp_path)
    for _ in range(2):
        fill(cache, KEY, IDS[:3], lambda ids: ids, values, label="", quiet=True)
    assert given == [True], "of what is stored nothing is computed"
