"""The queue before the inference process, with a process that answers as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="the extra serve is not installed")
from petiole.serving import batcher as batcher_of
from petiole.serving.batcher import AHEAD, Batcher, Busy, Row
from petiole.serving.channel import Message
from petiole.serving.limits import Limits
from petiole.serving.process import WorkerGone
from petiole.serving.telemetry import Telemetry


class Process:
    """Answers when it is let; each row by the folder that it came with."""

    places = 1

    def __init__(self) -> None:
        self.ready, self.go = asyncio.Event(), asyncio.Event()
        self.ready.set()
        self.batches: list[list[str]] = []
        self.dies = False
        self.on_end: Callable[[], None] = lambda: None

    async def call(self, value: dict[str, Any], blobs: list[bytes]) -> Message:
        rows = value["rows"]
        self.batches.append([row["folder"] for row in rows])
        await self.go.wait()
        if self.dies:
            raise WorkerGone
        await asyncio.sleep(0.01)
        groups = {row["folder"]: row["folder"][0] for row in rows}
        answers = [
            {"label": row["folder"], "bytes": len(b)} for row, b in zip(rows, blobs, strict=True)
        ]
        return Message({"answers": answers, "groups": groups, "seconds": 0.01, "reads": 0}, [])

    def recycle(self) -> None: ...


def play(
    scene: Callable[[Process, Batcher, dict[str, str]], Coroutine[Any, Any, None]], **bounds: Any
) -> None:
    """Run a scene on a fresh queue over adapters a1, a2 (one group) and b."""

    async def main() -> None:
        process, folders = Process(), {"a1": "a1", "a2": "a2", "b": "b"}
        batcher = Batcher(process, folders.get, Limits(**bounds), Telemetry())  # type: ignore[arg-type]
        batcher.start()
        await scene(process, batcher, folders)
        process.go.set()
        await batcher.stop()

    asyncio.run(main())


def ask(batcher: Batcher, *adapters: str) -> asyncio.Task[list[dict[str, Any]]]:
    rows = [Row(name, {}, b"image") for name in adapters]
    return asyncio.create_task(batcher.answer(rows))


def test_what_would_wait_too_long_is_refused_with_a_time() -> None:
    async def scene(process: Process, batcher: Batcher, _: dict[str, str]) -> None:
        asked = [ask(batcher, "b") for _ in range(20)]
        await asyncio.sleep(0.01)
        assert batcher.expected_wait() == pytest.approx(20 * 0.05)
        with pytest.raises(Busy) as told:
            batcher.check()
        assert told.value.after >= 1
        assert "would wait too long" in str(told.value)
        process.go.set()
        assert {row[0]["label"] for row in await asyncio.gather(*asked)} == {"b"}
        batcher.check()

    play(scene, wait=0.98)


def test_bytes_that_wait_are_bounded() -> None:
    async def scene(process: Process, batcher: Batcher, _: dict[str, str]) -> None:
        asked = [ask(batcher, "b", "b", "b", "b", "b")]
        await asyncio.sleep(0.01)
        assert batcher.bytes == 5 * (5 - AHEAD)
        with pytest.raises(Busy):
            batcher.check(86)
        process.go.set()
        await asyncio.gather(*asked)
        assert batcher.bytes == 0

    play(scene, queued=100)


def test_only_what_shares_a_forward_goes_together_and_nothing_starves() -> None:
    async def scene(process: Process, batcher: Batcher, _: dict[str, str]) -> None:
        process.go.set()
        for _ in range(4):  # groups and costs become known
            await ask(batcher, "a1", "a2", "b")
        process.batches.clear()
        said = await ask(batcher, *("a1", "b", "a2", "b") * 8)
        assert [one["label"] for one in said] == ["a1", "b", "a2", "b"] * 8
        assert all(len({folder[0] for folder in batch}) == 1 for batch in process.batches)
        assert any(set(batch) == {"a1", "a2"} for batch in process.batches)

    play(scene)


def test_a_swapped_adapter_holds_for_what_waits() -> None:
    async def scene(process: Process, batcher: Batcher, folders: dict[str, str]) -> None:
        first, *later = [ask(batcher, "b") for _ in range(AHEAD + 2)]
        await asyncio.sleep(0.01)
        folders["b"] = "b2"
        process.go.set()
        assert (await first)[0]["label"] == "b"
        assert (await later[-1])[0]["label"] == "b2"
        del folders["b"]
        assert (await ask(batcher, "b"))[0]["kind"] == "Gone"

    play(scene)


def test_a_death_fails_what_waits_and_what_runs() -> None:
    async def scene(process: Process, batcher: Batcher, _: dict[str, str]) -> None:
        asked = [ask(batcher, "b") for _ in range(6)]
        await asyncio.sleep(0.01)
        process.dies = True
        process.ready.clear()
        process.on_end()
        process.go.set()
        told = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(one, WorkerGone) for one in told)
        with pytest.raises(WorkerGone):
            batcher.check()
        assert batcher.bytes == 0

    play(scene)


def test_what_nobody_waits_for_is_not_computed() -> None:
    async def scene(process: Process, batcher: Batcher, _: dict[str, str]) -> None:
        asked = [ask(batcher, "b") for _ in range(AHEAD + 3)]
        await asyncio.sleep(0.01)
        for one in asked[AHEAD:]:
            one.cancel()
        process.go.set()
        await asyncio.gather(*asked, return_exceptions=True)
        await asyncio.sleep(0.05)
        assert sum(map(len, process.batches)) == AHEAD
        assert batcher.bytes == 0

    play(scene)


def test_a_stop_waits_for_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses, sleep = list[float](), asyncio.sleep

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    async def scene(process: Process, batcher: Batcher, _: dict[str, str]) -> None:
        asked = ask(batcher, "b", "b", "b")
        await sleep(0.01)
        monkeypatch.setattr(batcher_of.asyncio, "sleep", noted)
        ending = asyncio.create_task(batcher.stop())
        await sleep(0.01)
        assert not ending.done()
        process.go.set()
        await ending
        assert len(await asked) == 3
        assert batcher.idle
        assert max(pauses) < 0.1, "it ends soon after the last answer"

    play(scene)


def test_the_rows_of_a_late_request_are_not_computed() -> None:
    async def scene(process: Process, batcher: Batcher, _: dict[str, str]) -> None:
        with pytest.raises(TimeoutError):
            await ask(batcher, "b", "b", "b", "b")
        process.go.set()
        await asyncio.sleep(0.03)
        assert sum(map(len, process.batches)) == AHEAD

    play(scene, seconds=0.02)


def test_an_adapter_that_comes_anew_has_its_batches_measured_anew() -> None:
    async def scene(process: Process, batcher: Batcher, _: dict[str, str]) -> None:
        process.go.set()
        await ask(batcher, "b")
        await ask(batcher, "a1")
        assert (set(batcher._groups), set(batcher._sizes)) == ({"a1", "b"}, {"a1", "b"})
        batcher.forget("b")
        assert (set(batcher._groups), set(batcher._sizes)) == ({"a1"}, {"a1"})

    play(scene)


def test_nothing_is_sent_to_a_process_that_is_not_ready() -> None:
    async def scene(process: Process, batcher: Batcher, _: dict[str, str]) -> None:
        asked = ask(batcher, "b")
        await asyncio.sleep(0)  # it has come, and is not sent yet
        process.ready.clear()
        await asyncio.sleep(0.01)
        assert process.batches == []
        process.ready.set()
        process.go.set()
        assert (await asked)[0]["label"] == "b"

    play(scene)


def test_a_batch_under_way_takes_as_long_as_its_rows() -> None:
    async def scene(process: Process, batcher: Batcher, _: dict[str, str]) -> None:
        batcher._size("b").learn(4, 0.4)
        batcher._size("b").learn(1, 0.2)
        asked = ask(batcher, "b", "b", "b", "b")
        await asyncio.sleep(0.01)
        assert process.batches == [["b"] * 4]
        assert batcher.expected_wait() == pytest.approx(4 * batcher._size("b").seconds)
        process.go.set()
        await asked

    play(scene)
