"""The whole server in this process, inference included: what it answers, refuses, measures and lets go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import petiole
from builders.serving import picture, text_of, write_adapter
from petiole.backbones.frozen_network import IMAGES
from petiole.data.image import decode
from petiole.errors import AdapterError, ConfigError

pytest.importorskip("httpx2", reason="the extra serve is not installed")
pytest.importorskip("fastapi", reason="the extra serve is not installed")
import httpx2 as httpx

from petiole.serving import service as served
from petiole.serving.app import create_app
from petiole.serving.channel import Message
from petiole.serving.keys import ApiKeys
from petiole.serving.limits import Limits
from petiole.serving.pages import page_router
from petiole.serving.process import Refused
from petiole.serving.service import VERSION, Service, find_adapters, is_adapter
from petiole.serving.worker import error_of, inference_handlers
from petiole.version import __version__

CLASSES = ["ash", "birch", "cedar"]
Scene = Callable[[Any, Service], Awaitable[None]]


class Here:
    """Inference without a process of its own; what it says goes through JSON as it would between two."""

    places, starts = 1, 3

    def __init__(self, setup: Callable[[], Any]) -> None:
        self.setup, self.ready, self.memory = setup, asyncio.Event(), 0
        self.on_end: Callable[[], None] = lambda: None
        self.asked: list[str] = []
        self.recycled = 0

    async def start(self) -> dict[str, Any]:
        in_turn, beside, described = inference_handlers(self.setup())
        self.handlers = {**in_turn, **beside}
        self.ready.set()
        return {"described": described}

    async def stop(self) -> None:
        self.ready.clear()

    def recycle(self) -> None:
        self.recycled += 1

    async def call(self, value: Any, blobs: Any = ()) -> Message:
        self.asked.append(value["do"])
        try:
            said, content = self.handlers[value["do"]](dict(value), list(blobs))
        except Exception as error:
            told = error_of(error)
            raise Refused(told["error"], told["kind"]) from error
        return Message(json.loads(json.dumps(said)), content)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pool/ with trees and plain, and other/ with what is uploaded."""
    root = tmp_path_factory.mktemp("here")
    backbone = petiole.load("petiole/tiny-vit")
    write_adapter(root / "pool/trees", backbone, CLASSES, rank=4)
    write_adapter(root / "pool/plain", backbone, ["x", "y"], seed=1, calibrated=False, rank=2)
    for name, seed in (("first", 2), ("second", 3)):
        write_adapter(root / "other" / name, backbone, [f"{name} {i}" for i in range(4)], seed=seed)
    return root


def play(place: Path, scene: Scene, routers: Any = None, gate: Any = None, **more: Any) -> None:
    """Run a scene against a fresh server over the pool."""

    async def main() -> None:
        folders = find_adapters(place / "pool")
        terms: dict[str, Any] = {
            "store": place / "store",
            "cache": place / "cache",
            "processes": Here,
        }
        service = Service(folders, **{**terms, **more})
        await service.start()
        app = create_app(service, routers=routers(service) if routers else (), **(gate or {}))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as http:
            await scene(http, service)
        await service.stop()

    asyncio.run(main())


async def idle(service: Service) -> None:
    """Wait until the last batch is noted."""
    while not service.batcher.idle:
        await asyncio.sleep(0.001)


def files_of(folder: Path) -> dict[str, bytes]:
    return {kind: (folder / f"adapter.{kind}").read_bytes() for kind in ("json", "safetensors")}


def fault(answer: Any, status: int, code: str) -> str:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    return str(error["message"])


def test_it_answers_what_the_adapters_give_alone(place: Path, tmp_path: Path) -> None:
    shots = [picture(i) for i in range(3)]
    for i, one in enumerate(shots):
        (tmp_path / f"{i}.png").write_bytes(one)
    wanted = {
        name: petiole.predict(place / "pool" / name, tmp_path).predictions
        for name in ("trees", "plain")
    }
    backbone = petiole.load("petiole/tiny-vit")
    pixels = torch.stack([backbone.preprocess(decode(one, "x", 10**6)) for one in shots])
    bare = backbone.lower(pixels, (backbone.vector,))[backbone.vector]
    adapted = petiole.Adapter.load(place / "pool/trees", backbone=backbone).adapted
    with torch.no_grad():
        inside = adapted({IMAGES: pixels}).vector

    async def scene(http: Any, service: Service) -> None:
        images = [text_of(one) for one in shots]
        for name, rows in wanted.items():
            said = (await http.post("/v1/predict", json={"adapter": name, "images": images})).json()
            assert said["adapter"] == name
            assert len(said["notes"]) == (name == "plain"), "once for all images"
            for one, row in zip(said["predictions"], rows, strict=True):
                assert one["label"] == row.label
                assert one["probability"] == pytest.approx(row.probability, abs=1e-5)
                assert one["probabilities"] == pytest.approx(row.probabilities, abs=1e-5)
                assert (one["label_set"], one["abstain"]) == ([], None)
        form = {"adapter": "trees", "top": "2", "coverage": "0.8", "abstain": "0.99"}
        said = (await http.post("/v1/predict", data=form, files=[("images", one) for one in shots])).json()  # fmt: skip
        assert [list(one["probabilities"]) for one in said["predictions"]] == [list(row.probabilities)[:2] for row in wanted["trees"]]  # fmt: skip
        asked = petiole.predict(place / "pool/trees", tmp_path, coverage=0.8, abstain_below=0.99)
        assert [one["label_set"] for one in said["predictions"]] == [row.label_set for row in asked.predictions]  # fmt: skip
        assert [one["abstain"] for one in said["predictions"]] == [row.abstain for row in asked.predictions]  # fmt: skip
        for flag, want in ((True, inside), (False, bare)):
            got = (await http.post("/v1/embed", json={"adapter": "trees", "images": images, "adapted": flag})).json()  # fmt: skip
            assert np.array(got["vectors"]) == pytest.approx(want.numpy(), abs=1e-4)
        seen = (await http.post("/v1/look", json={"adapter": "trees", "image": images[0], "label": "birch"})).json()  # fmt: skip
        assert (seen["adapter"], seen["label"]) == ("trees", "birch")
        assert np.shape(seen["patches"]) == backbone.grid
        asked = service.entries["trees"]
        assert asked.requests == 5
        told = (await http.get("/v1/adapters")).json()["adapters"]
        assert [one["name"] for one in told] == ["plain", "trees"]
        one = (await http.get("/v1/adapters/trees")).json()
        assert (one["classes"], one["does"], one["calibrated"]) == (
            CLASSES,
            ["predict", "embed"],
            True,
        )
        assert (one["engine"], one["engine_note"], one["requests"]) == (
            "torch",
            "as was asked for",
            5,
        )
        assert 0 <= one["idle_seconds"] < 60
        assert (await http.get("/healthz")).json() == {"status": "ok", "version": __version__}
        assert (await http.get("/readyz")).json() == {"status": "ready"}
        await idle(service)
        text = (await http.get("/metrics")).text
        for line in (
            'petiole_rows_total{adapter="trees"} 13.0',
            'petiole_rows_total{adapter="plain"} 3.0',
            "petiole_queue_rows 0.0",
            "petiole_worker_restarts 2.0",
            "petiole_worker_memory_bytes 0.0",
            "petiole_adapters 2.0",
            "petiole_workers 1.0",
            "petiole_adapter_reads_total 1.0",
            'petiole_request_seconds_count{route="/v1/embed",status="200"} 2.0',
        ):
            assert line in text, line

    play(place, scene)


def test_what_cannot_be_answered_says_why(place: Path) -> None:
    async def scene(http: Any, service: Service) -> None:
        image = {"images": [text_of(picture())]}

        async def post(status: int, code: str, path: str = "predict", **body: Any) -> str:
            return fault(await http.post(f"/v1/{path}", json=body), status, code)

        assert "This server has 2 adapters: name one" in await post(422, "value", **image)
        assert "Did you mean trees" in await post(404, "adapter", adapter="tree", **image)
        assert "not calibrated" in await post(422, "value", adapter="plain", coverage=0.9, **image)
        for name, value in (("coverage", 0), ("coverage", 1), ("abstain", 1), ("top", 0), ("top", 1001)):  # fmt: skip
            assert name in await post(422, "value", adapter="trees", **{name: value}, **image)
        assert "images: " in await post(422, "value", adapter="trees", images=[])
        assert "image 1 is no base64" in await post(422, "image", adapter="trees", images=[*image["images"], "http://x"])  # fmt: skip
        assert "image 0" in await post(422, "image", adapter="trees", images=["AAAA"])
        assert "at most 2 images" in await post(422, "images", adapter="trees", images=3 * image["images"])  # fmt: skip
        assert "pixels" in await post(422, "image", adapter="trees", images=[text_of(picture(side=51))])  # fmt: skip
        assert "answers no questions" in await post(422, "value", "ask", adapter="trees", question="?")  # fmt: skip
        assert "Unknown class of this adapter 'oak'" in await post(422, "value", "look", adapter="trees", image=image["images"][0], label="oak")  # fmt: skip
        two = await http.post(
            "/v1/look", data={"adapter": "trees"}, files=[("image", picture())] * 2
        )
        assert fault(two, 422, "images") == "A request has at most 1 image here."
        broken = await http.post("/v1/predict", content=b"{", headers={"content-type": "application/json"})  # fmt: skip
        assert fault(broken, 422, "value").startswith("the body: ")
        assert "Send multipart" in fault(await http.post("/v1/predict", content=b"x"), 415, "type")
        torn = await http.post("/v1/predict", content=b"x", headers={"content-type": "multipart/form-data"})  # fmt: skip
        assert "The form cannot be read" in fault(torn, 400, "form")
        files = [("images", picture())]
        for more, said in (
            ({"data": {"adapter": ["trees", "plain"]}, "files": files}, "'adapter' is given twice"),
            (
                {"files": [("photo", picture())]},
                "'photo': files are given as images, a single one as image",
            ),
            ({"data": {"adapter": "trees", "top": "many"}, "files": files}, "top: "),
        ):
            assert said in fault(await http.post("/v1/predict", **more), 422, "value")
        other = await http.post("/v1/adapters/trees")
        fault(other, 405, "http")
        assert other.headers["allow"] == "DELETE, GET, PUT"
        fault(await http.get("/v1/nothing"), 404, "http")
        large = await http.post("/v1/predict", content=b"x" * 50_001)
        assert fault(large, 413, "body") == "A request has at most 50,000 bytes here."
        service.process.ready.clear()
        for answer in (await http.get("/readyz"), await http.post("/v1/predict", json=image)):
            assert "being started" in fault(answer, 503, "starting")
            assert answer.headers["retry-after"] == "2"
        assert (await http.get("/healthz")).status_code == 200
        text = (await http.get("/metrics")).text
        assert 'petiole_refused_total{reason="starting"} 2.0' in text

    play(place, scene, limits=Limits(images=2, pixels=2500, body=50_000))


def test_adapters_come_and_go(place: Path) -> None:
    async def scene(http: Any, service: Service) -> None:
        first, second = (files_of(place / "other" / name) for name in ("first", "second"))
        ask = {"images": [text_of(picture())], "adapter": "mine"}
        assert service.store is not None
        told = (await http.put("/v1/adapters/mine", files=first)).json()
        assert (told["name"], told["classes"][0], told["requests"]) == ("mine", "first 0", 0)
        (folder,) = (service.store / "mine").iterdir()
        assert folder.name.startswith(VERSION)
        assert sorted(file.name for file in folder.iterdir()) == [
            "adapter.json",
            "adapter.safetensors",
        ]
        said = (await http.post("/v1/predict", json=ask)).json()
        assert said["predictions"][0]["label"].startswith("first")
        told = (await http.put("/v1/adapters/mine", files=second)).json()
        assert (told["classes"][0], told["requests"]) == ("second 0", 1), "its requests are kept"
        assert not folder.exists()
        said = (await http.post("/v1/predict", json=ask)).json()
        assert said["predictions"][0]["label"].startswith("second")
        torn = {**first, "safetensors": first["safetensors"][:-9]}
        message = fault(await http.put("/v1/adapters/torn", files=torn), 422, "value")
        assert str(service.store) not in message
        assert not (service.store / "torn").exists()
        for name in (".hidden", "a" * 65, "a b"):
            answer = await http.put(f"/v1/adapters/{name}", files=first)
            assert "cannot be an adapter's name" in fault(answer, 422, "value")
        half = await http.put("/v1/adapters/half", files={"json": first["json"]})
        assert "is the two files adapter.json and adapter.safetensors" in fault(half, 422, "value")
        await http.put("/v1/adapters/later", files=first)
        assert list(service.entries) == ["plain", "trees", "mine", "later"]
        await http.post("/v1/predict", json=ask)  # so that ``later`` was used least lately
        await http.put("/v1/adapters/last", files=second)
        assert list(service.entries) == ["plain", "trees", "mine", "last"]
        assert not (service.store / "later").exists()
        assert (await http.delete("/v1/adapters/mine")).status_code == 204
        assert not (service.store / "mine").exists()
        fault(await http.get("/v1/adapters/mine"), 404, "adapter")
        assert 'adapter="mine"' not in (await http.get("/metrics")).text.replace("route", "")
        assert (await http.delete("/v1/adapters/trees")).status_code == 204
        assert (place / "pool/trees/adapter.json").is_file(), "it was there before"
        fault(await http.delete("/v1/adapters/trees"), 404, "adapter")

    play(place, scene, limits=Limits(adapters=4))


def test_uploads_are_known_again_and_the_newest_counts(tmp_path: Path, place: Path) -> None:
    import os
    import shutil

    for i, version in enumerate(("version-b", "version-a")):
        folder = tmp_path / "mine" / version
        shutil.copytree(place / "other/first", folder)
        os.utime(folder / "adapter.json", (1e9 + i, 1e9 + i))
    shutil.copytree(place / "other/first", tmp_path / "run/adapter")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert find_adapters(tmp_path) == {
        "mine": tmp_path / "mine/version-a",
        "run": tmp_path / "run/adapter",
    }
    assert [is_adapter(tmp_path / name) for name in ("run", "run/adapter", "empty", "mine")] == [True, True, False, False]  # fmt: skip
    service = Service(find_adapters(tmp_path), processes=Here)
    assert {name: one.uploaded for name, one in service.entries.items()} == {
        "mine": True,
        "run": False,
    }


def test_who_vouches_for_adapters_takes_none_by_upload(place: Path, tmp_path: Path) -> None:
    service = Service({}, processes=Here, trusted=tmp_path / "owner.pem", store=tmp_path)
    with pytest.raises(ConfigError, match=r"takes only adapters that owner\.pem vouches for"):
        asyncio.run(service.put("a", files_of(place / "other/first")))
    (one,) = [s.process.setup()["trusted"] for s in (service,)]  # type: ignore[attr-defined]
    assert one == str(tmp_path / "owner.pem")


def test_what_the_process_is_started_with(tmp_path: Path) -> None:
    folders = {"a": tmp_path / "a", "b": tmp_path / "b"}
    service = Service(folders, backbones=("x",), device="d", engine="auto", cache=tmp_path, processes=Here, limits=Limits(loaded=3, pixels=4))  # fmt: skip
    service.entries["b"].graph = tmp_path / "g"
    assert service.process.setup() == {  # type: ignore[attr-defined]
        "folders": {name: str(folder) for name, folder in folders.items()}, "backbones": ["x"], "device": "d",
        "loaded": 3, "pixels": 4, "engine": "auto", "trusted": "", "cache": str(tmp_path),
        "graphs": {str(tmp_path / "b"): str(tmp_path / "g")},
    }  # fmt: skip


def test_one_adapter_need_not_be_named_and_a_canary_has_its_share(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    one = Service({"a": Path("a")}, processes=Here)
    assert one.chosen(None) == "a"
    three = Service({n: Path(n) for n in "abc"}, processes=Here, canaries={"a": ("b", 0.25), "c": ("gone", 1.0)})  # fmt: skip
    for drawn, answers in ((0.0, "b"), (0.2499, "b"), (0.25, "a"), (0.99, "a")):
        monkeypatch.setattr(served.random, "random", lambda n=drawn: n)
        assert three.chosen("a") == answers
        assert three.chosen("b") == "b"
        assert three.chosen("c") == "c", "its canary is not there any more"
    for name, error in ((None, ConfigError), ("x", AdapterError)):
        with pytest.raises(error):
            three.chosen(name)


@pytest.mark.parametrize(("share", "number"), [("0", 0.0), ("1", 1.0), (".5", 0.5), ("0.125", 0.125)])  # fmt: skip
def test_shares_of_canaries(share: str, number: float) -> None:
    assert served.canaries_of([f"a=b:{share}"], "ab") == {"a": ("b", number)}  # type: ignore[arg-type]
    for wrong in ("a=b", "a=b:2", "a=b:1.5", "a=b:-0.1", "=b:1", "a=:1", "a=b:x"):
        with pytest.raises(ConfigError, match=r"A canary is NAME=OTHER:SHARE"):
            served.canaries_of([wrong], "ab")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Unknown adapter of this server 'c'"):
        served.canaries_of(["a=c:1"], "ab")  # type: ignore[arg-type]


def test_a_large_process_is_started_anew_between_batches(place: Path) -> None:
    async def scene(http: Any, service: Service) -> None:
        process: Any = service.process
        ask = {"images": [text_of(picture())], "adapter": "trees"}
        for memory, recycled in ((1000, 0), (1001, 1)):
            process.memory = memory
            await idle(service)
            await http.post("/v1/predict", json=ask)
            assert process.recycled == recycled
        service.limits = Limits(memory=0)
        await idle(service)
        await http.post("/v1/predict", json=ask)
        assert process.recycled == 1, "no bound"

    play(place, scene, limits=Limits(memory=1000))


def test_only_who_has_a_key_may_ask_and_pages_of_others_not(place: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(
        f"# ours\n\nshop {sha256(b'secret').hexdigest()}  # of the shop\n"
    )
    runs = tmp_path / "runs"
    (runs / "one").mkdir(parents=True)
    (runs / "one/report.html").write_text("<p>page</p>")
    (tmp_path / "report.html").write_text("outside")
    gate = {
        "keys": ApiKeys(tmp_path / "keys"),
        "origins": ["https://shop.example"],
        "hosts": ("here",),
    }

    async def scene(http: Any, _: Service) -> None:
        for path in ("/v1/adapters", "/metrics", "/runs/one/report.html"):
            refused = await http.get(path)
            assert "Authorization: Bearer" in fault(refused, 401, "key")
            assert refused.headers["www-authenticate"] == "Bearer"
        for word in ("Bearer wrong", "Basic secret", "secret", "Bearer"):
            fault(await http.get("/v1/adapters", headers={"authorization": word}), 401, "key")
        key = {"authorization": "bearer  secret "}
        assert (await http.get("/v1/adapters", headers=key)).status_code == 200
        page = await http.get("/runs/one/report.html", headers=key)
        assert (page.text, page.headers["content-type"]) == (
            "<p>page</p>",
            "text/html; charset=utf-8",
        )
        for path in ("/runs/none/report.html", "/runs/%2e%2e/report.html"):
            fault(await http.get(path, headers=key), 404, "http")
        for path in ("/healthz", "/readyz", "/", "/page/main.js"):
            open_ = await http.get(path)
            assert open_.status_code == 200, path
            assert open_.headers["x-content-type-options"] == "nosniff"
            assert open_.headers["x-frame-options"] == "DENY"
            assert open_.headers["referrer-policy"] == "no-referrer"
        fault(await http.get("/page/none.js"), 404, "http")
        assert (await http.get("/v1/page", headers=key)).json() == {"teach": True, "runs": True, "training": False}  # fmt: skip
        listed = (await http.get("/v1/runs", headers=key)).json()["runs"]
        assert listed == [{"name": "one", "state": "page", "page": True}]
        fault(await http.post("/v1/nearest", headers=key), 404, "http")
        fault(await http.get("/healthz", headers={"host": "evil.example"}), 421, "host")
        fault(await http.get("/healthz", headers={"host": "[::bad"}), 421, "host")
        for origin, status in (("http://here", 200), ("https://shop.example", 200), ("https://evil.example", 403), ("null", 403)):  # fmt: skip
            assert (await http.get("/healthz", headers={"origin": origin})).status_code == status
        allowed = await http.options("/v1/predict", headers={"origin": "https://shop.example", "access-control-request-method": "PUT", "access-control-request-headers": "authorization"})  # fmt: skip
        assert allowed.headers["access-control-allow-origin"] == "https://shop.example"

    def routers(service: Service) -> list[Any]:
        return [page_router(service, runs=runs, teaches=True)]

    play(place, scene, routers, gate)


def test_the_documents_state_forms_beside_json(place: Path) -> None:
    async def scene(http: Any, _: Service) -> None:
        paths = (await http.get("/openapi.json")).json()["paths"]
        forms = {
            name: paths[f"/v1/{name}"]["post"]["requestBody"]["content"]["multipart/form-data"][
                "schema"
            ]
            for name in ("predict", "embed", "look", "ask")
        }
        file = {"type": "string", "format": "binary"}
        for name in ("predict", "embed"):
            assert forms[name]["properties"]["images"] == {
                "type": "array",
                "items": file,
                "minItems": 1,
            }
            assert forms[name]["required"] == ["images"]
        assert forms["look"]["properties"]["image"] == forms["ask"]["properties"]["image"] == file
        assert (forms["look"]["required"], forms["ask"]["required"]) == (["image"], ["question"])
        upload = paths["/v1/adapters/{name}"]["put"]["requestBody"]
        schema = upload["content"]["multipart/form-data"]["schema"]
        assert upload["required"] is True
        assert schema["required"] == ["json", "safetensors"]
        assert set(schema["properties"]) == {"json", "safetensors"}
        assert {"401", "422", "429", "503"} <= set(paths["/v1/predict"]["post"]["responses"])

    play(place, scene)


def test_a_start_that_fails_leaves_nothing(place: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    made: list[Path] = []
    mkdtemp = served.tempfile.mkdtemp
    monkeypatch.setattr(served.tempfile, "mkdtemp", lambda **k: made.append(Path(mkdtemp(**k))) or str(made[-1]))  # fmt: skip

    class Refusing(Here):
        async def start(self) -> dict[str, Any]:
            raise Refused("it is torn", "AdapterError")

    service = Service(find_adapters(place / "pool"), processes=Refusing)
    with pytest.raises(AdapterError, match=r"^The server cannot start\. it is torn$"):
        asyncio.run(service.start())
    assert len(made) == 1
    assert not made[0].exists()


def test_adapters_beyond_the_bound_are_read_again(place: Path) -> None:
    async def scene(http: Any, service: Service) -> None:
        for name in ("trees", "plain", "plain", "trees"):
            ask = {"images": [text_of(picture())], "adapter": name}
            assert (await http.post("/v1/predict", json=ask)).status_code == 200
        await idle(service)
        text = (await http.get("/metrics")).text
        assert "petiole_adapter_reads_total 3.0" in text, "each was let go for the other"

    play(place, scene, limits=Limits(loaded=1))


def test_the_process_forgets_what_is_let_go_and_uploads_are_deleted(tmp_path: Path) -> None:
    said: list[Any] = []

    class Gone:
        """A process that is down."""

        async def call(self, value: Any) -> None:
            said.append(value)
            raise ConnectionError

    made: Any = object.__new__(Service)
    made.process = Gone()
    for uploaded in (False, True):
        folder = tmp_path / f"{uploaded}"
        folder.mkdir()
        asyncio.run(made._let_go(SimpleNamespace(folder=folder, uploaded=uploaded)))
        assert said.pop() == {"do": "forget", "folder": str(folder)}
        assert folder.exists() != uploaded
