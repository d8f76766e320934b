"""Sizes of batches, what waits, and a process that hangs."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("httpx2", reason="the extra serve is not installed")
pytest.importorskip("fastapi", reason="the extra serve is not installed")
from petiole.serving.batch_size import EXPLORE, BatchSize, _power
from petiole.serving.batcher import Batcher, Busy, Row
from petiole.serving.limits import Limits
from petiole.serving.process import WorkerGone
from petiole.serving.telemetry import Telemetry


def sized(most: int = 8, longest: float = float("inf"), **cost: float) -> BatchSize:
    size = BatchSize(most, longest)
    size.cost = {int(name[1:]): value for name, value in cost.items()}
    return size


def test_the_cheapest_size_or_the_next_untried_one() -> None:
    assert BatchSize(8).sizes == [1, 2, 4, 8]
    assert BatchSize(9).sizes == [1, 2, 4, 8]
    assert BatchSize(8).best == 1
    assert sized(_1=1.0).best == 2, "the next one is tried"
    assert sized(_1=1.0, _2=2.0).best == 1
    assert sized(_1=1.0, _2=0.5).best == 4
    assert sized(2, _1=1.0, _2=0.5).best == 2, "there is no larger one"
    assert sized(8, 2.0, _1=1.0, _2=0.9).best == 2, "1.8 seconds; four rows would take 3.6"
    assert sized(8, 1.8, _1=1.0, _2=0.9).best == 2, "exactly as long as it may take"
    assert sized(8, 1.79, _1=1.0, _2=0.9).best == 1
    assert sized(8, 0.5, _1=1.0).best == 1, "one row goes whatever it takes"
    assert sized(8, 2.0, _1=1.0).best == 2
    assert sized(8, 1.99, _1=1.0).best == 1


def test_sizes_are_powers_of_two_of_those_that_wait() -> None:
    assert [_power(n) for n in (1, 2, 3, 4, 7, 8, 9)] == [1, 2, 2, 4, 4, 8, 8]
    size = sized(8, _1=1.0, _2=0.9, _4=0.5, _8=0.9)
    assert [size.choose(n) for n in (0, 1, 3, 4, 100)] == [1, 1, 2, 4, 4]


def test_a_neighbour_is_tried_every_so_often() -> None:
    size = sized(8, _1=1.0, _2=0.9, _4=0.5, _8=0.9)
    taken = [size.choose(100) for _ in range(2 * EXPLORE)]
    assert taken == [4] * (EXPLORE - 1) + [2] + [4] * (EXPLORE - 1) + [8]
    largest = sized(4, _1=1.0, _2=0.9, _4=0.5)
    assert [largest.choose(100) for _ in range(2 * EXPLORE)][-1] == 4
    least = sized(4, _1=0.1, _2=0.9)
    assert [least.choose(100) for _ in range(2 * EXPLORE)] == [1] * (2 * EXPLORE - 1) + [2]
    slow = sized(8, 2.0, _1=1.0, _2=0.6, _4=0.8)
    assert [slow.choose(100) for _ in range(2 * EXPLORE)][-1] == 2, "four rows take too long"


def test_what_a_batch_took_is_taken_in() -> None:
    size = BatchSize(8)
    size.learn(3, 6.0)
    assert (size.cost, size.seconds) == ({2: 2.0}, 2.0)
    size.learn(2, 8.0)
    assert size.cost == {2: pytest.approx(2.0 + 0.2 * 2.0)}
    assert size._slow == pytest.approx(1.5), "twice as slow, and half of that is believed"
    size.learn(2, 2000.0)
    assert size._slow == pytest.approx(1.5 + 0.5 * (10 - 1.5)), "ten times at most"
    quick = sized(8, _1=1.0)
    quick.learn(1, 0.001)
    assert quick._slow == pytest.approx(1 + 0.5 * (0.1 - 1)), "and a tenth at least"
    untried = sized(8, _1=0.5)
    assert untried.seconds == 0.5, "of a size that was not tried the cheapest stands in"


def test_busy_says_when_to_ask_again() -> None:
    assert [Busy(after).after for after in (0.0, 0.2, 1.0, 1.01, 7.5)] == [1, 1, 1, 2, 8]


def test_what_waits_is_summed_over_places_and_bounds_hold_exactly() -> None:
    async def main() -> None:
        ready = asyncio.Event()
        process: Any = SimpleNamespace(ready=ready, places=2, on_end=None)
        batcher = Batcher(process, {}.get, Limits(wait=0.1, queued=10, batch=4), Telemetry())
        with pytest.raises(WorkerGone):
            batcher.check()
        ready.set()
        assert batcher.expected_wait() == 0
        batcher.check(10)
        with pytest.raises(Busy):
            batcher.check(11)
        batcher.queue.extend(Row("a", {}, b"12") for _ in range(4))
        batcher.bytes = 8
        assert batcher.expected_wait() == pytest.approx(4 * 0.05 / 2), "exactly as long as may be"
        batcher.check(2)
        with pytest.raises(Busy):
            batcher.check(3)
        batcher.queue.append(Row("a", {}, b""))
        with pytest.raises(Busy) as told:
            batcher.check()
        assert told.value.after == 1
        assert batcher._size("a").longest == pytest.approx(0.025)
        assert not batcher.idle
        batcher._groups["a"] = "g"
        batcher.forget("a")
        assert batcher._group("a") == "a"
        process.on_end()
        assert (len(batcher.queue), batcher.bytes, batcher.idle) == (0, 0, True)

    asyncio.run(main())


def test_a_process_that_hangs_is_ended() -> None:
    async def main() -> None:
        ended: list[str] = []
        ready = asyncio.Event()
        ready.set()

        async def call(*_: Any) -> None:
            await asyncio.sleep(9)

        process: Any = SimpleNamespace(ready=ready, places=1, on_end=None, call=call, recycle=lambda: ended.append("x"))  # fmt: skip
        batcher = Batcher(process, {"a": "folder"}.get, Limits(seconds=0.05), Telemetry())
        batcher.start()
        with pytest.raises(TimeoutError):
            await batcher.answer([Row("a", {}, b"")])
        await asyncio.sleep(0.05)
        assert ended == ["x"]
        await batcher.stop()

    asyncio.run(main())
