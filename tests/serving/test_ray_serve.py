"""``petiole serve --executor ray``: answers of one process, a killed replica that no request notices, and a canary."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from builders.serving import picture, serving, write_adapter
from petiole.backbones.registry import load_backbone
from petiole.errors import ConfigError
from petiole.serving.service import canaries_of

CLASSES = ["ash", "birch", "cedar"]


def replicas(server: int) -> list[int]:
    """Processes of a server's replicas: its own, its children, and theirs."""
    found, todo = [], [server]
    while todo:
        for file in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            with suppress(OSError):
                todo += map(int, file.read_text().split())
                name = Path(f"/proc/{file.parts[2]}/cmdline").read_bytes()
                found += [int(file.parts[2])] if b"ServeReplica:petiole" in name else []
    return sorted(set(found))


def test_a_killed_replica_costs_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="petiole[ray] is not installed")
    pytest.importorskip("grpc_reflection", reason="petiole[ray] is not installed: no Ray Serve")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    backbone = load_backbone("petiole/tiny-vit")
    for seed, name in enumerate(("one", "two")):
        write_adapter(tmp_path / "pool" / name, backbone, CLASSES, seed=seed)
    images = [picture(seed) for seed in range(4)]

    def ask(url: str, name: str, image: bytes) -> dict[str, object]:
        form = {"data": {"adapter": name}, "files": {"images": ("a.png", image, "image/png")}}
        answer = httpx2.post(f"{url}/v1/predict", timeout=60, **form)  # type: ignore[arg-type]
        assert answer.status_code == 200, answer.text
        told: dict[str, object] = answer.json()
        return told

    on_ray = ("--executor", "ray", "--replicas", 2, "--run-cpus", 0.5, "--device", "cpu")
    with serving(tmp_path / "log", tmp_path / "pool", "--device", "cpu") as here:
        expected = [ask(here.url, name, image) for name in ("one", "two") for image in images]
    with serving(tmp_path / "log", tmp_path / "pool", *on_ray, "--canary", "two=one:1") as there:
        first = [ask(there.url, "one", image) for image in images]
        victims = replicas(there.process.pid)
        assert len(victims) == 2
        os.kill(victims[0], signal.SIGKILL)
        again = [ask(there.url, "one", image) for image in images for _ in range(4)]
        assert first == again[::4] == expected[:4]
        assert ask(there.url, "two", images[0])["adapter"] == "one"
        assert "petiole_workers" in httpx2.get(f"{there.url}/metrics").text


def test_a_canary_names_two_adapters_and_a_share() -> None:
    assert canaries_of(["a=b:0.1", "b=a:1"], {"a": 0, "b": 0}) == {"a": ("b", 0.1), "b": ("a", 1.0)}
    for wrong in ("a=b", "a=b:2", "a=b:-0.1", "=b:0.1", "a=c:0.1"):
        with pytest.raises(ConfigError):
            canaries_of([wrong], {"a": 0, "b": 0})
