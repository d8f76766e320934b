"""What ``petiole serve`` holds: latency and throughput, overload, swaps under load, hostile requests.

    python benchmarks/serve.py --seconds 20 --overload 240 --out serve.json

Client and server share the machine, so the client's share of the processor is in all figures, in those of the plain handler
too. The plain handler is FastAPI as its tutorial has it: the model in the process, one image a call, no queue.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from PIL import Image

CLASSES = [f"class {i}" for i in range(10)]
ADAPTERS = ("one", "two", "three", "four")

PLAIN = """
import io, sys
import petiole, torch, uvicorn
from fastapi import FastAPI, UploadFile
from PIL import Image
torch.set_num_threads(1)
model = petiole.load_adapter(sys.argv[1]).eval()
app = FastAPI()
@app.post("/v1/predict")
def predict(images: UploadFile):
    picture = Image.open(io.BytesIO(images.file.read())).convert("RGB")
    with torch.no_grad():
        p = model(model.preprocess(picture)[None]).softmax(-1)[0]
    return {"label": int(p.argmax()), "probability": float(p.max())}
uvicorn.run(app, port=int(sys.argv[2]), log_level="error", access_log=False)
"""


def write_adapters(root: Path) -> None:
    import petiole

    backbone = petiole.load("petiole/tiny-vit")
    for name in (*ADAPTERS, "other"):
        petiole.adapt(backbone, "adaptertune", classes=CLASSES, rank=8).save(root / name)


def photo(seed: int, side: int = 320) -> bytes:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    content = io.BytesIO()
    small.resize((side, side), Image.Resampling.BICUBIC).save(content, "JPEG", quality=85)
    return content.getvalue()


@contextmanager
def petiole_server(*arguments: object) -> Iterator[tuple[str, int]]:
    command = [sys.executable, "-m", "petiole", "serve", *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield re.search(r"http://\S+", process.stdout.readline())[0], process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@contextmanager
def plain_server(adapter: Path) -> Iterator[tuple[str, int]]:
    port = 18765
    process = subprocess.Popen([sys.executable, "-c", PLAIN, str(adapter), str(port)])
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            time.sleep(0.2)
            try:
                httpx2.get(f"{url}/openapi.json")
                break
            except httpx2.TransportError:
                continue
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def memory(pid: int) -> float:
    """Resident MB of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = [int(Path(f"/proc/{p}/statm").read_text().split()[1]) for p in (pid, *children)]
    return sum(pages) * 4096 / 2**20


def processor(pid: int) -> float:
    """Seconds of processor time of a process and its children, which other work on the machine does not lengthen much."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    fields = (
        Path(f"/proc/{p}/stat").read_text().rpartition(")")[2].split() for p in (pid, *children)
    )
    return sum(int(one[11]) + int(one[12]) for one in fields) / os.sysconf("SC_CLK_TCK")


async def closed(
    url: str, clients: int, seconds: float, adapters: tuple[str, ...]
) -> dict[str, Any]:
    """So many clients, each asking again as soon as it was answered."""
    images = [photo(i) for i in range(16)]
    times: list[float] = []
    statuses: Counter[int] = Counter()
    end = time.perf_counter() + seconds

    async def one(number: int) -> None:
        async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
            turn = number
            while (start := time.perf_counter()) < end:
                turn += 1
                data = {"adapter": adapters[turn % len(adapters)]} if adapters else {}
                files = [("images", ("a.jpg", images[turn % 16]))]
                answer = await http.post("/v1/predict", data=data, files=files)
                statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    times.append(time.perf_counter() - start)

    await asyncio.gather(*map(one, range(clients)))
    p50, p95, p99 = (1000 * np.percentile(times, q) for q in (50, 95, 99))
    return {
        "clients": clients,
        "per_second": len(times) / seconds,
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "statuses": dict(statuses),
    }


def engines(root: Path) -> list[dict[str, Any]]:
    """Processor milliseconds of a row, decoding and forward, in the inference process' own library, one thread."""
    import torch

    from petiole.serving.library import AdapterLibrary

    torch.set_num_threads(1)
    folder, graph = root / "one", root / "graph"
    command = [sys.executable, "-m", "petiole", "export", str(folder), "--out", str(graph)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    libraries = {name: AdapterLibrary("cpu", 4, 10**8, name) for name in ("torch", "onnx")}
    for library in libraries.values():
        library.warm([folder])
    libraries["onnx"].use(str(folder), graph)
    row = {"do": "label", "folder": str(folder), "name": "one", "image": "x", "top": 3}
    row |= {"coverage": None, "abstain": None}
    images, found = [photo(i) for i in range(16)], []
    for size in (1, 4, 16):
        times: dict[str, list[float]] = {name: [] for name in libraries}
        for _ in range(9):
            for name, library in libraries.items():
                start = time.process_time()
                for _ in range(16 // size):
                    library.answer([row] * size, images[:size])
                times[name].append(1000 * (time.process_time() - start) / 16)
        medians = {name: float(np.median(values)) for name, values in times.items()}
        found.append({"rows": size, **medians, "ratio": medians["torch"] / medians["onnx"]})
    return found


async def overload(url: str, pid: int, rate: float, seconds: float) -> dict[str, Any]:
    """Requests at a rate, whatever becomes of them; nobody heeds Retry-After."""
    image = photo(0)
    statuses: Counter[str] = Counter()
    times: list[float] = []
    sizes: list[float] = []
    pending: set[asyncio.Task[None]] = set()
    limits = httpx2.Limits(max_connections=400, max_keepalive_connections=400)
    async with httpx2.AsyncClient(base_url=url, timeout=30, limits=limits) as http:

        async def one() -> None:
            start = time.perf_counter()
            try:
                answer = await http.post(
                    "/v1/predict", data={"adapter": "one"}, files=[("images", ("a.jpg", image))]
                )
            except httpx2.TransportError as error:
                statuses[type(error).__name__] += 1
                return
            retry = "" if answer.status_code == 200 or "retry-after" in answer.headers else " bare"
            statuses[f"{answer.status_code}{retry}"] += 1
            if answer.status_code == 200:
                times.append(time.perf_counter() - start)

        begin = time.perf_counter()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begin + number / rate - time.perf_counter()))
            task = asyncio.create_task(one())
            pending.add(task)
            task.add_done_callback(pending.discard)
            if number % max(1, int(10 * rate)) == 0:
                sizes.append(memory(pid))
        lasted = time.perf_counter() - begin
        await asyncio.gather(*pending)
    return {
        "asked_per_second": sum(statuses.values()) / lasted,
        "seconds": lasted,
        "statuses": dict(statuses),
        "answered_per_second": len(times) / lasted,
        "p50": 1000 * np.percentile(times, 50),
        "p99": 1000 * np.percentile(times, 99),
        "memory_mb": [round(s) for s in sizes],
    }


async def swaps(url: str, root: Path, seconds: float) -> dict[str, Any]:
    """An adapter is replaced again and again while 8 clients ask it."""
    asking = asyncio.create_task(closed(url, 8, seconds, ("one",)))
    count, took = 0, []
    async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
        while not asking.done():
            folder = root / ("other" if count % 2 == 0 else "two")
            files = {k: (folder / f"adapter.{k}").read_bytes() for k in ("json", "safetensors")}
            start = time.perf_counter()
            answer = await http.put("/v1/adapters/one", files=files)
            took.append(1000 * (time.perf_counter() - start))
            assert answer.status_code == 200, answer.text
            count += 1
            await asyncio.sleep(0.3)
    return {**await asking, "swaps": count, "swap_p50": float(np.median(took))}


def hostile() -> list[tuple[str, str, dict[str, Any]]]:
    """60 requests that nobody means well with: method, path, and what httpx2 takes."""
    image = photo(0)
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
    return found[:60]


def ask_hostile(url: str) -> dict[str, Any]:
    statuses: Counter[str] = Counter()
    with httpx2.Client(base_url=url, timeout=60) as http:
        requests = hostile()
        for method, path, options in requests:
            try:
                statuses[str(http.request(method, path, **options).status_code)] += 1
            except httpx2.TransportError as error:
                statuses[type(error).__name__] += 1
        good = http.post(
            "/v1/predict", data={"adapter": "one"}, files=[("images", photo(0))]
        ).status_code
    return {"requests": len(requests), "statuses": dict(statuses), "afterwards": good}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--overload", type=float, default=240)
    parser.add_argument(
        "--rate", type=float, help="of the overload, a second; by default twice the best throughput"
    )
    parser.add_argument("--only-overload", action="store_true")
    parser.add_argument("--only-engines", action="store_true")
    parser.add_argument("--engine", default="torch", help="of the overload and all after")
    parser.add_argument("--out", type=Path, default=Path("serve.json"))
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        write_adapters(root)
        served = [root / name for name in ADAPTERS]
        if arguments.only_engines:
            print(json.dumps(engines(root), indent=2))
            return

        def measure(title: str, url: str, pid: int, adapters: tuple[str, ...]) -> None:
            asyncio.run(closed(url, 4, 3, adapters))  # warm
            for clients in (1, 8, 32):
                before = processor(pid)
                row = asyncio.run(closed(url, clients, arguments.seconds, adapters))
                spent = processor(pid) - before
                row["processor_ms"] = 1000 * spent / max(1, row["statuses"].get(200, 0))
                found.setdefault(title, []).append(row)
                print(title, json.dumps(row), flush=True)

        if not arguments.only_overload:
            with plain_server(root / "one") as (url, pid):
                measure("plain handler", url, pid, ())
            with petiole_server(*served, "--engine", "torch", "--max-batch", 1) as (url, pid):
                measure("one row a batch", url, pid, ("one",))
            with petiole_server(*served, "--engine", "onnx") as (url, pid):
                measure("ONNX Runtime", url, pid, ("one",))
                measure("ONNX Runtime, four adapters", url, pid, ADAPTERS)
        with petiole_server(*served, "--engine", arguments.engine) as (url, pid):
            measure("adaptive batches", url, pid, ("one",))
            if not arguments.only_overload:
                measure("adaptive batches, four adapters", url, pid, ADAPTERS)
                found["hostile"] = ask_hostile(url)
                found["swaps"] = asyncio.run(swaps(url, root, arguments.seconds))
            best = max(row["per_second"] for row in found["adaptive batches"])
            rate = arguments.rate or 2 * best
            found["overload"] = asyncio.run(overload(url, pid, rate, arguments.overload))
        print(json.dumps({k: found.get(k) for k in ("hostile", "swaps", "overload")}), flush=True)
    arguments.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
