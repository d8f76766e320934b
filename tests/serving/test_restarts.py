"""Graphs that take over from torch, and a process that is started again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("httpx2", reason="the extra serve is not installed")
pytest.importorskip("fastapi", reason="the extra serve is not installed")

from petiole.errors import AdapterError
from petiole.serving import process as process_of
from petiole.serving import service as service_of
from petiole.serving.channel import Message
from petiole.serving.onnx_adapter import _write_head
from petiole.serving.process import WorkerGone, WorkerProcess
from petiole.serving.service import FILES, Entry, Service


class Asked:
    """An inference process that notes what it is asked."""

    places, starts, memory = 1, 1, 0

    def __init__(self, setup: Callable[[], Any]) -> None:
        self.setup, self.asked = setup, list[Any]()

    async def call(self, value: Any, blobs: Any = ()) -> None:  # noqa: ARG002
        self.asked.append(value)


@pytest.fixture
def graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server of one adapter, what was exported for it, and what it logged."""
    exported: list[Any] = []
    logged: list[Any] = []
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / FILES[0]).write_text("{}")

    async def export(folder: Path, out: Path, *, aside: bool) -> None:
        exported.append((folder, aside))
        out.mkdir()

    monkeypatch.setattr(service_of, "export", export)
    monkeypatch.setattr(service_of, "log", lambda event, **facts: logged.append((event, facts)))
    monkeypatch.setattr(service_of, "place_of", lambda manifest, spare: spare / f"graph of {manifest.parent.name}")  # fmt: skip

    def made(engine: Any) -> Service:
        service = Service({"a": tmp_path / "a"}, engine=engine, processes=Asked)  # type: ignore[arg-type]
        service._own = tmp_path
        service.entries["a"].facts = {"engine": "torch", "engine_note": ""}
        return service

    return SimpleNamespace(made=made, exported=exported, logged=logged, home=tmp_path)


@pytest.mark.parametrize(("engine", "aside"), [("auto", True), ("onnx", False)])
def test_a_graph_is_exported_once_and_answers(graphs: Any, engine: str, aside: bool) -> None:
    service = graphs.made(engine)
    entry, folder, place = service.entries["a"], graphs.home / "a", graphs.home / "graph of a"
    asyncio.run(service._use_graph("a", entry))
    assert graphs.exported == [(folder, aside)]
    assert service.process.asked == [{"do": "use", "folder": str(folder), "place": str(place)}]
    assert (entry.graph, entry.facts) == (place, {"engine": "onnx", "engine_note": ""})
    assert graphs.logged == [
        ("engine", {"name": "a", "engine": "torch", "note": "being exported"}),
        ("engine", {"name": "a", "engine": "onnx"}),
    ]
    assert service.process.setup()["graphs"] == {str(folder): str(place)}
    asyncio.run(service._use_graph("a", entry))
    assert len(graphs.exported) == 1, "it is there already"


def test_what_has_no_graph_says_why(graphs: Any) -> None:
    service = graphs.made("onnx")
    entry = service.entries["a"]
    entry.facts["engine_note"] = "it has prompts"
    with pytest.raises(AdapterError, match=r"'a' cannot be run by ONNX Runtime: it has prompts\."):
        asyncio.run(service._use_graph("a", entry))
    entry.facts["engine_note"], entry.folder = "", graphs.home / "b"
    with pytest.raises(AdapterError, match=r"'a' is gone from .*/b\."):
        asyncio.run(service._use_graph("a", entry))
    assert graphs.exported == []


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (AdapterError("no"), "no"),
        (OSError(), "the inference process ended meanwhile"),
        (None, ""),
    ],
)
def test_graphs_are_made_one_after_the_other_and_torch_goes_on_where_one_fails(
    graphs: Any, error: Exception | None, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, tried = graphs.made("auto"), list[Any]()
    entry = service.entries["a"]
    known = Entry(graphs.home, {"engine_note": "known"})
    service.entries["b"] = known

    async def use(_: Service, name: str, one: Entry) -> None:
        tried.append((name, one))
        if error:
            raise error

    monkeypatch.setattr(Service, "_use_graph", use)

    async def main() -> None:
        for item in (("a", Entry(graphs.home)), ("b", known), ("a", entry)):  # replaced, known, new
            service._to_export.put_nowait(item)
        task = asyncio.create_task(service._export_all())
        while not service._to_export.empty():
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(main())
    assert tried == [("a", entry)]
    assert entry.facts["engine_note"] == note
    told = [("engine", {"name": "a", "engine": "torch", "note": note})] * bool(error)
    assert graphs.logged == told


def test_a_process_is_measured_ended_and_not_asked_before_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[Any] = []
    process = WorkerProcess(lambda *_: None, dict)
    assert process.memory == 0
    process.recycle()
    process._process = SimpleNamespace(
        pid=12, terminate=lambda: done.append("terminate"), kill=lambda: done.append("kill"),
        join=lambda seconds: done.append(seconds),
    )  # fmt: skip
    monkeypatch.setattr(process_of, "Path", lambda name: SimpleNamespace(read_text=lambda: f"9 5 {name}"))  # fmt: skip
    assert process.memory == 5 * 4096
    process.recycle()
    assert done == ["terminate"]
    process.on_end = lambda: done.append("told")
    process._connection = SimpleNamespace(close=lambda: done.append("closed"))  # type: ignore[assignment]
    process.failure = "It ended."

    async def main() -> tuple[Any, ...]:
        loop = asyncio.get_running_loop()
        waiting, answered, fine, refused = (loop.create_future() for _ in range(4))
        answered.set_result(1)
        process._waiting = dict(enumerate((waiting, answered, fine, refused)))
        process._told(Message({"number": 2, "x": 1}, []))
        process._told(Message({"number": 3, "error": "no", "kind": "DataError"}, []))
        process._told(Message({"number": 9}, []))  # nobody waits for it
        process._told(Message({"number": 1}, []))
        with pytest.raises(WorkerGone):
            await process.call({"do": "x"})
        await process._reap()
        return waiting.exception(), answered.result(), fine.result().value, refused.exception()

    gone, answered, fine, refused = asyncio.run(main())
    assert (type(gone), str(gone)) == (WorkerGone, "It ended.")
    assert (answered, fine) == (1, {"x": 1})
    assert (str(refused), refused.kind) == ("no", "DataError")
    assert done == ["terminate", "told", "terminate", 5, "kill", "closed"]
    assert process._connection is None


def test_it_is_started_again_with_longer_and_longer_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    process, pauses = WorkerProcess(lambda *_: None, dict), list[float]()
    told = iter(
        [{"described": {}}, {"error": "no memory"}, {"error": "no memory"}, {"described": {}}]
    )

    async def first(ended: asyncio.Event) -> dict[str, Any]:
        ended.set()
        return next(told)

    async def how() -> str:
        assert not process.ready.is_set(), "nothing is asked of it any more"
        return "ended"

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 4:
            raise asyncio.CancelledError

    monkeypatch.setattr(process, "_first", first)
    monkeypatch.setattr(process, "_how_it_ended", how)
    monkeypatch.setattr(process_of.asyncio, "sleep", sleep)
    monkeypatch.setattr(process_of, "LONGEST_PAUSE", 3 * process_of.FIRST_PAUSE)

    async def main() -> Any:
        hello = asyncio.get_running_loop().create_future()
        with pytest.raises(asyncio.CancelledError):
            await process._keep(hello)
        return hello.result()

    assert asyncio.run(main()) == {"described": {}}
    begin = process_of.FIRST_PAUSE
    assert pauses == [begin, 2 * begin, 3 * begin, begin]
    assert process.starts == 2
    assert not process.ready.is_set()


def test_a_head_on_more_than_the_image_vector_is_no_graph_of_its_own(tmp_path: Path) -> None:
    plan = SimpleNamespace(reads=("final.vector", "final.map"))
    backbone = SimpleNamespace(vector="final.vector")
    adapter: Any = SimpleNamespace(adapted=SimpleNamespace(plan=plan, backbone=backbone))
    with pytest.raises(AdapterError, match=r"reads final\.vector, final\.map, and an ONNX backbone gives final\.vector alone"):  # fmt: skip
        _write_head(adapter, tmp_path / "head.onnx")


class Starting(Asked):
    """An inference process that starts, or does not."""

    error: Exception | None = None

    async def start(self) -> Any:
        if self.error:
            raise self.error
        return {"described": {name: {"engine_note": ""} for name in ("a", "b")}}

    async def stop(self) -> None:
        self.asked.append("stop")

    async def call(self, value: Any, blobs: Any = ()) -> Any:
        if self.error:
            raise self.error
        await super().call(value, blobs)
        return Message({"sha256": "s"}, [])


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Adapters whose graphs are to answer."""
    found: list[str] = []

    async def use(_: Service, name: str, __: Entry) -> None:
        found.append(name)

    monkeypatch.setattr(Service, "_use_graph", use)
    return found


def test_with_onnx_alone_every_graph_is_there_before_the_first_request(used: list[str], tmp_path: Path) -> None:  # fmt: skip
    folders = {name: tmp_path / name for name in ("a", "b")}

    async def main() -> None:
        service = Service(folders, engine="onnx", store=tmp_path, processes=Starting)  # type: ignore[arg-type]
        await service.start()
        assert used == ["a", "b"]
        assert service._exporter is None
        told = await service.put("c", dict.fromkeys(FILES, b"x"))
        assert (told["name"], told["sha256"]) == ("c", "s")
        assert used == ["a", "b", "c"]
        await service.stop()
        assert service.process.asked[-1] == "stop"  # type: ignore[attr-defined]

    asyncio.run(main())


def test_a_process_that_goes_leaves_nothing_of_a_start_or_an_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    service = Service({}, store=tmp_path / "store", processes=Starting)  # type: ignore[arg-type]
    monkeypatch.setattr(Starting, "error", OSError("no memory"))
    with pytest.raises(OSError, match=r"^no memory$"):
        asyncio.run(service.start())
    with pytest.raises(OSError, match=r"^no memory$"):
        asyncio.run(service.put("c", dict.fromkeys(FILES, b"x")))
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
    service_of._delete(tmp_path / "not/there")
    assert service.entries == {}


def test_what_comes_and_goes_is_logged(used: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    logged: list[Any] = []
    monkeypatch.setattr(service_of, "log", lambda event, **facts: logged.append((event, facts)))

    async def main() -> None:
        service = Service({}, store=tmp_path, processes=Starting)  # type: ignore[arg-type]
        for starts, again in ((0, 0.0), (1, 0.0), (4, 3.0)):
            service.process.starts = starts
            assert f"petiole_worker_restarts {again}" in service.measure().decode()
        for _ in range(2):
            await service.put("c", dict.fromkeys(FILES, b"x"))
        await service.delete("c")

    asyncio.run(main())
    assert used == []
    added, replaced, removed = [facts for _, facts in logged]
    assert {event for event, _ in logged} == {"adapter"}
    assert added == {"name": "c", "what": "added", "sha256": "s"}
    assert replaced == {**added, "what": "replaced"}
    assert removed == {"name": "c", "what": "removed"}


def test_a_process_that_is_stopped_is_asked_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    process, reaped = WorkerProcess(lambda *_: None, dict), list[bool]()

    async def first(_: asyncio.Event) -> dict[str, Any]:
        return {"described": {}}

    async def reap() -> None:
        reaped.append(process.ready.is_set())

    monkeypatch.setattr(process, "_first", first)
    monkeypatch.setattr(process, "_reap", reap)

    async def main() -> None:
        assert await process.start() == {"described": {}}
        assert process.ready.is_set()
        await process.stop()

    asyncio.run(main())
    assert reaped == [False]


def test_it_has_seconds_to_end_and_says_how() -> None:
    process, joined = WorkerProcess(lambda *_: None, dict), list[float]()
    process._process = SimpleNamespace(join=joined.append, exitcode=-9)
    assert asyncio.run(process._how_it_ended()).startswith("was ended by SIGKILL")
    assert joined == [process_of.END_SECONDS]
    assert str(WorkerGone()) == "The process is being started."


def test_what_is_told_of_an_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_of.time, "monotonic", lambda: 100.0)
    entry = Entry(Path("f"), {"method": "m"}, requests=3)
    assert entry.public("a") == {"name": "a", "method": "m", "requests": 3, "idle_seconds": None}
    entry.used = 97.6543
    assert entry.public("a")["idle_seconds"] == 2.3, "to a tenth of a second"


def test_a_fresh_process_computes_one_batch_and_what_is_stopped_sends_nothing() -> None:
    process = WorkerProcess(lambda *_: None, dict)
    assert (process.places, process.starts) == (1, 0)
    asyncio.run(process.stop())
    with pytest.raises(RuntimeError, match="after shutdown"):
        process._sender.submit(print)


def test_graphs_are_made_aside_of_all_adapters_that_are_known_and_that_come(used: list[str], tmp_path: Path) -> None:  # fmt: skip
    async def main() -> None:
        folders = {name: tmp_path / name for name in ("a", "b")}
        service = Service(folders, engine="auto", store=tmp_path, processes=Starting)  # type: ignore[arg-type]
        await service.start()
        service.process.call = called  # type: ignore[method-assign]
        await service.put("c", dict.fromkeys(FILES, b"x"))
        for _ in range(9):
            await asyncio.sleep(0)
        assert used == ["a", "b", "c"]
        await service.stop()

    async def called(*_: Any) -> Any:
        return Message({"sha256": "s", "engine_note": ""}, [])

    asyncio.run(main())


def test_a_process_is_spawned_with_its_end_of_a_pipe_and_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    done: list[Any] = []

    def started(name: str) -> Any:
        def made(**how: Any) -> Any:
            return SimpleNamespace(how=how, start=lambda: done.append((name, how)))

        return made

    ends = ("mine", SimpleNamespace(close=lambda: done.append("closed")))
    context = SimpleNamespace(Pipe=lambda: ends, Process=started("process"))
    monkeypatch.setattr(process_of.multiprocessing, "get_context", lambda kind: {"spawn": context}[kind])  # fmt: skip
    monkeypatch.setattr(process_of, "Thread", started("thread"))
    process = WorkerProcess(print, lambda: {"x": 1})

    async def main() -> Any:
        ended = asyncio.Event()
        process._spawn(ended)
        assert not process._hello.done()
        return ("mine", asyncio.get_running_loop(), ended)

    listened = asyncio.run(main())
    assert done == [
        ("process", {"target": print, "args": (ends[1], {"x": 1}), "daemon": True}), "closed",
        ("thread", {"target": process._listen, "args": listened, "daemon": True}),
    ]  # fmt: skip
    assert (process._connection, process._process.how) == ("mine", done[0][1])  # type: ignore[comparison-overlap]
