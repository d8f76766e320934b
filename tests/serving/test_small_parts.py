"""Parts of the server on their own: replicas without Ray, the process that teaches and its routes, refusals, the log."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from builders.images import write_images

pytest.importorskip("httpx2", reason="the extra serve is not installed")
pytest.importorskip("fastapi", reason="the extra serve is not installed")
import httpx2 as httpx
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from PIL import Image

from petiole.errors import AdapterError, ConfigError, DataError
from petiole.serving import client as client_of
from petiole.serving import process as process_of
from petiole.serving import ray_replicas, telemetry
from petiole.serving import service as service_of
from petiole.serving.batcher import Busy
from petiole.serving.channel import Message
from petiole.serving.library import AdapterLibrary
from petiole.serving.nearest import SIDE, _thumbnail
from petiole.serving.process import Refused, WorkerGone, WorkerProcess
from petiole.serving.ray_replicas import ATTEMPTS, LOOK, RayReplicas, on_ray, replica_of
from petiole.serving.refusals import HANDLERS, START_SECONDS
from petiole.serving.service import FILES, Entry, Service
from petiole.serving.teach import process as teaching
from petiole.serving.teach.routes import CACHED, teach_router

# --- replicas ----------------------------------------------------------------------------------------


class Died(Exception):
    """What Ray raises of a replica that is gone."""


class Serve(ModuleType):
    """As much of Ray Serve as replicas ask for."""

    def __init__(self) -> None:
        super().__init__("ray.serve")
        self.asked: list[Any] = []
        self.running: list[Any] = []
        self.model = ""

    def deployment(self, what: Any, **how: Any) -> Any:
        self.asked.append(how)
        return SimpleNamespace(bind=lambda *given: (what, given))

    def start(self, **how: Any) -> None:
        self.asked.append(how)

    def run(self, app: Any, **how: Any) -> Any:
        self.asked.append((app, how))
        return "handle"

    def status(self) -> Any:
        states = self.running.pop(0)
        deployment = SimpleNamespace(replica_states=states)
        applications = {
            ray_replicas.APPLICATION: SimpleNamespace(deployments={"inference": deployment})
        }
        return SimpleNamespace(applications=applications)

    def shutdown(self) -> None:
        self.asked.append("shutdown")

    def multiplexed(self, **how: Any) -> Any:
        self.asked.append(how)
        return lambda work: work

    def get_multiplexed_model_id(self) -> str:
        return self.model


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    found = Serve()
    ray, exceptions, serve_exceptions = (ModuleType(name) for name in ("ray", "e", "s"))
    ray.serve, exceptions.RayActorError = found, Died  # type: ignore[attr-defined]
    serve_exceptions.RayServeException = type("Other", (Exception,), {})  # type: ignore[attr-defined]
    for name, module in (("ray", ray), ("ray.serve", found), ("ray.exceptions", exceptions), ("ray.serve.exceptions", serve_exceptions)):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(ray_replicas, "connected", lambda at: found.asked.append(("at", at)))
    return found


SETUP = {"folders": {"a": "/a", "b": "/b", "c": "/c"}, "device": "cuda:0", "loaded": 5, "pixels": 9, "engine": "torch"}  # fmt: skip


def replicas(cores: float = 2.5, **more: Any) -> RayReplicas:
    cluster: Any = SimpleNamespace(address="here:1", run_cpus=cores, gpus_on=lambda device: f"gpu of {device}")  # fmt: skip
    return RayReplicas(lambda: SETUP, cluster=cluster, **more)


def test_replicas_begin_with_one_adapter_of_each_model(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    models = {"a": "vit", "b": "cnn", "c": "vit"}
    described = {name: {"backbone": model} for name, model in models.items()}
    monkeypatch.setattr(ray_replicas, "_described", lambda _: described)
    monkeypatch.setattr(ray_replicas, "replica_of", lambda _, loaded: ("class", loaded))
    kept: list[str] = []

    async def keep(_: RayReplicas) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            kept.append("ended")

    monkeypatch.setattr(RayReplicas, "_keep", keep)
    made = replicas(fewest=2, most=4)

    async def main() -> None:
        assert not made.ready.is_set()
        assert await made.start() == {"described": described}
        assert made.ready.is_set()
        await asyncio.sleep(0)
        await made.stop()

    asyncio.run(main())
    assert kept == ["ended"]
    at, deployed, started, (app, run), ended = serve.asked
    assert at == ("at", "here:1")
    assert deployed == {
        "name": "inference", "ray_actor_options": {"num_cpus": 2.5, "num_gpus": "gpu of cuda:0"},
        "max_ongoing_requests": 2, "graceful_shutdown_timeout_s": 30,
        "autoscaling_config": {"min_replicas": 2, "max_replicas": 4, "target_ongoing_requests": 1},
    }  # fmt: skip
    assert started == {"proxy_location": "Disabled"}
    assert app == (("class", 5), ({**SETUP, "folders": {"c": "/c", "b": "/b"}}, 2))
    assert run == {"name": ray_replicas.APPLICATION, "route_prefix": None}
    assert ended == "shutdown"


@pytest.mark.parametrize(("cores", "threads"), [(0.5, 1), (1, 1), (3, 3)])
def test_a_replica_has_a_thread_for_each_of_its_cores(
    serve: Serve, cores: float, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_replicas, "replica_of", lambda *_: "class")
    assert replicas(cores)._deploy(SETUP) == "handle"
    (_, (_, found)), _ = serve.asked[-1]
    assert found == threads


@pytest.mark.usefixtures("serve")
def test_an_adapter_that_cannot_be_served_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    def fails(_: Any) -> None:
        raise AdapterError("a is damaged")

    monkeypatch.setattr(ray_replicas, "_described", fails)
    with pytest.raises(Refused, match="a is damaged") as caught:
        asyncio.run(replicas().start())
    assert caught.value.kind == "AdapterError"


def test_manifests_are_read_without_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Library:
        def __init__(self, *given: Any) -> None:
            made.append(given)

        def describe(self, folder: Path) -> str:
            return f"of {folder}"

    monkeypatch.setattr("petiole.serving.library.AdapterLibrary", Library)
    assert ray_replicas._described(SETUP) == {name: f"of /{name}" for name in "abc"}
    assert made == [("cuda:0", 1, 9, "torch")]


class Handle:
    """Of a deployment: says one thing after the other."""

    def __init__(self, said: list[Any]) -> None:
        self.said, self.asked = said, list[Any]()

    def options(self, multiplexed_model_id: str) -> Any:
        async def remote(*given: Any) -> Any:
            self.asked.append((multiplexed_model_id, *given))
            said = self.said.pop(0)
            if isinstance(said, Exception):
                raise said
            return said

        return SimpleNamespace(answer=SimpleNamespace(remote=remote))


@pytest.mark.usefixtures("serve")
def test_what_a_dying_replica_had_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(ray_replicas.asyncio, "sleep", sleep)
    made = replicas()

    def call(said: list[Any], value: dict[str, Any]) -> Any:
        waited.clear()
        made._handle = handle = Handle(said)
        return asyncio.run(made.call(value, [b"x"])), handle.asked

    rows = {"do": "rows", "rows": [{"folder": "/a"}, {"folder": "/b"}]}
    message, asked = call([Died(), ({"fine": 1}, [b"y"])], rows)
    assert (message.value, message.blobs) == ({"fine": 1}, [b"y"])
    assert asked == [("/a", rows, [b"x"])] * 2
    assert waited == [LOOK]
    for value, model in (({"do": "forget", "folder": "/c"}, "/c"), ({"do": "runs"}, "")):
        assert call([({}, [])], value)[1][0][0] == model
    with pytest.raises(WorkerGone):
        call([Died() for _ in range(ATTEMPTS)] + [({}, [])], rows)
    assert waited == [LOOK] * ATTEMPTS
    with pytest.raises(Refused, match="no image") as caught:
        call([({"error": "no image", "kind": "DataError"}, [])], rows)
    assert caught.value.kind == "DataError"


def test_it_is_looked_how_many_answer(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    made, seen, ended = replicas(), list[Any](), list[bool]()
    made.on_end = lambda: ended.append(True)
    serve.running = [{"RUNNING": 3}, {"STARTING": 1}, {"RUNNING": 0}, {"RUNNING": 1}]
    looks = iter(range(5))

    async def sleep(seconds: float) -> None:
        assert seconds == LOOK
        if next(looks):
            seen.append((made.places, made.ready.is_set(), made.starts))
        if len(seen) == 4:
            raise asyncio.CancelledError

    monkeypatch.setattr(ray_replicas.asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(made._keep())
    assert seen == [(3, True, 1), (1, False, 2), (1, False, 2), (1, True, 2)]
    assert ended == [True]


def test_a_replica_answers_in_turn_or_beside(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []

    def rows(value: Any, blobs: Any) -> Any:
        done.append((value, blobs))
        return {"answers": [1], "groups": {"a": 1}}, [b"r"]

    def fails(*_: Any) -> Any:
        raise DataError("no image")

    monkeypatch.setattr(ray_replicas, "inference_handlers", lambda given: ({"rows": rows}, {"admit": lambda *_: ({"in": given}, []), "use": fails}, {}))  # fmt: skip
    monkeypatch.setattr(ray_replicas, "tune_allocator", lambda: done.append("allocator"))
    monkeypatch.setattr(torch, "set_num_threads", lambda n: done.append(("threads", n)))
    replica = replica_of(serve, 5)
    assert serve.asked == [{"max_num_models_per_replica": 5}]
    resident = replica.resident  # type: ignore[attr-defined]

    async def noted(self: Any, folder: str) -> str:
        done.append(("resident", await resident(self, folder)))
        return folder

    monkeypatch.setattr(replica, "resident", noted)

    async def main() -> list[Any]:
        one = replica({"x": 1}, 3)
        said = [await one.answer({"do": do}, [b"q"]) for do in ("rows", "admit", "use")]
        serve.model = "/a"
        return [*said, await one.answer({"do": "rows"}, [])]

    first, admitted, failed, again = asyncio.run(main())
    assert first == again == ({"answers": [1], "groups": {}}, [b"r"])
    assert admitted == ({"in": {"x": 1}}, [])
    assert failed == ({"error": "no image", "kind": "DataError"}, [])
    assert done == ["allocator", ("threads", 3), ({"do": "rows"}, [b"q"]), ("resident", "/a"), ({"do": "rows"}, [])]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "found"), [([], (1, 1)), ([3], (3, 3)), ([2, 5], (2, 5)), ([1, 1], (1, 1))]
)
def test_numbers_of_replicas(given: list[int], found: tuple[int, int]) -> None:
    made = on_ray("cluster", given)  # type: ignore[arg-type]
    assert (made.keywords["fewest"], made.keywords["most"]) == found  # type: ignore[attr-defined]


@pytest.mark.parametrize("given", [[0], [2, 1], [1, 2, 3]])
def test_impossible_numbers_of_replicas(given: list[int]) -> None:
    with pytest.raises(ConfigError, match="--replicas takes"):
        on_ray("cluster", given)  # type: ignore[arg-type]


# --- refusals and the log ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "code", "said", "headers"),
    [
        (Busy(6.2), 429, "busy", "", {"retry-after": "7"}),
        (WorkerGone(), 503, "starting", "is being started", {"retry-after": str(START_SECONDS)}),
        (TimeoutError(), 504, "late", "took too long", {}),
        (AdapterError("no such"), 404, "adapter", "no such", {}),
        (ConfigError("not so"), 422, "value", "not so", {}),
        (Refused("x", "Unforeseen"), 500, "unforeseen", "did not foresee", {}),
        (Refused("went", "Gone"), 404, "adapter", "went", {}),
        (Refused("no image", "DataError"), 422, "image", "no image", {}),
        (Refused("no value", "ConfigError"), 422, "value", "no value", {}),
        (RequestValidationError([{"loc": ("body", "rows"), "msg": "too few"}, {"loc": ("x",), "msg": "y"}]),
         422, "value", "body.rows: too few", {}),
    ],
)  # fmt: skip
def test_every_refusal_has_its_status(
    error: Exception, status: int, code: str, said: str, headers: dict[str, str]
) -> None:
    handler = next(work for kind, work in HANDLERS.items() if isinstance(error, kind))
    told = telemetry.Telemetry()
    request: Any = SimpleNamespace(app=SimpleNamespace(state=SimpleNamespace(telemetry=told)))
    answer = asyncio.run(handler(request, error))  # type: ignore[arg-type]
    body = json.loads(answer.body)["error"]
    assert (answer.status_code, body["code"]) == (status, code)
    assert said in body["message"]
    assert headers.items() <= dict(answer.headers).items()
    for reason in ("busy", "starting"):
        counted = f'petiole_refused_total{{reason="{reason}"}} 1.0' in told.exposition().decode()
        assert counted == (code == reason)


def test_the_log_goes_to_its_stream_a_line_of_json_an_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = logging.getLogger("petiole.serving of this test")
    monkeypatch.setattr(telemetry, "LOG", own)
    heard: list[str] = []
    above = logging.Handler()
    above.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(above)
    try:
        telemetry.log_to(stream := io.StringIO())
        telemetry.log("adapter", name="x")
    finally:
        logging.getLogger().removeHandler(above)
    [line] = stream.getvalue().splitlines()
    said = json.loads(line)
    assert (said["event"], said["name"]) == ("adapter", "x")
    assert len(said["when"]) == len("2026-01-01T00:00:00.000+00:00")
    assert heard == []


def test_without_its_library_the_client_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(ConfigError, match=r"The client needs httpx2: pip install 'petiole"):
        client_of.Client("http://here")


def test_training_images_are_shown_small(tmp_path: Path) -> None:
    import base64

    from petiole.data.sources import open_data

    data = open_data(write_images(tmp_path, 1, 0, side=200))
    with Image.open(io.BytesIO(base64.b64decode(_thumbnail(data, 1)))) as shown:
        assert (shown.format, max(shown.size)) == ("JPEG", SIDE)


def test_images_of_one_graph_are_asked_together() -> None:
    asked: list[int] = []

    class Graph:
        def outputs(self, pixels: Any) -> Any:
            asked.append(len(pixels))
            return 10 * pixels[:, :1], pixels + 100 * len(asked)

    one, two = Graph(), Graph()
    seen = {i: torch.tensor([float(i), float(-i)]) for i in (4, 1, 7)}
    found = AdapterLibrary._run(None, {4: one, 1: two, 7: one}, seen)  # type: ignore[arg-type,dict-item]
    assert asked == [2, 1]
    assert {i: p.vectors.tolist() for i, p in found.items()} == {4: [40], 7: [70], 1: [10]}
    assert {i: p.logits.tolist() for i, p in found.items()} == {4: [104, 96], 7: [107, 93], 1: [201, 199]}  # fmt: skip


# --- teaching ----------------------------------------------------------------------------------------


class Teacher:
    """Notes what it is asked."""

    data = "abc"
    version = 4

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.log = SimpleNamespace(version=4, undo=lambda: self.asked.append("undo"))

    def give(self, rows: list[int], label: str) -> None:
        self.asked.append((rows, label))

    def state(self) -> dict[str, Any]:
        return {"state": len(self.asked)}

    def rows(self) -> list[tuple[Path, str]]:
        return [(Path("a.png"), "x")]

    def save(self, folder: Path) -> None:
        for file in FILES:
            (folder / file).write_text(f"of {file}")

    def curve(self) -> dict[str, Any]:
        return {"measured": []}

    def images(self) -> dict[str, Any]:
        return {"names": ["a"]}

    def alike(self, row: int) -> list[int]:
        return [row, 9]

    def thumbnail(self, row: int) -> bytes:
        return f"jpeg {row}".encode()


def test_the_process_that_teaches_answers_every_click(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = Teacher()
    monkeypatch.setattr(teaching, "_teacher", lambda setup: teacher if setup == {"x": 1} else None)
    in_turn, beside, hello = teaching._handlers({"x": 1})
    assert hello == {"images": 3}
    assert in_turn["label"]({"rows": [1], "label": "y"}, []) == ({"state": 1}, [])
    assert in_turn["undo"]({}, []) == ({"state": 2}, [])
    assert teacher.asked == [([1], "y"), "undo"]
    assert in_turn["state"]({"since": 4}, []) == ({}, [])
    assert in_turn["state"]({"since": 3}, []) == ({"state": 2}, [])
    named, [content] = in_turn["export"]({"form": "csv"}, [])
    assert named["name"].endswith(".csv")
    assert b"a.png" in content
    assert in_turn["adapter"]({}, []) == (
        {"files": FILES},
        [f"of {file}".encode() for file in FILES],
    )
    assert in_turn["curve"]({}, []) == ({"measured": []}, [])
    assert beside["images"]({}, []) == ({"names": ["a"]}, [])
    assert beside["alike"]({"row": 3}, []) == ({"rows": [3, 9]}, [])
    assert beside["thumbnail"]({"row": 3}, []) == ({}, [b"jpeg 3"])
    served: list[Any] = []
    monkeypatch.setattr(teaching, "serve", lambda *given: served.append(given))
    teaching.teaching("connection", {"x": 1})  # type: ignore[arg-type]
    [(connection, handlers)] = served
    assert connection == "connection"
    assert handlers()[2] == {"images": 3}


class Lessons:
    """Answers every question with what was asked, and two files."""

    def ready(self) -> bool:
        return True

    async def ask(self, do: str, **value: Any) -> tuple[dict[str, Any], list[bytes]]:
        more = {"export": {"name": "labels.csv"}, "adapter": {"files": FILES}}.get(do, {})
        return {"do": do, **value, **more}, [b"first", b"second"]


def test_every_route_of_the_tab_teach_asks_its_question() -> None:
    published: list[Any] = []

    async def put(name: str, files: dict[str, bytes]) -> dict[str, Any]:
        published.append((name, files))
        return {"name": name}

    app = FastAPI()
    app.include_router(teach_router(SimpleNamespace(put=put), Lessons()))  # type: ignore[arg-type]

    async def main(scene: Callable[[Any], Awaitable[None]]) -> None:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x/v1/teach") as http:
            await scene(http)

    async def scene(http: Any) -> None:
        assert (await http.get("/ready")).json() == {"ready": True}
        for way, question in (
            ("images", {"do": "images"}), ("state", {"do": "state", "since": -1}),
            ("state?since=3", {"do": "state", "since": 3}), ("curve", {"do": "curve"}),
            ("alike/5", {"do": "alike", "row": 5}),
        ):  # fmt: skip
            assert (await http.get(f"/{way}")).json() == question
        label = {"rows": [1, 2], "label": "x"}
        assert (await http.post("/label", json=label)).json() == {"do": "label", **label}
        for rows, status in (([], 422), ([0] * 100_000, 200), ([0] * 100_001, 422)):
            answer = await http.post("/label", json={"rows": rows, "label": None})
            assert answer.status_code == status
        assert (await http.post("/undo")).json() == {"do": "undo"}
        shown = await http.get("/thumbnails/2")
        assert (shown.content, shown.headers["content-type"]) == (b"first", "image/jpeg")
        assert shown.headers["cache-control"] == CACHED["cache-control"]
        for form, kind in (("csv", "text/csv"), ("fiftyone", "application/json")):
            answer = await http.get(f"/export/{form}")
            assert answer.content == b"first"
            assert answer.headers["content-type"].startswith(kind)
            assert answer.headers["content-disposition"] == 'attachment; filename="labels.csv"'
        assert (await http.get("/export/xml")).status_code == 422
        assert (await http.post("/adapter", json={"name": "taught"})).json() == {"name": "taught"}

    asyncio.run(main(scene))
    assert published == [("taught", dict(zip(FILES, (b"first", b"second"), strict=True)))]


# --- graphs ------------------------------------------------------------------------------------------


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


# --- the process -------------------------------------------------------------------------------------


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
