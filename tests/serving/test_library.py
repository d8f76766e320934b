"""Which engine answers for which adapter, where graphs lie, and who may be asked what."""

from __future__ import annotations

import asyncio
import os
import signal
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from builders.serving import picture

pytest.importorskip("httpx2", reason="the extra serve is not installed")
pytest.importorskip("fastapi", reason="the extra serve is not installed")
from petiole.errors import AdapterError, ConfigError, DataError
from petiole.serving import exports, library, onnx_graph
from petiole.serving.mixed import ByRows
from petiole.serving.ray_replicas import RayReplicas, on_ray
from petiole.serving.worker import error_of


def test_a_graph_lies_beside_its_adapter_or_where_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    manifest, spare = tmp_path / "a/adapter.json", tmp_path / "spare"
    manifest.parent.mkdir()
    manifest.write_text("one")
    place = exports.place_of(manifest, spare)
    assert place.parent == manifest.parent
    assert len(place.name) == len("onnx-") + 16
    manifest.write_text("two")
    assert exports.place_of(manifest, spare) != place
    monkeypatch.setattr(os, "access", lambda *_: False)
    other = exports.place_of(manifest, spare)
    assert other.parent == spare
    (manifest.parent / other.name).mkdir()
    assert exports.place_of(manifest, spare).parent == manifest.parent, "it is there already"


@pytest.mark.parametrize(("aside", "priorities"), [(True, [10]), (False, [])])
def test_an_export_goes_after_requests(aside: bool, priorities: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    set_to: list[int] = []
    monkeypatch.setattr(os, "setpriority", lambda which, pid, priority: set_to.append(priority))  # noqa: ARG005
    said = SimpleNamespace(code=1, err=b"warning\nerror: it has no graph\n")

    class Process:
        pid = 7

        @property
        def returncode(self) -> int:
            return int(said.code)

        async def communicate(self) -> tuple[bytes, bytes]:
            return b"", said.err

    asked: list[Any] = []

    async def made(*command: Any, **_: Any) -> Process:
        asked.append(command[1:])
        return Process()

    monkeypatch.setattr(asyncio, "create_subprocess_exec", made)
    with pytest.raises(AdapterError, match=r"^it has no graph$"):
        asyncio.run(exports.export(Path("a"), tmp_path / "o", aside=aside))
    assert set_to == priorities
    assert asked[0] == ("-m", "petiole", "export", "a", "--out", str(tmp_path / "o"))
    said.err, said.code = b"", -9
    with pytest.raises(AdapterError, match=r"^petiole export was ended by SIGKILL"):
        asyncio.run(exports.export(Path("a"), tmp_path / "o", aside=aside))
    (tmp_path / "o").mkdir()
    asyncio.run(exports.export(Path("a"), tmp_path / "o"))
    said.code = 0
    asyncio.run(exports.export(Path("a"), tmp_path / "none"))


def test_why_torch_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    made = object.__new__(library.AdapterLibrary)
    made.engine, made.device = "torch", "cpu"
    assert made._why_torch(False) == "as was asked for"
    made.engine = "auto"
    assert made._why_torch(True) == "adapters that write texts are not exported"
    missing = {"onnx", "onnxscript"}
    monkeypatch.setattr(library, "find_spec", lambda name: None if name in missing else object())
    assert made._why_torch(False) == "onnx, onnxscript: pip install 'petiole[onnx]'"
    missing.clear()
    assert made._why_torch(False) == ""
    made.device = "cuda"
    assert made._why_torch(False).endswith("and cuda computes")


def test_graphs_of_auto_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "open_graph", lambda place, threads: f"graph of {place.name} by {threads}")  # fmt: skip
    monkeypatch.setattr(library, "GRAPH_BYTES", 10)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for name, size in (("a", 6), ("b", 4), ("c", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_bytes(b"x" * (size - 1))
        (tmp_path / name / "model.onnx.data").write_bytes(b"x")
        (tmp_path / name / "golden.npz").write_bytes(b"x" * 99)
    made = library.AdapterLibrary("cpu", 3, 100, "auto")
    made._opened.update({"fa": object(), "fb": object()})  # type: ignore[dict-item]
    made.use("fa", tmp_path / "a")
    made.use("fb", tmp_path / "b")
    assert made._graphs == {"fa": "graph of a by 3", "fb": "graph of b by 3"}  # type: ignore[comparison-overlap]
    made.use("fb", tmp_path / "b")
    with pytest.raises(
        AdapterError, match=r"Graphs of other adapters fill 0 GiB; --engine onnx has"
    ):
        made.use("fb", tmp_path / "c")
    made.engine = "onnx"
    made.use("fb", tmp_path / "c")
    made.use("later", tmp_path / "a")
    assert "later" not in made._graphs
    assert made._places["later"] == tmp_path / "a"
    assert made.groups(["fa", "fb", "none"]) == {"fa": "onnx:fa", "fb": "onnx:fb"}


def test_runs_of_rows_have_layers_of_their_own() -> None:
    double, negate = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    with torch.no_grad():
        for layer, factor in ((double, 2.0), (negate, -1.0)):
            layer.weight.copy_(factor * torch.eye(3))
            layer.bias.zero_()
    x = torch.arange(18.0).reshape(6, 3)
    made = ByRows([(slice(1, 3), double), (slice(4, 6), negate)], 6)(x)
    assert torch.equal(made, torch.cat([0 * x[:1], 2 * x[1:3], 0 * x[3:4], -x[4:]]))
    assert torch.equal(ByRows([(slice(0, 6), double)], 6)(x), 2 * x)
    assert torch.equal(ByRows([(slice(0, 2), negate)], 6)(x), torch.cat([-x[:2], 0 * x[2:]]))


def test_a_question_to_a_tuned_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no tasks to choose from"):
        library._ask_codebook(None, "?", [Path("a")], "t")
    for images in ([], [Path("a"), Path("b")]):
        with pytest.raises(ConfigError, match=r"is about one image"):
            library._ask_codebook(None, "?", images, "")
    monkeypatch.setattr("petiole.tasks.codebook.training.ask", lambda *given: given)
    monkeypatch.setattr("petiole.tasks.text.training.ask", lambda *given: given)
    assert library._ask_codebook("x", "?", [Path("a")], "") == ("x", Path("a"), "?")  # type: ignore[comparison-overlap]
    assert library._ask_text("x", "?", [], "t") == ("x", "?", [], "t")  # type: ignore[comparison-overlap]


def test_what_a_worker_answers_instead() -> None:
    assert error_of(DataError("torn")) == {"error": "torn", "kind": "DataError"}
    assert error_of(ValueError("x")) == {"error": "ValueError: x", "kind": "Unforeseen"}


def test_numbers_of_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petiole.serving.ray_replicas.connected", lambda _: None)
    for given, fewest, most in (((), 1, 1), ((3,), 3, 3), ((1, 4), 1, 4), ((2, 2), 2, 2)):
        made = on_ray(SimpleNamespace(address=None), given)(dict)
        assert isinstance(made, RayReplicas)
        assert (made.fewest, made.most, made.places, made.starts) == (fewest, most, 1, 1)
    for given in ((0,), (2, 1), (1, 2, 3), (-1, 2)):
        with pytest.raises(ConfigError, match=r"--replicas takes how many there are"):
            on_ray(SimpleNamespace(address=None), given)


def test_each_kind_of_adapter_is_asked_what_it_can_answer() -> None:
    from petiole.tasks.classification.adapter import ClassificationAdapter

    labels: Any = object.__new__(ClassificationAdapter)
    answers: Any = object()
    for do in ("predict", "explain"):
        library._check_use(do, labels)
        with pytest.raises(ConfigError, match=r"labels no images: use /v1/ask"):
            library._check_use(do, answers)
    library._check_use("ask", answers)
    with pytest.raises(ConfigError, match=r"answers no questions: use /v1/predict"):
        library._check_use("ask", labels)


def test_the_least_lately_used_are_let_go() -> None:
    made = library.AdapterLibrary("cpu", 3, 100, "torch")
    made.most = 2
    made._opened.update(dict.fromkeys("abcd", object()))  # type: ignore[arg-type]
    made._trim()
    assert list(made._opened) == ["c", "d"]
    made._trim()
    assert len(made._opened) == 2, "as many as may be stay"


def test_the_image_of_a_question_is_checked_before_it_is_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    asked: list[Any] = []

    def ask(adapter: Any, question: str, paths: list[Path], task: str) -> str:
        asked.append((adapter, question, [path.read_bytes() for path in paths], task))
        return "two"

    monkeypatch.setattr(library, "_ASKS", {"text": ask})
    made = library.AdapterLibrary("cpu", 3, 10_000, "torch")
    adapter: Any = SimpleNamespace(manifest=SimpleNamespace(kind="text"))
    row: Any = {"question": "?", "image": "the image", "task": "t"}
    assert made._ask(adapter, row, image := picture()) == "two"
    assert made._ask(adapter, row, b"") == "two"
    assert asked == [(adapter, "?", [image], "t"), (adapter, "?", [], "t")]
    with pytest.raises(DataError, match=r"the image"):
        made._ask(adapter, row, b"no image")
    with pytest.raises(DataError, match=r"pixels"):
        made._ask(adapter, row, picture(side=120))
    assert len(asked) == 2


def test_a_graph_is_opened_where_it_answers_as_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    logits = np.array([[1.0, -3.0], [2.0, 0.5]], dtype=np.float32)
    said = logits.copy()
    (tmp_path / "model.onnx").write_bytes(b"graph")
    np.savez(tmp_path / onnx_graph.GOLDEN, pixels=np.zeros((2, 3, 4, 4)), logits=logits)
    files = {"model.onnx": sha256(b"graph").hexdigest()}
    monkeypatch.setattr(onnx_graph, "read_kept", lambda *_: SimpleNamespace(files=files))
    session = SimpleNamespace(predict=lambda _: said)
    monkeypatch.setattr(onnx_graph, "OnnxSession", lambda *_, **__: session)
    assert onnx_graph.open_graph(tmp_path, threads=1) is session
    said[0, 1] += 3.9e-3  # of 1 + 3
    assert onnx_graph.open_graph(tmp_path, threads=1) is session
    for other in (logits + 4.2e-3, -logits):
        session.predict = lambda _, other=other: other
        with pytest.raises(AdapterError, match=r"gives other logits on this machine"):
            onnx_graph.open_graph(tmp_path, threads=1)
    files["model.onnx"] = "0"
    with pytest.raises(AdapterError, match=r"model.onnx is missing or damaged"):
        onnx_graph.open_graph(tmp_path, threads=1)


def test_an_export_that_is_given_up_is_ended_in_peace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    done: list[Any] = []

    class Process:
        pid, returncode = 7, None

        async def communicate(self) -> Any:
            await asyncio.Event().wait()

        def send_signal(self, which: int) -> None:
            done.append(which)

        async def wait(self) -> None:
            done.append("waited")

    async def made(*_: Any, **__: Any) -> Process:
        return Process()

    monkeypatch.setattr(asyncio, "create_subprocess_exec", made)

    async def main() -> None:
        task = asyncio.create_task(exports.export(Path("a"), tmp_path / "o", aside=False))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert done == [signal.SIGINT, "waited"]


@pytest.mark.parametrize("torn", [False, True])
def test_an_adapter_is_read_once_and_its_graph_used_where_one_is_known(torn: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    made, used = library.AdapterLibrary("cpu", 3, 100, "torch"), list[Any]()

    def use(*given: Any) -> None:
        used.append(given)
        if torn:
            raise AdapterError("it is torn")

    monkeypatch.setattr(made, "_load", lambda folder: f"adapter of {folder}")
    monkeypatch.setattr(made, "use", use)
    made._places["/b"] = Path("g")
    assert [made.open(one) for one in ("/a", "/b", "/a")] == ["adapter of /a", "adapter of /b", "adapter of /a"]  # fmt: skip
    assert used == [("/b", Path("g"))]
    assert list(made._opened) == ["/b", "/a"], "the least lately used is the first"


def test_an_upload_for_a_model_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    made, asked = library.AdapterLibrary("cpu", 3, 100, "torch"), list[Any]()
    card: Any = SimpleNamespace(name="vit", fingerprint="0123456789abcdef", preprocessing=None, image_size=None)  # fmt: skip
    monkeypatch.setattr(library, "find", lambda folder: folder / "found")
    monkeypatch.setattr(library, "read_manifest", lambda *given, **more: asked.append((given, more)) or SimpleNamespace(backbone=card))  # fmt: skip
    told = r"^The adapter is for vit with fingerprint 0123456789ab, which is not served here \(served: "
    with pytest.raises(AdapterError, match=told + r"none\)"):
        made.admit(Path("/a"))
    assert asked == [((Path("/a/found"),), {"kind": "classification"})]
    made._cards |= {str(i): SimpleNamespace(name=name) for i, name in enumerate(("y", "x", "y"))}  # type: ignore[misc]
    with pytest.raises(AdapterError, match=told + r"x, y\)"):
        made.admit(Path("/a"))


def test_what_is_let_go_is_read_again_and_its_graph_unknown() -> None:
    made = library.AdapterLibrary("cpu", 3, 100, "torch")
    for known in (made._opened, made._graphs, made._places):
        known.update({"/a": object(), "/b": object()})  # type: ignore[call-overload]
    made.forget("/a")
    made.forget("/none")
    assert [list(known) for known in (made._opened, made._graphs, made._places)] == [["/b"]] * 3  # type: ignore[call-overload]
