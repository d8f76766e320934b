"""What ``petiole serve`` holds: latency and throughput, overload, swaps under load, hostile requests.

    python benchmarks/serve.py latency engines switch hostile swaps
    python benchmarks/serve.py schema                        # pip install schemathesis
    python benchmarks/serve.py overload --engine onnx        # 15 minutes

Client and server share the machine, so the client's share of the processor is in all figures, in those of the plain handler
too. The plain handler is FastAPI as its tutorial has it: the model in the process, one image a call, no queue.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from PIL import Image

from serve_hostile import ask_hostile, page, schema

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


def write_fresh(root: Path) -> Path:
    """The adapter one without a graph, under the same name."""
    fresh = Path(tempfile.mkdtemp(dir=root)) / "one"
    return shutil.copytree(root / "one", fresh, ignore=shutil.ignore_patterns("onnx-*"))


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
) -> tuple[list[float], Counter[int]]:
    """Milliseconds of answers, and statuses, of so many clients, each asking again as soon as it was answered."""
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
                    times.append(1000 * (time.perf_counter() - start))

    await asyncio.gather(*map(one, range(clients)))
    return times, statuses


def capacity(url: str, seconds: float) -> float:
    """Answers a second to 32 clients."""
    asyncio.run(closed(url, 4, 2, ("one",)))  # warm
    return len(asyncio.run(closed(url, 32, seconds, ("one",)))[0]) / seconds


def latencies(root: Path, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """All servers stand beside each other and are asked in turn, so that other work on the machine meets all of them."""
    served = [root / name for name in ADAPTERS]
    with ExitStack() as stack:
        enter = stack.enter_context
        plain = enter(plain_server(root / "one"))
        rivals: dict[str, tuple[tuple[str, int], tuple[str, ...]]] = {"plain handler": (plain, ())}
        for engine in ("torch", "onnx"):
            alone = enter(petiole_server(*served, "--engine", engine, "--max-batch", 1))
            whole = enter(petiole_server(*served, "--engine", engine))
            rivals |= {
                f"{engine}, --max-batch 1": (alone, ("one",)),
                engine: (whole, ("one",)),
                f"{engine}, four adapters": (whole, ADAPTERS),
            }
        for (url, _), adapters in rivals.values():
            asyncio.run(closed(url, 4, 2, adapters))  # warm
        found = []
        for clients in (1, 8, 32):
            times: dict[str, list[float]] = {title: [] for title in rivals}
            spent = dict.fromkeys(rivals, 0.0)
            statuses: Counter[str] = Counter()
            for _ in range(rounds):
                for title, ((url, pid), adapters) in rivals.items():
                    before = processor(pid)
                    one, told = asyncio.run(closed(url, clients, seconds, adapters))
                    times[title] += one
                    spent[title] += processor(pid) - before
                    statuses.update(f"{title}: {status}" for status in told.elements())
            found += [
                {
                    "server": title,
                    "clients": clients,
                    "per_second": len(one) / (rounds * seconds),
                    **{f"p{q}": float(np.percentile(one, q)) for q in (50, 95, 99)},
                    "processor_ms": 1000 * spent[title] / len(one),
                    "others": {
                        k: v
                        for k, v in statuses.items()
                        if k.startswith(f"{title}: ") and not k.endswith("200")
                    },
                }
                for title, one in times.items()
            ]
            print(json.dumps(found[-len(rivals) :]), flush=True)
    return found


async def switch_over(url: str) -> dict[str, Any]:
    """One client asks from the start until ONNX Runtime has answered for a while."""
    image, times, labels = photo(0), {"torch": [], "onnx": []}, set()
    statuses: Counter[int] = Counter()
    async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
        start = time.perf_counter()
        while len(times["onnx"]) < 50:
            engine = (await http.get("/v1/adapters/one")).json()["engine"]
            begin = time.perf_counter()
            answer = await http.post(
                "/v1/predict", data={"adapter": "one"}, files=[("images", image)]
            )
            statuses[answer.status_code] += 1
            times[engine].append(1000 * (time.perf_counter() - begin))
            labels.add(
                tuple(
                    round(p, 4) for p in answer.json()["predictions"][0]["probabilities"].values()
                )
            )
        seconds = time.perf_counter() - start
    medians = {engine: float(np.median(values)) for engine, values in times.items()}
    counts = {engine: len(values) for engine, values in times.items()}
    return {
        "statuses": dict(statuses),
        "answers": counts,
        "p50": medians,
        "different_answers": len(labels),
        "seconds": seconds,
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
    times, statuses = await asking
    return {
        "statuses": dict(statuses),
        "answers": len(times),
        "swaps": count,
        "swap_p50": float(np.median(took)),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "what",
        nargs="+",
        choices=["latency", "engines", "switch", "hostile", "schema", "swaps", "overload"],
    )
    parser.add_argument("--seconds", type=float, default=5, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--overload", type=float, default=900, help="seconds of it")
    parser.add_argument(
        "--rate", type=float, help="of the overload, a second; by default twice the capacity"
    )
    parser.add_argument("--engine", default="torch", help="of all but latency")
    parser.add_argument("--adapters", type=Path, help="folder that keeps them and their graphs")
    parser.add_argument("--schemathesis", default="schemathesis", help="command, for schema")
    parser.add_argument("--out", type=Path, default=Path("serve.json"))
    given = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        root = given.adapters or Path(place)
        if not (root / "one").is_dir():
            write_adapters(root)
        if "latency" in given.what:
            found["latency"] = latencies(root, given.seconds, given.rounds)
        if "engines" in given.what:
            found["engines"] = engines(root)
        if "switch" in given.what:
            with petiole_server(write_fresh(root), "--engine", "auto") as (url, _):
                found["switch"] = asyncio.run(switch_over(url))
        served = [root / name for name in ADAPTERS]
        if "hostile" in given.what:
            with petiole_server(*served, *page(root, photo), "--engine", given.engine) as (url, _):
                found["hostile"] = ask_hostile(url, photo(0))
        if "schema" in given.what:  # of one adapter, which need not be named
            options = page(root, photo)[1:]
            with petiole_server(served[0], *options, "--engine", given.engine) as (url, _):
                found["schema"] = schema(url, given.schemathesis)
        if {"swaps", "overload"} & set(given.what):
            with petiole_server(*served, "--engine", given.engine) as (url, pid):
                if "swaps" in given.what:
                    found["swaps"] = asyncio.run(swaps(url, root, given.seconds))
                if "overload" in given.what:
                    rate = given.rate or 2 * capacity(url, given.seconds)
                    found["overload"] = asyncio.run(overload(url, pid, rate, given.overload))
        print(json.dumps({k: v for k, v in found.items() if k != "latency"}, indent=1), flush=True)
    given.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
