"""Which adapters a server knows, and what becomes of a request: the HTTP face lies above, the models below."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from petiole.errors import AdapterError, ConfigError, unknown
from petiole.serving import worker
from petiole.serving.batcher import Batcher, Row
from petiole.serving.exports import Engine, export, place_of
from petiole.serving.limits import Limits
from petiole.serving.process import Inference, Refused, WorkerGone, WorkerProcess
from petiole.serving.telemetry import Telemetry, log

Setup = Callable[[], Mapping[str, Any]]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
FILES = ("adapter.json", "adapter.safetensors")
VERSION = "version-"
"""Begins the name of the folder of an upload, inside that of its name, so that one can follow another in one step."""


@dataclass
class Entry:
    """An adapter that is known.

    Attributes:
        folder: where it lies now.
        facts: what its manifest says, in short.
        graph: that ONNX Runtime answers with; ``None`` where torch does.
        uploaded: whether it came by PUT, so that the server may delete it.
        used: when it was last asked, by the clock of the machine; 0 for never.
        requests: that asked it.
    """

    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)
    graph: Path | None = None
    uploaded: bool = False
    used: float = 0.0
    requests: int = 0

    def public(self, name: str) -> dict[str, Any]:
        """What is told of it."""
        used = round(time.monotonic() - self.used, 1) if self.used else None
        return {"name": name, **self.facts, "requests": self.requests, "idle_seconds": used}


class Service:
    """Adapters by name over one inference process.

    Args:
        folders: name -> adapter folder.
        backbones: names of frozen models that uploads may be for, beside those of the adapters.
        store: where uploads are kept; a temporary folder of the server's own by default.
        device: of the models.
        engine: torch; onnx, ONNX Runtime for every adapter; auto, ONNX Runtime from when an adapter's graph is there and says the
            same, torch until then and for adapters without a graph.
        trusted: public key of who must have signed the adapters; uploads are then refused.
        cache: folder of the feature cache.
        limits: of the server.
        processes: makes what infers, of its setup; by default one process on this machine.
        canaries: adapter -> the one that answers a share of its requests, and that share.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        *,
        backbones: Sequence[str] = (),
        store: Path | None = None,
        device: str = "cpu",
        engine: Engine = "torch",
        trusted: Path | None = None,
        cache: Path | None = None,
        limits: Limits | None = None,
        processes: Callable[[Setup], Inference] | None = None,
        canaries: Mapping[str, tuple[str, float]] | None = None,
    ) -> None:
        self.limits, self.telemetry = limits or Limits(), Telemetry()
        self.entries = {name: Entry(folder) for name, folder in folders.items()}
        self.store = store
        self.engine, self.trusted = engine, trusted
        self._own: Path | None = None
        self._exporter: asyncio.Task[None] | None = None
        self._to_export: asyncio.Queue[tuple[str, Entry]] = asyncio.Queue()
        for entry in self.entries.values():
            entry.uploaded = entry.folder.name.startswith(VERSION)
        self.canaries = canaries or {}
        self.process: Inference = (processes or partial(WorkerProcess, worker.inference))(
            lambda: {
                "folders": {name: str(entry.folder) for name, entry in self.entries.items()},
                "backbones": list(backbones),
                "device": device,
                "loaded": self.limits.loaded,
                "pixels": self.limits.pixels,
                "engine": engine,
                "trusted": str(trusted or ""),
                "cache": str(cache or "cache"),
                "graphs": {
                    str(entry.folder): str(entry.graph)
                    for entry in self.entries.values()
                    if entry.graph
                },
            },
        )
        self.batcher = Batcher(self.process, self._folder_of, self.limits, self.telemetry)

    async def start(self) -> None:
        """Start the process and read all manifests.

        Raises:
            AdapterError: one cannot be served, or the process ended; the message says how.
        """
        if self.store is None:
            self.store = self._own = Path(tempfile.mkdtemp(prefix="petiole-serve-"))
        try:
            hello = await self.process.start()
            for name, facts in hello["described"].items():
                self.entries[name].facts = facts
            if self.engine == "onnx":
                for name, entry in self.entries.items():
                    await self._use_graph(name, entry)
        except BaseException as error:
            await self.stop()
            if isinstance(error, Refused | WorkerGone):
                raise AdapterError(f"The server cannot start. {error}") from error
            raise
        if self.engine != "onnx":
            for item in self.entries.items():
                self._to_export.put_nowait(item)
            self._exporter = asyncio.create_task(self._export_all())
        self.batcher.start()

    async def stop(self) -> None:
        """Answer what waits, then end the process."""
        if self._exporter:
            self._exporter.cancel()
            with suppress(asyncio.CancelledError):
                await self._exporter
        await self.batcher.stop()
        await self.process.stop()
        if self._own:
            _delete(self._own)

    def entry(self, name: str | None) -> tuple[str, Entry]:
        """An adapter by name; without one the only one.

        Raises:
            ConfigError: several, and none was named.
            AdapterError: no such name; the nearest are listed.
        """
        if name is None:
            if len(self.entries) != 1:
                raise ConfigError(
                    f"This server has {len(self.entries)} adapters: name one (adapter). See GET /v1/adapters."
                )
            name = next(iter(self.entries))
        if name not in self.entries:
            raise unknown("adapter of this server", name, self.entries, AdapterError)
        return name, self.entries[name]

    def chosen(self, name: str | None) -> str:
        """The adapter that answers a request for an adapter: itself, or by chance its canary.

        Raises:
            ConfigError, AdapterError: as of ``entry``.
        """
        name, _ = self.entry(name)
        other, share = self.canaries.get(name, (name, 0.0))
        return other if other in self.entries and random.random() < share else name

    async def answer(
        self, adapter: str | None, images: Sequence[tuple[str, bytes]], **value: Any
    ) -> list[dict[str, Any]]:
        """Rows of one request.

        Args:
            adapter: name.
            images: what each is called, and its bytes; an empty one for a question without an image.
            value: ``do`` and what it needs.

        Raises:
            Busy, WorkerGone, TimeoutError: not now.
            Refused: a row cannot be answered.
        """
        name, entry = self.entry(adapter)
        self._recycle_when_large()
        rows = [
            Row(name, {**value, "name": name, "image": called}, content)
            for called, content in images
        ]
        entry.used, entry.requests = time.monotonic(), entry.requests + 1
        answers = await self.batcher.answer(rows)
        for answer in answers:
            if "error" in answer:
                raise Refused(answer["error"], answer["kind"])
        self.telemetry.rows.labels(name).inc(len(rows))
        return answers

    async def put(self, name: str, files: Mapping[str, bytes]) -> dict[str, Any]:
        """Take in an adapter, or put it in the place of the one with that name; requests go on meanwhile.

        Raises:
            ConfigError: a name or file that cannot be.
            Refused: it is damaged, or for a model that is not here.
        """
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"{name[:80]!r} cannot be an adapter's name: letters, digits, '.', '_' and '-', at most 64."
            )
        if self.trusted:
            raise ConfigError(
                f"This server takes only adapters that {self.trusted.name} vouches for, and none by upload. Put it, signed, into the "
                "folder of adapters, and start the server again."
            )
        if set(files) != set(FILES):
            raise ConfigError(f"An adapter is the two files {' and '.join(FILES)}.")
        assert self.store is not None  # since the start
        folder = self.store / name / f"{VERSION}{uuid.uuid4().hex}"
        folder.mkdir(parents=True)
        try:
            for file, content in files.items():
                (folder / file).write_bytes(content)
            facts = (await self.process.call({"do": "admit", "folder": str(folder)})).value
            entry = Entry(folder, facts, uploaded=True, used=time.monotonic())
            if self.engine == "onnx":
                await self._use_graph(name, entry)
        except Refused as error:
            _delete(folder)
            raise Refused(str(error).replace(f"{folder}/", ""), error.kind) from error
        except BaseException:
            _delete(folder)
            raise
        old = self.entries.get(name)
        self.entries[name] = entry
        if self._exporter:
            self._to_export.put_nowait((name, entry))
        if old:
            self.entries[name].requests = old.requests
            await self._let_go(old)
        log("adapter", name=name, what="replaced" if old else "added", sha256=facts["sha256"])
        await self._evict(name)
        return self.entries[name].public(name)

    async def delete(self, name: str) -> None:
        """Let an adapter go; an uploaded one is deleted, one that was named at the start only let go.

        Raises:
            AdapterError: no such name.
        """
        name, entry = self.entry(name)
        del self.entries[name]
        self.batcher.forget(name)
        with suppress(KeyError):
            self.telemetry.rows.remove(name)
        log("adapter", name=name, what="removed")
        await self._let_go(entry)

    def measure(self) -> bytes:
        """Metrics, with what is counted elsewhere brought up to date."""
        told = self.telemetry
        told.queue.set(len(self.batcher.queue))
        told.wait.set(self.batcher.expected_wait())
        told.restarts.set(max(0, self.process.starts - 1))
        told.memory.set(self.process.memory)
        told.adapters.set(len(self.entries))
        told.workers.set(self.process.places)
        return told.exposition()

    async def _export_all(self) -> None:
        """One after the other; what torch goes on to answer says why."""
        while True:
            name, entry = await self._to_export.get()
            if self.entries.get(name) is not entry or entry.facts["engine_note"]:
                continue
            try:
                await self._use_graph(name, entry)
            except (AdapterError, Refused, WorkerGone, OSError) as error:
                entry.facts["engine_note"] = str(error) or "the inference process ended meanwhile"
                log("engine", name=name, engine="torch", note=entry.facts["engine_note"])

    async def _use_graph(self, name: str, entry: Entry) -> None:
        """Let ONNX Runtime answer for an adapter.

        Raises:
            AdapterError: it has no graph; the message says why.
            Refused: the graph cannot be used here.
        """
        if note := entry.facts["engine_note"]:
            raise AdapterError(f"Adapter {name!r} cannot be run by ONNX Runtime: {note}.")
        entry.facts["engine_note"] = "being exported"
        manifest = next((place for place in places_of(entry.folder) if place.is_file()), None)
        if manifest is None:
            raise AdapterError(f"Adapter {name!r} is gone from {entry.folder}.")
        if self._own is None:
            self._own = Path(tempfile.mkdtemp(prefix="petiole-serve-"))
        place = place_of(manifest, self._own)
        if not place.is_dir():
            log("engine", name=name, engine="torch", note=entry.facts["engine_note"])
            await export(entry.folder, place, aside=self.engine == "auto")
        await self.process.call({"do": "use", "folder": str(entry.folder), "place": str(place)})
        entry.graph = place
        entry.facts |= {"engine": "onnx", "engine_note": ""}
        log("engine", name=name, engine="onnx")

    def _folder_of(self, name: str) -> str | None:
        entry = self.entries.get(name)
        return str(entry.folder) if entry else None

    async def _let_go(self, entry: Entry) -> None:
        """After the batches that are on their way; the process may be down, and then knows nothing of it."""
        with suppress(Exception):
            await self.process.call({"do": "forget", "folder": str(entry.folder)})
        if entry.uploaded:
            _delete(entry.folder)

    async def _evict(self, newest: str) -> None:
        while len(self.entries) > self.limits.adapters:
            uploaded = [n for n, e in self.entries.items() if e.uploaded and n != newest]
            if not uploaded:
                return
            await self.delete(min(uploaded, key=lambda n: self.entries[n].used))

    def _recycle_when_large(self) -> None:
        if self.limits.memory and self.batcher.idle and self.process.memory > self.limits.memory:
            log("worker", what="started anew", memory=self.process.memory)
            self.process.recycle()


def canaries_of(given: Sequence[str], known: Mapping[str, object]) -> dict[str, tuple[str, float]]:
    """Of ``NAME=OTHER:0.1``: adapter -> the one that answers a share of its requests, and that share.

    Raises:
        ConfigError: it does not read so, or an adapter that is not there.
    """
    found = {}
    for text in given:
        read = re.fullmatch(r"([^=]+)=(.+):(0?\.[0-9]+|0|1)", text)
        if not read:
            raise ConfigError(
                f"A canary is NAME=OTHER:SHARE with a share from 0 to 1, such as shoes=shoes-2:0.1, and not {text!r}."
            )
        for name in read.groups()[:2]:
            if name not in known:
                raise unknown("adapter of this server", name, known)
        found[read[1]] = (read[2], float(read[3]))
    return found


def is_adapter(folder: Path) -> bool:
    """Whether it is an adapter folder or a run folder."""
    return any(place.is_file() for place in places_of(folder))


def places_of(folder: Path) -> tuple[Path, ...]:
    """Where the manifest of an adapter or run folder may lie."""
    return tuple(place / FILES[0] for place in (folder, folder / "adapter"))


def find_adapters(root: Path) -> dict[str, Path]:
    """Adapters of a pool folder by name: adapter and run folders in it, and what was uploaded into it."""
    found = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        versions = sorted(folder.glob(f"{VERSION}*/{FILES[0]}"), key=lambda p: p.stat().st_mtime)
        places = [*(file.parent for file in reversed(versions)), folder, folder / "adapter"]
        here = next((place for place in places if (place / FILES[0]).is_file()), None)
        if here:
            found[folder.name] = here
    return found


def _delete(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()
