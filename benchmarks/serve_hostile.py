"""Requests that nobody means well with, for ``serve.py``: none may be answered with 500, and the next good one is answered."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image


def hostile(image: bytes) -> list[tuple[str, str, dict[str, Any]]]:
    """Requests that nobody means well with: method, path, and what httpx2 takes."""
    png = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(png, "PNG")
    text = base64.b64encode(image).decode()
    found: list[tuple[str, str, dict[str, Any]]] = []
    contents = [
        b"",
        b"\0",
        b"GIF89a",
        image[:100],
        image[:-200],
        image[:50] + os.urandom(5000),
        png.getvalue(),
        b"\x89PNG\r\n\x1a\n" + os.urandom(100),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.4",
        b"II*\0" + b"\xff" * 100,
        b"RIFF\xff\xff\xff\xffWEBPVP8 ",
        b"P6 99999 99999 255\n",
        b"\xff\xd8\xff" * 1000,
        b"PK\x03\x04" + os.urandom(200),
        os.urandom(100_000),
    ]
    found += [
        ("POST", "/v1/predict", {"files": [("images", c)], "data": {"adapter": "one"}})
        for c in contents
    ]
    bodies: list[Any] = [
        None,
        [],
        {},
        1,
        "x",
        {"images": None},
        {"images": []},
        {"images": [None]},
        {"images": text},
        {"images": ["http://169.254.169.254/"]},
        {"images": ["file:///etc/passwd"]},
        {"images": ["=" * 1000]},
        {"images": [text], "adapter": "../../etc"},
        {"images": [text], "adapter": "one\0"},
        {"images": [text], "adapter": "x" * 100_000},
        {"images": [text], "adapter": 7},
        {"images": [text], "adapter": "one", "top": -1},
        {"images": [text], "adapter": "one", "top": 10**30},
        {"images": [text], "adapter": "one", "top": "many"},
        {"images": [text], "adapter": "one", "coverage": 0},
        {"images": [text], "adapter": "one", "coverage": 1e308},
        {"images": [text], "adapter": "one", "abstain": "NaN"},
        {"images": [text] * 1000, "adapter": "one"},
        {"images": [text], "adapter": "one", "__class__": {}},
    ]
    found += [("POST", "/v1/predict", {"json": body}) for body in bodies]
    raw = {"content-type": "application/json"}
    deep = b"[" * 100_000
    found += [
        ("POST", "/v1/predict", {"content": content, "headers": raw})
        for content in (b"", b"{", deep, b"\xff\xfe", b'{"images": [NaN]}', b'{"a":' * 20_000)
    ]
    form = {"content-type": "multipart/form-data; boundary=x"}
    found += [
        ("POST", "/v1/predict", {"content": content, "headers": form})
        for content in (
            b"",
            b"--x",
            b"--x\r\n\r\n\r\n--x--",
            b'--x\r\nContent-Disposition: form-data; name="images"; filename="../../a"\r\n\r\nx\r\n--x--',
        )
    ]
    found += [
        (
            "POST",
            "/v1/predict",
            {"content": b"a", "headers": {"content-type": "multipart/form-data"}},
        ),
        ("POST", "/v1/predict", {"content": b"a", "headers": {"content-type": '""'}}),
        ("POST", "/v1/predict", {"content": b"a" * (33 * 2**20)}),
        ("POST", "/v1/ask", {"json": {"question": "x" * 10_000}}),
        ("PUT", "/v1/adapters/%2e%2e%2fevil", {"files": {"json": b"{}", "safetensors": b""}}),
        ("PUT", "/v1/adapters/evil", {"files": {"json": b"{}", "safetensors": b"\xff" * 8}}),
        ("PUT", "/v1/adapters/evil", {"files": {"json": b"[" * 100_000, "safetensors": b""}}),
        ("PUT", "/v1/adapters/evil", {"content": b"x"}),
        ("DELETE", "/v1/adapters/none", {}),
        ("GET", "/v1/adapters/%00", {}),
    ]
    found += [
        ("POST", "/v1/look", {"json": body})
        for body in (
            {"image": ["a"], "adapter": "one"},
            {"image": text[:40], "adapter": "one"},
            {"image": text, "adapter": "one", "label": "no such class"},
            {"image": text, "adapter": "one", "label": "\0" * 2000},
        )
    ]
    found += [
        ("POST", "/v1/look", {"files": [("image", image)] * 2, "data": {"adapter": "one"}}),
        ("POST", "/v1/look", {"files": [("image", png.getvalue())], "data": {"adapter": "one"}}),
    ]
    return found + hostile_to_the_page(image)


def hostile_to_the_page(image: bytes) -> list[tuple[str, str, dict[str, Any]]]:
    """The same for what the three tabs ask, and for questions."""
    raw = {"content-type": "application/json"}
    text = base64.b64encode(image).decode()
    found: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/v1/ask", {"json": body})
        for body in (
            {"question": None},
            {"question": "\0", "adapter": "one"},
            {"question": "what?", "adapter": "one", "image": text},
            {"question": "what?", "adapter": "one", "image": "="},
            {"question": "what?", "adapter": "one", "task": ["x"]},
        )
    ]
    found += [
        ("POST", "/v1/teach/label", {"json": body})
        for body in (
            {},
            {"rows": [], "label": "x"},
            {"rows": [-1], "label": "x"},
            {"rows": [10**30], "label": "x"},
            {"rows": [0.5], "label": "x"},
            {"rows": [0] * 100_001, "label": "x"},
            {"rows": [0], "label": ""},
            {"rows": [0], "label": " \0 "},
            {"rows": [0], "label": "x" * 300},
            {"rows": [0], "label": "=cmd|' /C calc'!A0\n\u202e"},
            {"rows": [0], "label": {"__class__": 1}},
            {"rows": [0], "label": None, "undo": True},
        )
    ]
    lone = b'{"rows": [0], "label": "\\ud800"}'
    found += [
        ("POST", "/v1/teach/label", {"content": content, "headers": raw})
        for content in (lone, b'{"rows": [NaN], "label": "x"}', b"[" * 100_000, b"\xff")
    ]
    found += [
        ("POST", "/v1/teach/adapter", {"json": {"name": name}})
        for name in ("../../evil", "", "\0", "x" * 10_000, None, ["one"], "a/b", "version-")
    ]
    found += [
        ("GET", f"/v1/teach/{path}", {})
        for path in (
            "alike/-1",
            "alike/999999",
            f"alike/{10**30}",
            "alike/%00",
            "thumbnails/-1",
            f"thumbnails/{10**30}",
            "thumbnails/..%2f..%2fetc%2fpasswd",
            "export/pickle",
            "export/..%2fcsv",
            "state?since=nan",
            f"state?since={10**30}",
        )
    ]
    found += [
        ("GET", "/v1/runs", {"params": {"name": name}})
        for name in (
            ["../.."],
            ["/etc"],
            ["\0"],
            ["x" * 5000],
            ["done"] * 1000,
            ["done/../done/../../.."],
            [""],
            ["done/record.json"],
        )
    ]
    found += [
        ("GET", path, {})
        for path in (
            "/runs/..%2f..%2fetc/report.html",
            "/runs/%00/report.html",
            f"/runs/{'x' * 5000}/report.html",
            "/page/..%2fapp.py",
            "/page/%00",
        )
    ]
    found += [
        ("POST", "/v1/nearest", {"json": {"image": text, "adapter": "../one"}}),
        ("POST", "/v1/nearest", {"json": {"image": text[:40], "adapter": "done"}}),
        ("POST", "/v1/nearest", {"data": {"adapter": "done"}}),
        ("POST", "/v1/nearest", {"files": [("image", b"")], "data": {"adapter": "done"}}),
    ]
    return found


def page(root: Path, photo: Callable[[int, int], bytes]) -> list[object]:
    """Options of a server with all three tabs, and the folders and the run that they show."""
    import petiole

    images, runs = root / "images", root / "runs"
    if not runs.is_dir():
        for label, seed in ((label, seed) for label in ("a", "b") for seed in range(12)):
            (images / label).mkdir(parents=True, exist_ok=True)
            (images / label / f"{seed}.jpg").write_bytes(photo(100 * (label == "b") + seed, 64))
        tiny, done = "petiole/tiny-vit", runs / "done"
        petiole.fit(images, method="ridge", backbone=tiny, shots=4, out=done, quiet=True)
    teach = ("--teach", images, "--teach-out", tempfile.mkdtemp(dir=root))
    return [
        runs / "done",
        "--backbone",
        "petiole/tiny-vit",
        "--runs",
        runs,
        "--show-training",
        *teach,
    ]


def wait_for_teach(http: httpx2.Client) -> None:
    """Until it has read its folder; before, it answers 503, as is documented."""
    while not http.get("/v1/teach/ready").json()["ready"]:
        time.sleep(0.5)


def schema(url: str, command: str) -> str:
    """What schemathesis says of the server's OpenAPI document: its last lines.

    A schema cannot say what is an image or which adapters there are, so what is refused beyond it is no failure.
    """
    with httpx2.Client(base_url=url, timeout=60) as http:
        wait_for_teach(http)
    wanted = ("--exclude-checks", "positive_data_acceptance", "--max-examples", "30", "--seed", "0")
    with tempfile.TemporaryDirectory() as place:  # it keeps a cache where it runs
        done = subprocess.run(
            [command, "run", f"{url}/openapi.json", *wanted],
            cwd=place,
            capture_output=True,
            text=True,
        )
    print(done.stdout, done.stderr, file=sys.stderr)
    return done.stdout.partition("= SUMMARY =")[2]


def ask_hostile(url: str, image: bytes) -> dict[str, Any]:
    """How they are answered; ``image`` is a good one."""
    statuses: Counter[str] = Counter()
    faults = []
    with httpx2.Client(base_url=url, timeout=60) as http:
        wait_for_teach(http)
        requests = hostile(image)
        for method, path, options in requests:
            try:
                status = str(http.request(method, path, **options).status_code)
            except httpx2.TransportError as error:
                status = type(error).__name__
            statuses[status] += 1
            if not status.startswith(("2", "4")):
                faults.append(f"{method} {path[:80]} {str(options)[:80]}: {status}")
        good = http.post(
            "/v1/predict", data={"adapter": "one"}, files=[("images", image)]
        ).status_code
    return {
        "requests": len(requests),
        "statuses": dict(statuses),
        "faults": faults,
        "afterwards": good,
    }
