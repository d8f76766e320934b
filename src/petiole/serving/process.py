"""A worker process, seen from the HTTP process: started anew when it dies; what it was asked then fails cleanly."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

from petiole.processes import how_it_ended
from petiole.serving.channel import Message, receive, send
from petiole.serving.telemetry import log

Main = Callable[[Connection, Mapping[str, Any]], None]
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0
END_SECONDS = 5.0
"""That a process gets to end by itself."""


class WorkerGone(Exception):
    """The process died, or is not there yet; it is being started. Ask again later."""

    def __init__(self, text: str = "The process is being started.") -> None:
        super().__init__(text)


class Refused(Exception):
    """The worker says why it does not answer.

    Attributes:
        kind: class name of the error there; ``Unforeseen`` where it is none of ours.
    """

    def __init__(self, text: str, kind: str) -> None:
        super().__init__(text)
        self.kind = kind


class Inference(Protocol):
    """What answers batches: one process (``WorkerProcess``), or replicas on a cluster.

    Attributes:
        ready: whether it answers.
        places: batches that are computed at a time.
        starts: how often it was started.
        on_end: called when it has ended.
    """

    ready: asyncio.Event
    places: int
    starts: int
    on_end: Callable[[], None]

    @property
    def memory(self) -> int: ...

    async def start(self) -> dict[str, Any]: ...

    async def stop(self) -> None: ...

    def recycle(self) -> None: ...

    async def call(self, value: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> Message: ...


class WorkerProcess:
    """Keeps one process of ``main`` alive.

    Args:
        main: of the process: takes its end of the pipe and ``setup()``; its first message is that it is ready.
        setup: what it is started with, asked again at every start.

    Attributes:
        places: batches that are computed at a time: one.
        ready: whether it answers.
        starts: how often it was started.
        failure: why it ended last, or could not start.
        on_end: called when it has ended.
    """

    def __init__(self, main: Main, setup: Callable[[], Mapping[str, Any]]) -> None:
        self.main, self.setup = main, setup
        self.ready = asyncio.Event()
        self.places, self.starts = 1, 0
        self.on_end: Callable[[], None] = lambda: None
        self.failure = ""
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._numbers = itertools.count()
        self._sender = ThreadPoolExecutor(1)
        self._keeper: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._process: Any = None

    async def start(self) -> dict[str, Any]:
        """Start it, and return what it says first.

        Raises:
            Refused: it cannot start with this setup.
        """
        hello: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep(hello))
        return await hello

    async def stop(self) -> None:
        """End it and do not start it again."""
        if self._keeper:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        self._sender.shutdown(wait=False, cancel_futures=True)

    def recycle(self) -> None:
        """Let it end; a fresh one follows."""
        if self._process:
            self._process.terminate()

    @property
    def memory(self) -> int:
        """Resident bytes; 0 where it cannot be known."""
        with suppress(OSError, AttributeError):
            pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
            return int(pages) * 4096
        return 0

    async def call(self, value: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> Message:
        """Ask, and wait for the answer.

        Raises:
            WorkerGone: it is not there, or died over it.
            Refused: it says no.
        """
        if not self.ready.is_set() or self._connection is None:
            raise WorkerGone
        number, loop = next(self._numbers), asyncio.get_running_loop()
        answer = self._waiting[number] = loop.create_future()
        connection = self._connection
        try:
            with suppress(OSError):  # its death is told to the future
                await loop.run_in_executor(
                    self._sender, send, connection, {**value, "number": number}, blobs
                )
            message: Message = await answer
            return message
        finally:
            self._waiting.pop(number, None)

    async def _keep(self, hello: asyncio.Future[dict[str, Any]]) -> None:
        pause = FIRST_PAUSE
        while True:
            ended = asyncio.Event()
            try:
                first = await self._first(ended)
                self.failure = first.get("error", "")
                if self.failure and not hello.done():
                    hello.set_exception(Refused(self.failure, first.get("kind", "")))
                    return
                if not self.failure:
                    pause = FIRST_PAUSE
                    self.starts += 1
                    self.ready.set()
                    if not hello.done():
                        hello.set_result(first)
                    await ended.wait()
                    self.ready.clear()
                    self.failure = f"The process {await self._how_it_ended()}."
                log("worker", what="gone", why=self.failure)
            finally:
                self.ready.clear()
                await self._reap()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _spawn(self, ended: asyncio.Event) -> None:
        context = multiprocessing.get_context("spawn")
        mine, theirs = context.Pipe()
        process = context.Process(target=self.main, args=(theirs, dict(self.setup())), daemon=True)
        process.start()
        theirs.close()
        self._connection, self._process = mine, process
        self._hello: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        listen = (mine, asyncio.get_running_loop(), ended)
        Thread(target=self._listen, args=listen, daemon=True).start()

    async def _first(self, ended: asyncio.Event) -> dict[str, Any]:
        """Start it, and return what it says first, or why it says nothing."""
        try:
            self._spawn(ended)
        except OSError as error:
            return {"error": f"The process cannot be started: {error}.", "kind": "WorkerGone"}
        end = asyncio.create_task(ended.wait())
        await asyncio.wait((self._hello, end), return_when=asyncio.FIRST_COMPLETED)
        end.cancel()
        if self._hello.done():
            return self._hello.result().value
        how = await self._how_it_ended()
        return {"error": f"The process {how} before it was ready.", "kind": "WorkerGone"}

    async def _how_it_ended(self) -> str:
        await asyncio.to_thread(self._process.join, END_SECONDS)
        return how_it_ended(self._process.exitcode)

    def _listen(
        self, source: Connection, loop: asyncio.AbstractEventLoop, ended: asyncio.Event
    ) -> None:
        """In a thread of its own, for reading waits."""
        with suppress(RuntimeError):  # the loop is closed: the server has ended
            try:
                while True:
                    loop.call_soon_threadsafe(self._told, receive(source))
            except (EOFError, OSError, ValueError):
                loop.call_soon_threadsafe(ended.set)

    def _told(self, message: Message) -> None:
        number = message.value.pop("number", None)
        future = self._hello if number is None else self._waiting.get(number)
        if future is None or future.done():
            return
        if number is not None and "error" in message.value:
            future.set_exception(Refused(message.value["error"], message.value["kind"]))
        else:
            future.set_result(message)

    async def _reap(self) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(WorkerGone(self.failure))
        self.on_end()
        if self._process:
            self._process.terminate()
            await asyncio.to_thread(self._process.join, END_SECONDS)
            self._process.kill()
        if self._connection:
            self._connection.close()
            self._connection = None
