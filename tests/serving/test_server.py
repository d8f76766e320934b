"""``petiole serve`` over the loopback, asked by a real client."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import petiole
from builders.cli import say
from builders.serving import Running, picture, serving, text_of, write_adapter
from petiole.commands.serve import bound
from petiole.files import read_sealed, write_sealed
from petiole.serving.client import ServerError
from petiole.serving.service import find_adapters

httpx = pytest.importorskip("httpx2", reason="the extra serve is not installed")
pytest.importorskip("fastapi", reason="the extra serve is not installed")
CLASSES = ["ash", "birch", "cedar"]
KEY = {"authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pool/ with trees and plain, other/ with what is uploaded, and an image."""
    root = tmp_path_factory.mktemp("served")
    backbone = petiole.load("petiole/tiny-vit")
    write_adapter(root / "pool" / "trees", backbone, CLASSES, rank=4)
    write_adapter(root / "pool" / "plain", backbone, CLASSES, seed=1, calibrated=False, rank=2)
    write_adapter(root / "pool" / "run" / "adapter", backbone, CLASSES, seed=4, rank=2)
    for name, seed in (("first", 2), ("second", 3)):
        write_adapter(root / "other" / name, backbone, [f"{name} {i}" for i in range(3)], seed=seed)
    (root / "image.png").write_bytes(picture())
    return root


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Running]:
    bounds = ("--max-images", 4, "--max-body-mb", 2, "--max-pixels", 10_000, "--max-adapters", 5)
    keys = place / "keys"
    keys.write_text(f"shop {sha256(b'secret').hexdigest()}  # of the web shop\n")
    arguments = (place / "pool", *bounds, "--max-wait", 20, "--api-keys", keys)
    with serving(place / "log", *arguments) as running:
        yield running


@pytest.fixture
def http(server: Running) -> Iterator[Any]:
    with httpx.Client(base_url=server.url, headers=KEY, timeout=60) as client:
        yield client


def files_of(folder: Path) -> dict[str, bytes]:
    return {kind: (folder / f"adapter.{kind}").read_bytes() for kind in ("json", "safetensors")}


def fault(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"]
    return str(error["message"])


def test_it_answers_what_predict_answers(http: Any, place: Path) -> None:
    want = petiole.predict(place / "pool" / "trees", place / "image.png", coverage=0.8)
    row = want.predictions[0]
    form = {"adapter": "trees", "top": "2", "coverage": "0.8", "abstain": "0.99"}
    files = [("images", (place / "image.png").read_bytes())] * 2
    by_form = http.post("/v1/predict", data=form, files=files).json()
    asked = {"adapter": "trees", "images": [text_of(picture())], "top": 2, "coverage": 0.8}
    by_json = http.post("/v1/predict", json={**asked, "abstain": 0.99}).json()
    assert len(by_form["predictions"]) == 2
    for said in (*by_form["predictions"], *by_json["predictions"]):
        assert said["label"] == row.label
        assert said["probabilities"] == pytest.approx(
            dict(list(row.probabilities.items())[:2]), abs=1e-5
        )
        assert said["label_set"] == row.label_set
        assert said["outside"] == row.outside
        assert said["abstain"] is (said["probability"] < 0.99 or said["outside"])


def test_the_clients_speak_to_it(server: Running, place: Path) -> None:
    with petiole.Client(server.url, key="secret") as client:
        said = client.predict(place / "image.png", adapter="trees", top=2, coverage=0.8)
        assert len(said["predictions"][0]["probabilities"]) == 2
        vector = client.embed([picture()], adapter="trees", adapted=False)["vectors"][0]
        assert client.put("mine", place / "other" / "first")["name"] == "mine"
        client.delete("mine")
        with pytest.raises(ServerError, match="answers no questions") as told:
            client.ask("What is it?", adapter="trees")
        assert told.value.status == 422

    async def ask() -> Any:
        async with petiole.AsyncClient(server.url, key="secret") as client:
            images = [client.predict(picture(), adapter="trees") for _ in range(3)]
            names = {one["name"] for one in await client.adapters()}
            embedded = await client.embed(picture(), adapter="trees", adapted=False)
            return await asyncio.gather(*images), names, embedded["vectors"][0]

    answers, names, same = asyncio.run(ask())
    assert {a["predictions"][0]["label"] for a in answers} == {said["predictions"][0]["label"]}
    assert names == {"trees", "plain", "run"}
    assert same == pytest.approx(vector, abs=1e-4)


def test_vectors_are_the_adapters_or_the_backbones(http: Any) -> None:
    asked = {"images": [text_of(picture())]}
    vectors = {
        (name, adapted): http.post(
            "/v1/embed", json={**asked, "adapter": name, "adapted": adapted}
        ).json()["vectors"][0]
        for name in ("trees", "plain")
        for adapted in (True, False)
    }
    assert vectors["trees", False] == pytest.approx(vectors["plain", False], abs=1e-4)
    assert vectors["trees", True] != pytest.approx(vectors["plain", True], abs=1e-2)


def test_what_cannot_be_answered_says_why(http: Any) -> None:
    image = {"images": [text_of(picture())]}
    post = lambda **body: http.post("/v1/predict", json=body)  # noqa: E731
    assert "name one" in fault(post(**image), 422)
    assert "trees" in fault(post(adapter="tree", **image), 404)
    assert "not calibrated" in fault(post(adapter="plain", coverage=0.9, **image), 422)
    assert "coverage" in fault(post(adapter="trees", coverage=1.5, **image), 422)
    assert "colour" in fault(post(adapter="trees", colour="red", **image), 422)
    assert "not fetched" in fault(post(adapter="trees", images=["http://example.org/a.png"]), 422)
    assert "image 0" in fault(post(adapter="trees", images=[text_of(b"no image")]), 422)
    assert "image 1" in fault(post(adapter="trees", images=[text_of(picture()), "AAAA"]), 422)
    assert "at most 4" in fault(post(adapter="trees", images=5 * image["images"]), 422)
    assert "million" in fault(post(adapter="trees", images=[text_of(picture(side=101))]), 422)
    assert "questions" in fault(
        http.post("/v1/ask", json={"question": "?", "adapter": "trees"}), 422
    )
    assert "bytes" in fault(post(adapter="trees", images=["A" * 3_000_000]), 413)
    fault(http.post("/v1/predict", content=b"{", headers={"content-type": "application/json"}), 422)
    fault(http.post("/v1/predict", content=b"x"), 415)
    fault(http.get("/v1/nothing"), 404)
    other = http.post("/v1/adapters/trees")
    fault(other, 405)
    assert other.headers["allow"] == "DELETE, GET, PUT"
    fault(http.get("/v1/adapters", headers={"origin": "https://evil.example"}), 403)
    fault(http.get("/v1/adapters", headers={"host": "evil.example"}), 421)


def test_an_adapter_is_swapped_while_it_is_asked(http: Any, place: Path, server: Running) -> None:
    first, second = (files_of(place / "other" / name) for name in ("first", "second"))
    assert http.put("/v1/adapters/hot", files=first).json()["classes"][0] == "first 0"
    stop, answers = threading.Event(), []

    def ask() -> None:
        with httpx.Client(base_url=server.url, headers=KEY, timeout=60) as client:
            while not stop.is_set():
                body = {"adapter": "hot", "images": [text_of(picture())]}
                answers.append(client.post("/v1/predict", json=body))

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    for files in (second, first, second):
        time.sleep(0.15)
        assert http.put("/v1/adapters/hot", files=files).status_code == 200
    stop.set()
    for thread in asking:
        thread.join()
    assert {a.status_code for a in answers} == {200}
    labels = {a.json()["predictions"][0]["label"].split()[0] for a in answers}
    assert labels == {"first", "second"}
    kept = list((place / "pool" / "hot").iterdir())
    assert len(kept) == 1, "older versions are deleted"
    assert http.delete("/v1/adapters/hot").status_code == 204
    assert not (place / "pool" / "hot").exists()
    fault(http.get("/v1/adapters/hot"), 404)


def test_an_upload_is_checked_before_it_is_used(http: Any, place: Path) -> None:
    good = files_of(place / "other" / "first")
    damaged = {**good, "safetensors": good["safetensors"][:-1] + b"\0"}
    assert "checksum" in fault(http.put("/v1/adapters/bad", files=damaged), 422)
    unsealed = {**good, "json": good["json"].replace(b"first 0", b"first 9")}
    assert "seal" in fault(http.put("/v1/adapters/bad", files=unsealed), 422)
    manifest = place / "manifest.json"
    manifest.write_bytes(good["json"])
    value = read_sealed(manifest)
    value["backbone"] |= {"fingerprint": "0" * 64, "name": "hf/owner/model"}
    write_sealed(manifest, value)
    elsewhere = {**good, "json": manifest.read_bytes()}
    assert "not served here" in fault(http.put("/v1/adapters/bad", files=elsewhere), 422)
    assert "two files" in fault(http.put("/v1/adapters/bad", files={"json": good["json"]}), 422)
    fault(http.put("/v1/adapters/%2e%2e", files=good), 422)
    assert not (place / "pool" / "bad").exists()
    names = [one["name"] for one in http.get("/v1/adapters").json()["adapters"]]
    assert names == ["plain", "run", "trees"]


def test_a_manifest_cannot_make_the_server_load_another_model(http: Any, place: Path) -> None:
    manifest = place / "manifest.json"
    good = files_of(place / "other" / "first")
    manifest.write_bytes(good["json"])
    value = read_sealed(manifest)
    value["backbone"] |= {"name": "hf/owner/model", "weights": "/etc/passwd"}
    write_sealed(manifest, value)
    answer = http.put("/v1/adapters/sly", files={**good, "json": manifest.read_bytes()})
    assert answer.json()["backbone"] == "petiole/tiny-vit"
    stored = next((place / "pool" / "sly").glob("*/adapter.json"))
    assert read_sealed(stored)["backbone"]["weights"] is None
    http.delete("/v1/adapters/sly")


def test_what_was_there_before_is_let_go_and_not_deleted(http: Any, place: Path) -> None:
    files = files_of(place / "other" / "first")
    before = http.get("/v1/adapters/run").json()["sha256"]
    assert http.put("/v1/adapters/run", files=files).json()["sha256"] != before
    pool = find_adapters(place / "pool")
    assert pool["run"].parent == place / "pool" / "run", "after a start, too, the upload is served"
    assert pool["trees"] == place / "pool" / "trees"
    assert http.delete("/v1/adapters/run").status_code == 204
    assert find_adapters(place / "pool")["run"] == place / "pool" / "run" / "adapter"
    assert http.delete("/v1/adapters/plain").status_code == 204
    assert (place / "pool" / "plain" / "adapter.safetensors").is_file()


def test_the_upload_used_least_lately_makes_room(http: Any, place: Path) -> None:
    files = files_of(place / "other" / "first")
    for name in ("a", "b", "d", "e"):
        http.put(f"/v1/adapters/{name}", files=files)
    http.post("/v1/predict", json={"adapter": "a", "images": [text_of(picture())]})
    http.put("/v1/adapters/c", files=files)
    names = {one["name"] for one in http.get("/v1/adapters").json()["adapters"]}
    assert names == {"trees", "a", "d", "e", "c"}
    for name in ("a", "c", "d", "e"):
        http.delete(f"/v1/adapters/{name}")


def test_it_measures_and_logs_without_images(http: Any, server: Running) -> None:
    http.post("/v1/predict", json={"adapter": "trees", "images": [text_of(picture(7))]})
    text = http.get("/metrics").text
    for name in (
        'petiole_rows_total{adapter="trees"}',
        'petiole_request_seconds_bucket{le="0.1",route="/v1/predict",status="200"}',
        "petiole_batch_rows_sum",
        "petiole_expected_wait_seconds",
    ):
        assert name in text
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    asked = [one for one in lines if one.get("route") == "/v1/predict" and one["status"] == 200]
    assert asked[-1]["adapter"] == "trees"
    assert asked[-1]["rows"] == 1
    assert text_of(picture(7))[40:80] not in server.log.read_text()


def test_its_description_is_whole(http: Any) -> None:
    document = http.get("/openapi.json").json()
    body = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    assert body["multipart/form-data"]["schema"]["required"] == ["images"]
    example = body["application/json"]["schema"]["examples"][0]
    assert http.post("/v1/predict", json={**example, "adapter": "trees"}).status_code == 200


def test_only_who_has_a_key_may_ask(server: Running) -> None:
    assert fault(httpx.get(f"{server.url}/v1/adapters"), 401)
    wrong = httpx.get(f"{server.url}/v1/adapters", headers={"authorization": "Bearer secrets"})
    assert fault(wrong, 401)
    assert fault(httpx.get(f"{server.url}/metrics"), 401)
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    asked = {(one["route"], one["status"], one.get("key")) for one in lines if "route" in one}
    assert ("other", 401, None) in asked
    assert {key for route, _, key in asked if route == "/v1/predict"} == {"shop"}


def test_a_dead_process_is_replaced_and_requests_fail_cleanly(http: Any, server: Running) -> None:
    body = {"adapter": "trees", "images": 4 * [text_of(picture())]}
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(http.post, "/v1/predict", json=body) for _ in range(4)]
        os.kill(server.worker(), signal.SIGKILL)
        answers = [one.result() for one in asked]
        assert {a.status_code for a in answers} <= {200, 429, 503}
    until(lambda: http.get("/readyz").status_code == 503)
    answer = http.post("/v1/predict", json=body)
    assert fault(answer, 503)
    assert int(answer.headers["retry-after"]) >= 1
    assert http.get("/healthz").status_code == 200
    until(lambda: http.get("/readyz").status_code == 200)
    assert http.post("/v1/predict", json=body).status_code == 200
    assert "petiole_worker_restarts 1.0" in http.get("/metrics").text


def test_it_ends_in_peace(http: Any, server: Running) -> None:
    body = {"adapter": "trees", "images": 4 * [text_of(picture(side=100))]}
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(http.post, "/v1/predict", json=body) for _ in range(4)]
        until(lambda: not queue_is_empty(http))
        server.process.send_signal(signal.SIGTERM)
        assert {one.result().status_code for one in asked} == {200}, "what was begun is answered"
    assert server.process.wait(60) == 0


def queue_is_empty(http: Any) -> bool:
    return "petiole_expected_wait_seconds 0.0" in http.get("/metrics").text


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_cannot_be_served_is_told(tmp_path: Path) -> None:
    assert "Nothing to serve" in say("serve").err
    assert "no such folder" in say("serve", tmp_path / "none").err
    (tmp_path / "bad").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "bad" / "adapter.json", "PNG")
    assert "--max-wait must be more than 0" in say("serve", tmp_path / "bad", "--max-wait", 0).err
    for place in ("one", "two"):
        (tmp_path / place / "shoes").mkdir(parents=True)
        (tmp_path / place / "shoes" / "adapter.json").write_text("{}")
    same = say("serve", tmp_path / "one" / "shoes", tmp_path / "two" / "shoes").err
    assert "have one name, shoes. Rename one" in same
    keys = tmp_path / "keys"
    keys.write_text("shop secret\n")
    assert "line 1" in say("serve", tmp_path / "bad", "--api-keys", keys).err


def test_an_answer_is_sent_without_waiting_for_the_client() -> None:
    with (
        bound("127.0.0.1", 0) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
