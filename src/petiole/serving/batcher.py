"""Rows of all requests to the inference process, in batches of what can share a forward; none waits for others to come.

While a batch is computed, rows gather; when it is done, as many of them follow together as were measured to be cheapest a
row (``BatchSize``). Where batching loses, as it does for some models on a processor, rows go one by one.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from petiole.serving.batch_size import BatchSize
from petiole.serving.limits import Limits
from petiole.serving.process import Inference, Refused, WorkerGone
from petiole.serving.telemetry import Telemetry

AHEAD = 2
"""Batches at a process: one is computed while the next one is on its way."""


class Busy(Exception):
    """Too much waits already.

    Attributes:
        after: seconds until it is worth to ask again.
    """

    def __init__(self, after: float) -> None:
        super().__init__("The server is busy: a request would wait too long.")
        self.after = max(1, math.ceil(after))


@dataclass(eq=False)
class Row:
    """One row and its answer to come.

    Attributes:
        adapter: key of its adapter.
        value: what the process is told; ``folder`` is added when it goes, so that a swapped adapter holds at once.
        image: its bytes.
    """

    adapter: str
    value: dict[str, Any]
    image: bytes
    answer: asyncio.Future[dict[str, Any]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Batcher:
    """The queue before one process.

    Args:
        process: that answers ``rows``.
        folder_of: where the adapter of a name lies now; ``None`` if it is gone.
        limits: of the server.
        telemetry: hears of batches.
    """

    def __init__(
        self,
        process: Inference,
        folder_of: Callable[[str], str | None],
        limits: Limits,
        telemetry: Telemetry,
    ) -> None:
        self.process, self.folder_of = process, folder_of
        self.limits, self.telemetry = limits, telemetry
        self.queue: deque[Row] = deque()
        self.bytes = 0
        self._groups: dict[str, str] = {}
        self._sizes: dict[str, BatchSize] = {}
        self._running: dict[asyncio.Task[None], float] = {}
        self._last = 0.0
        self._turn = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        process.on_end = self._drop

    def start(self) -> None:
        """Begin to send."""
        self._loop = asyncio.create_task(self._send())

    async def stop(self) -> None:
        """Send what waits, then end."""
        while self.queue or self._running:
            await asyncio.sleep(0.02)
        if self._loop:
            self._loop.cancel()
            with suppress(asyncio.CancelledError):
                await self._loop

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is computed."""
        return not self.queue and not self._running

    def forget(self, adapter: str) -> None:
        """An adapter is gone."""
        self._groups.pop(adapter, None)
        self._sizes.pop(adapter, None)

    def expected_wait(self) -> float:
        """Seconds until a row that came now would be begun."""
        waiting = sum(self._size(row.adapter).seconds for row in self.queue)
        return (waiting + sum(self._running.values())) / self.process.places

    def check(self, size: int = 0) -> None:
        """Raise Busy if a request of so many bytes would wait too long, or WorkerGone if nothing could answer it."""
        if not self.process.ready.is_set():
            raise WorkerGone
        if (wait := self.expected_wait()) > self.limits.wait:
            raise Busy(wait - self.limits.wait / 2)
        if self.bytes + size > self.limits.queued:
            raise Busy(wait)

    async def answer(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Answers of the rows of one request, in order.

        Raises:
            Busy: they would wait too long.
            WorkerGone: the process died over them.
            TimeoutError: they took too long.
        """
        self.check(sum(len(row.image) for row in rows))
        self.queue.extend(rows)
        self.bytes += sum(len(row.image) for row in rows)
        self._turn.set()
        try:
            async with asyncio.timeout(self.limits.seconds):
                return [await row.answer for row in rows]
        finally:
            for row in rows:
                if not row.answer.done():
                    row.answer.cancel()

    async def _send(self) -> None:
        while True:
            await self._turn.wait()
            await self.process.ready.wait()
            self._turn.clear()
            while self.queue and len(self._running) < AHEAD * self.process.places:
                if batch := self._next():
                    size = self._size(batch[0].adapter)
                    task = asyncio.create_task(self._run(batch, size))
                    self._running[task] = size.seconds * len(batch)
                    task.add_done_callback(self._done)

    def _drop(self) -> None:
        """The process has ended, and a fresh one takes seconds: what waits fails now."""
        for row in self.queue:
            _fail(row, WorkerGone())
        self.queue.clear()
        self.bytes = 0

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._turn.set()

    def _next(self) -> list[Row]:
        """The oldest row and those that can go with it; rows that nobody waits for any more fall out."""
        while self.queue and self.queue[0].answer.done():
            self.bytes -= len(self.queue.popleft().image)
        if not self.queue:
            return []
        group = self._group(self.queue[0].adapter)
        fitting = [r for r in self.queue if self._group(r.adapter) == group and not r.answer.done()]
        batch = fitting[: self._size(self.queue[0].adapter).choose(len(fitting))]
        taken = set(map(id, batch))
        self.queue = deque(row for row in self.queue if id(row) not in taken)
        self.bytes -= sum(len(row.image) for row in batch)
        return batch

    async def _run(self, batch: list[Row], size: BatchSize) -> None:
        there = [(row, folder) for row in batch if (folder := self.folder_of(row.adapter))]
        for row in batch:
            if self.folder_of(row.adapter) is None:
                _settle(row, {"error": f"Adapter {row.adapter!r} is gone.", "kind": "Gone"})
        if not there:
            return
        sent = perf_counter()
        value = {"do": "rows", "rows": [{**row.value, "folder": folder} for row, folder in there]}
        try:
            call = self.process.call(value, [row.image for row, _ in there])
            said = (await asyncio.wait_for(call, self.limits.seconds)).value
        except (WorkerGone, Refused, TimeoutError) as error:
            if isinstance(error, TimeoutError):
                self.process.recycle()  # it hangs
            for row, _ in there:
                _fail(row, error)
            return
        for (row, folder), answer in zip(there, said["answers"], strict=True):
            self._groups[row.adapter] = said["groups"].get(folder, row.adapter)
            _settle(row, answer)
        # From the answer before, if this batch stood behind it: all that a row costs, not the forward alone.
        now = perf_counter()
        size.learn(len(there), now - max(sent, self._last))
        self._last = now
        self.telemetry.batch(len(there), said["seconds"], said["reads"])

    def _group(self, adapter: str) -> str:
        return self._groups.get(adapter, adapter)

    def _size(self, adapter: str) -> BatchSize:
        size = BatchSize(self.limits.batch, self.limits.wait / 4)
        return self._sizes.setdefault(self._group(adapter), size)


def _settle(row: Row, answer: dict[str, Any]) -> None:
    if not row.answer.done():
        row.answer.set_result(answer)


def _fail(row: Row, error: Exception) -> None:
    if not row.answer.done():
        row.answer.set_exception(error)
        row.answer.exception()  # its request may be gone, and this is no news then
