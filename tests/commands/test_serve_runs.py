"""How ``serve`` puts a server together, listens and ends: what is below it is exchanged."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytest.importorskip("fastapi", reason="the extra serve is not installed")
import uvicorn

from builders.asked import Asked
from petiole.commands import serve as serving
from petiole.commands.placement import ClusterOptions
from petiole.errors import ConfigError
from petiole.serving.limits import Limits


@pytest.fixture
def parts(asked: Asked, tmp_path: Path) -> Asked:
    """``serve`` with everything below it exchanged, and an adapter to serve."""
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds/adapter.json").write_text("{}")
    asked.of("petiole.serving.service.Service", "service")
    asked.of("petiole.serving.service.canaries_of", "canaries")
    asked.of("petiole.serving.pages.page_router", "pages")
    asked.of("petiole.serving.app.create_app", "app")
    asked.of("petiole.serving.keys.ApiKeys", "keys")
    asked.of("petiole.serving.ray_replicas.on_ray", "processes")
    asked.of("petiole.serving.teach.routes.teach_router", "teacher")
    asked.of("petiole.commands.serve._run")
    return asked


def test_a_server_of_one_adapter(parts: Asked, tmp_path: Path) -> None:
    serving.serve([Path("birds")], device="cpu")
    assert parts.one("Service") == (({"birds": Path("birds")},), {
        "backbones": (), "store": None, "device": "cpu", "engine": "auto", "trusted": None, "cache": tmp_path / "cache",
        "limits": Limits(), "processes": None, "canaries": "canaries",
    })  # fmt: skip
    assert parts.one("page_router") == (("service",), {"runs": None, "teaches": False, "training": False})  # fmt: skip
    assert parts.one("create_app") == (("service",), {
        "keys": None, "origins": serving.AccessOptions().origins, "hosts": serving.LOOPBACK, "routers": ["pages"],
    })  # fmt: skip
    assert parts.one("_run")[0] == ("service", None, "app", "127.0.0.1", 8000)


def test_a_server_with_everything(parts: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving.PageOptions, "lessons", lambda *given: given[1:])
    page = serving.PageOptions(teach=Path("new"), runs=Path("runs"), show_training=True)
    access = serving.AccessOptions(host="0.0.0.0", port=7, api_keys=Path("k"), trusted=Path("t"))  # type: ignore[arg-type]
    serving.serve([], backbones=["b"], canary=["x=y:0.1"], page=page, access=access, device="cpu")
    (folders,), more = parts.one("Service")
    assert (folders, more["engine"], more["trusted"]) == ({}, "torch", Path("t"))
    assert parts.one("canaries_of")[0] == (["x=y:0.1"], {})
    assert parts.one("page_router")[1] == {"runs": Path("runs"), "teaches": True, "training": True}
    assert parts.one("ApiKeys")[0] == (Path("k"),)
    assert parts.one("teach_router")[0] == ("service", (["b"], "cpu"))
    (_, made) = parts.one("create_app")
    assert (made["keys"], made["hosts"], made["routers"]) == ("keys", (), ["pages", "teacher"])
    assert parts.one("_run")[0] == ("service", (["b"], "cpu"), "app", "0.0.0.0", 7)
    parts.clear()
    parts.of("petiole.commands.defaults.backbone_for", "best")
    serving.serve([], page=page, device="cpu")
    assert parts.one("backbone_for")[0] == (["averaged-ridge"],)
    assert parts.one("Service")[1]["backbones"] == ["best"]
    with pytest.raises(ConfigError, match=r"Nothing to serve"):
        serving.serve([])
    serving.serve([], page=serving.PageOptions(runs=Path("runs")))


def test_a_server_on_ray(parts: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"^--replicas are inference processes on Ray: add"):
        serving.serve([Path("birds")], replicas=[2])
    monkeypatch.setattr(ClusterOptions, "cluster", lambda _: "cluster")
    for given in (
        {"engine": "onnx"},
        {"bounds": serving.BoundOptions(max_memory_mb=1.0)},
    ):
        with pytest.raises(ConfigError, match=r"^On Ray adapters are answered by torch"):
            serving.serve([Path("birds")], **given)
    serving.serve([Path("birds")], replicas=[1, 4])
    assert parts.one("on_ray")[0] == ("cluster", [1, 4])
    more = parts.one("Service")[1]
    assert (more["engine"], more["processes"]) == ("torch", "processes")


def ran(monkeypatch: pytest.MonkeyPatch, during: str, number: int = signal.SIGTERM) -> list[Any]:
    """Steps of a server that gets a signal, while it starts or while it serves."""
    steps: list[Any] = []
    monkeypatch.setattr("petiole.serving.telemetry.log_to", lambda _: steps.append("log"))

    async def until(ended: Any) -> bool:
        for _ in range(100):
            if ended():
                return True
            await asyncio.sleep(0.002)
        return False

    async def start() -> None:
        steps.append("start")
        if during == "start":
            os.kill(os.getpid(), number)
            await until(lambda: False)
        steps.append("started")

    async def serve(server: Any, sockets: Any) -> None:
        steps.append(server.config)
        with server.capture_signals():
            pass
        os.kill(os.getpid(), number)
        steps.append(("ended", await until(lambda: server.should_exit), len(sockets)))

    def stop(name: str) -> Any:
        async def stopped() -> None:
            steps.append(name)

        return stopped

    monkeypatch.setattr(uvicorn.Server, "serve", serve)
    service: Any = SimpleNamespace(limits=Limits(seconds=7.5, connections=9), entries=[1, 2], start=start, stop=stop("service"))  # fmt: skip
    lessons: Any = SimpleNamespace(stop=stop("lessons"))
    serving._run(service, lessons, "app", "127.0.0.1", 0)  # type: ignore[arg-type]
    return steps


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_begun_is_answered_before_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    log, start, started, config, *rest = ran(monkeypatch, "serve", number)
    assert (log, start, started) == ("log", "start", "started")
    assert rest == [("ended", True, 1), "lessons", "service"]
    assert (config.app, config.lifespan, config.limit_concurrency) == ("app", "off", 9)
    assert (config.timeout_graceful_shutdown, config.log_config) == (7, None)
    assert (config.access_log, config.server_header) == (False, False)
    line = capsys.readouterr().out
    assert line.startswith("serving  http://127.0.0.1:")
    assert line.endswith("  (2 adapters)\n")


def test_a_signal_while_it_starts_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ran(monkeypatch, "start") == ["log", "start"]


def test_an_address_of_version_six_stands_in_brackets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listening = SimpleNamespace(getsockname=lambda: ("::1", 77, 0, 0))
    monkeypatch.setattr(serving, "bound", lambda *_: nullcontext(listening))
    assert len(ran(monkeypatch, "serve")) == 7
    assert capsys.readouterr().out == "serving  http://[::1]:77  (2 adapters)\n"
