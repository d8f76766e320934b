"""Requests that nobody means well with, for ``serve.py``: none may be answered with 500, and the next good one is answered."""

from __future__ import annotations

import base64
import io
import os
from collections import Counter
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
    return found


def ask_hostile(url: str, image: bytes) -> dict[str, Any]:
    """How they are answered; ``image`` is a good one."""
    statuses: Counter[str] = Counter()
    with httpx2.Client(base_url=url, timeout=60) as http:
        requests = hostile(image)
        for method, path, options in requests:
            try:
                statuses[str(http.request(method, path, **options).status_code)] += 1
            except httpx2.TransportError as error:
                statuses[type(error).__name__] += 1
        good = http.post(
            "/v1/predict", data={"adapter": "one"}, files=[("images", image)]
        ).status_code
    return {"requests": len(requests), "statuses": dict(statuses), "afterwards": good}
