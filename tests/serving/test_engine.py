"""ONNX Runtime as the engine of a server: exported beside the requests, used once it says the same, else torch with a reason."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import petiole
from builders.serving import picture, serving, write_adapter
from petiole.errors import AdapterError

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
services = pytest.importorskip("petiole.serving.service")
exports = pytest.importorskip("petiole.serving.exports")
graphs = pytest.importorskip("petiole.serving.onnx_graph")

CLASSES = ["ash", "birch", "cedar"]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine") / "trees"
    return write_adapter(folder, petiole.load("petiole/tiny-vit"), CLASSES, rank=2)


@pytest.fixture(scope="module")
def graph(adapter: Path) -> Path:
    """Its graph, where the server looks for it and would have written it."""
    place = exports.place_of(adapter / "adapter.json", adapter)
    petiole.export(adapter, out=place)
    return place


@pytest.mark.usefixtures("graph")
def test_a_graph_that_is_there_answers_what_torch_answers(adapter: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(picture())
    known = petiole.predict(adapter, image).predictions[0]
    want = known.probabilities
    with (
        serving(tmp_path / "log", adapter, "--engine", "onnx") as server,
        petiole.Client(server.url) as client,
    ):
        assert client.adapters()[0]["engine"] == "onnx"
        said = client.predict([image, image])["predictions"]
        for one in said:
            assert one["probabilities"] == pytest.approx(want, abs=1e-5)
            assert one["outside"] == known.outside
        assert len(client.embed(image, adapted=True)["vectors"][0]) == 192
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [one["engine"] for one in lines if one["event"] == "engine"] == ["onnx"]


def test_the_graph_is_what_answers(adapter: Path, graph: Path) -> None:
    from petiole.serving.library import AdapterLibrary

    library = AdapterLibrary("cpu", 1, 10**6, "auto")
    row = {"do": "label", "folder": str(adapter), "name": "trees", "image": "x", "top": 3}
    row |= {"coverage": None, "abstain": None}
    library.warm([adapter])
    assert not library.groups([str(adapter)])[str(adapter)].startswith("onnx:")
    library.use(str(adapter), graph)
    assert library.groups([str(adapter)])[str(adapter)].startswith("onnx:")
    nothing = np.zeros((1, 192), np.float32), np.zeros((1, 3), np.float32)
    library._graphs[str(adapter)].outputs = lambda _: nothing  # type: ignore[method-assign]
    said = library.answer([row], [picture()])[0]["probabilities"]
    assert list(said.values()) == pytest.approx([1 / 3] * 3)
    library.forget(str(adapter))
    assert not library._graphs


def test_a_damaged_graph_is_not_opened(graph: Path, tmp_path: Path) -> None:
    graphs.open_graph(graph, threads=1)
    damaged = shutil.copytree(graph, tmp_path / "damaged")
    with open(damaged / "model.onnx", "r+b") as file:
        file.seek(5000)
        file.write(b"\0\1\2\3")
    with pytest.raises(AdapterError, match="checksum differs"):
        graphs.open_graph(damaged, threads=1)


def test_an_export_that_fails_says_what_the_command_said(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"^No adapter at .*nothing"):
        asyncio.run(exports.export(tmp_path / "nothing", tmp_path / "out"))


def test_the_graph_takes_over_while_requests_go_on(
    adapter: Path, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(adapter, tmp_path / "trees", ignore=shutil.ignore_patterns("onnx*"))
    exported = asyncio.Event()

    async def export(_: Path, out: Path, *, aside: bool) -> None:
        assert aside
        await exported.wait()
        shutil.copytree(graph, out)

    async def main() -> tuple[list[tuple[str, dict[str, float]]], str]:
        service = services.Service({"trees": copy}, engine="auto")
        await service.start()
        facts, found = service.entries["trees"].facts, []
        image, asked = [("image", picture())], {"top": 3, "coverage": None, "abstain": None}

        async def ask() -> None:
            before = facts["engine"]
            [said] = await service.answer("trees", image, do="label", **asked)
            found.append((before, said["probabilities"]))

        await ask()
        noted = facts["engine_note"]
        exported.set()
        while [engine for engine, _ in found].count("onnx") < 5:
            await asyncio.gather(ask(), ask())
        group = service.batcher._group("trees")
        await service.stop()
        assert group.startswith("onnx:")
        return found, noted

    monkeypatch.setattr(services, "export", export)
    found, noted = asyncio.run(main())
    assert noted == "being exported"
    assert found[0][0] == "torch"
    for _, probabilities in found:  # no request failed, and all say the same
        assert probabilities == pytest.approx(found[0][1], abs=1e-5)


class Process:
    """An inference process that refuses every graph."""

    ready = asyncio.Event

    async def call(self, value: dict[str, Any]) -> None:
        raise services.Refused(f"{value['do']} is refused", "AdapterError")


def test_an_adapter_without_a_graph_stays_with_torch_and_says_why(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(folder: Path, out: Path, *, aside: bool) -> None:
        assert aside
        raise AdapterError(f"torch.export cannot make a graph of {folder.name} at {out.name[:5]}.")

    async def main(engine: Any, note: str, place: Path) -> Any:
        service = services.Service({"trees": place}, engine=engine)
        service.process = Process()  # type: ignore[assignment]
        entry = service.entries["trees"]
        entry.facts = {"engine": "torch", "engine_note": note}
        service._to_export.put_nowait(("trees", entry))
        task = asyncio.create_task(service._export_all())
        while not service._to_export.empty() or entry.facts["engine_note"] == "being exported":
            await asyncio.sleep(0.01)
        task.cancel()
        return entry

    monkeypatch.setattr(services, "export", refuse)
    copy = shutil.copytree(adapter, adapter.parent / "copy", ignore=shutil.ignore_patterns("onnx*"))
    told = asyncio.run(main("auto", "", copy))
    assert told.facts["engine"] == "torch"
    assert "cannot make a graph of copy at onnx-" in told.facts["engine_note"]
    assert told.graph is None
    asked = asyncio.run(main("auto", "as was asked for", copy))
    assert asked.facts["engine_note"] == "as was asked for"
    with pytest.raises(AdapterError, match="cannot be run by ONNX Runtime: cuda computes"):
        asyncio.run(refused(copy))


def test_a_process_that_ends_over_the_graphs_ends_the_start_with_the_reason(
    adapter: Path, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del graph  # it is there
    service = services.Service({"trees": adapter}, engine="onnx")
    facts = {"engine": "torch", "engine_note": ""}

    async def start() -> Any:
        return {"described": {"trees": facts}}

    async def call(_: dict[str, Any]) -> None:
        raise services.WorkerGone("The process was ended by SIGSEGV.")

    monkeypatch.setattr(service.process, "start", start)
    monkeypatch.setattr(service.process, "call", call)
    with pytest.raises(AdapterError, match=r"cannot start. The process was ended by SIGSEGV"):
        asyncio.run(service.start())
    assert not service._own.exists()


def test_a_signal_while_it_exports_ends_it_in_peace(adapter: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(adapter, tmp_path / "trees", ignore=shutil.ignore_patterns("onnx*"))
    command = [
        sys.executable,
        "-m",
        "petiole",
        "serve",
        str(copy),
        "--engine",
        "onnx",
        "--port",
        "0",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert json.loads(process.stderr.readline())["note"] == "being exported"
    process.terminate()
    assert process.communicate(timeout=100)[0] == ""
    assert process.returncode == 0
    assert {one.name for one in copy.iterdir()} == {"adapter.json", "adapter.safetensors"}


async def refused(place: Path) -> None:
    service = services.Service({"trees": place}, engine="onnx")
    service.entries["trees"].facts = {"engine": "torch", "engine_note": "cuda computes"}
    await service._use_graph("trees", service.entries["trees"])
