"""Replicas of the inference process on Ray Serve, without Ray."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("httpx2", reason="the extra serve is not installed")
pytest.importorskip("fastapi", reason="the extra serve is not installed")

from petiole.errors import AdapterError, ConfigError, DataError
from petiole.serving import ray_replicas
from petiole.serving.process import Refused, WorkerGone
from petiole.serving.ray_replicas import ATTEMPTS, LOOK, RayReplicas, on_ray, replica_of


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
            await asyncio.Event().wait()
        finally:
            kept.append("ended")

    monkeypatch.setattr(RayReplicas, "_keep", keep)
    made = replicas(fewest=2, most=4)

    async def main() -> None:
        assert not made.ready.is_set()
        assert await made.start() == {"described": described}
        assert made.ready.is_set()
        await asyncio.sleep(0)
        begun = asyncio.get_running_loop().time()
        async with asyncio.timeout(5):
            await made.stop()
        assert asyncio.get_running_loop().time() - begun < 4

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


def test_without_ray_it_is_said_what_to_install(
    serve: Serve,  # noqa: ARG001 - the cluster is there
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = replicas()
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"Ray Serve needs ray: pip install 'petiole\[ray\]'"):
        made._deploy(SETUP)
