"""Whole verbs on Ray: the records of one process on this machine, of a cluster's one node, and of three of which one is killed.

    RAY_AUTH_MODE=disabled OMP_NUM_THREADS=1 python benchmarks/ray_verbs.py /tmp/verbs [--only compare sweep]

Every verb is the command line's own, on small drawn pictures, each place with a cache of its own. Compared are the digests of all
files that the runs' records name (predictions, adapters, vectors), the scores, and which files there are. The last of three nodes is killed as
soon as three runs have begun. "interrupted" is a comparison that is interrupted on Ray's two nodes as by Ctrl-C, and finished there by --resume.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from shutil import rmtree
from typing import Any
from unittest.mock import patch

from petiole.cli import main as petiole
from petiole.engine import ray_executor
from scale import nodes

PLACES = {"one": 1, "three": 3}
"""Nodes."""
QUICK = ("--set", "steps=20", "--set", "views=0")
SEEN = (
    "compare",
    "sweep",
    "transfer",
    "generalise",
    "few-shot",
    "multitask",
    "reproduce",
    "auto",
    "tune",
    "interrupted",
)


def verbs(data: Path) -> dict[str, list[object]]:
    """The command of each verb."""
    photos, other = data / "colours", data / "shapes"
    tiny, clip = ("--backbone", "petiole/tiny-vit"), ("--backbone", "petiole/tiny-clip")
    few = ("--shots", 3, *QUICK)
    two = (data / "vqa", data / "caption", "--backbone", "petiole/tiny-vl")
    return {
        "compare": [
            *("compare", photos, "--methods", "linear-probe", "adaptertune"),
            *("--split-seeds", 2, *few, *tiny),
        ],
        "sweep": [
            *("sweep", "rank", photos, "--values", 1, 2, "--fractions", 1),
            *("--seeds", 2, "--set", "blocks=last:1", *QUICK, *tiny),
        ],
        "transfer": [
            *("transfer", photos, other, "--methods", "head-only", "adaptertune"),
            *("--backbones", "petiole/tiny-vit", *QUICK, "--set", "iterations=3"),
        ],
        "generalise": [
            *("generalise", photos, "--methods", "zero-shot", "coop", "--seeds", 2, *few, *clip),
        ],
        "few-shot": [
            *("few-shot", photos, "--methods", "tip-adapter", "coop", "--shots", 1, 2),
            *("--seeds", 1, *QUICK, *clip),
        ],
        "multitask": [
            *("multitask", *two, "--methods", "vl-adapter", "vl-lora", "--seeds", 2),
            *("--set", "steps=5"),
        ],
        "reproduce": [
            *("reproduce", "textrefiner/base-to-novel", "--data", data / "coop"),
            *("--methods", "zero-shot", "coop", "--seeds", 2, *clip),
        ],
        "auto": [
            *("fit", data / "three", "--method", "auto", "--budget", 60, "--shots", 3),
            *("--backbone", "petiole/tiny-clip", "petiole/tiny-lvlm-tower"),
        ],
        "tune": [
            *("fit", photos, "--method", "linear-probe", "--tune", "--trials", 4),
            *("--range", "lr=1e-4..1e-1:log", *few, *tiny),
        ],
        "interrupted": [
            *("compare", photos, "--methods", "linear-probe", "cosine-ln", "--shots", 3),
            *("--split-seeds", 2, "--set", "steps=4000", "--set", "views=0", *tiny),
        ],
    }


def draw(data: Path) -> None:
    """What the verbs read: class folders, tasks of questions, and a data set in CoOp's format."""
    tasks = {"colours": (3, 3), "shapes": (3, 3), "vqa": (24, 8), "caption": (24, 8)}
    for task, (train, test) in tasks.items():
        told = ["--task", task, "--train", train, "--test", test, "--quiet"]
        said(["synthesize", data / task, *told])
    names = sorted(path.name for path in (data / "colours" / "train").iterdir())
    for part in ("train", "test"):  # auto trains with its methods' own steps, on few images
        (data / "three" / part).mkdir(parents=True)
        for name in names[:3]:
            (data / "three" / part / name).symlink_to(data / "colours" / part / name)
    home = data / "coop" / "dtd"
    home.mkdir(parents=True)
    (home / "images").symlink_to(data / "colours")
    listed: dict[str, list[tuple[str, int, str]]] = {"train": [], "val": [], "test": []}
    for part in ("train", "test"):
        for label, name in enumerate(names):
            for file in sorted((data / "colours" / part / name).iterdir()):
                listed[part].append((f"{part}/{name}/{file.name}", label, name))
    (home / "split_zhou_DescribableTextures.json").write_text(json.dumps(listed))


def said(command: Sequence[object]) -> None:
    """Run a command of petiole in this process."""
    out = StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        try:
            petiole([str(word) for word in command])
        except SystemExit as done:
            if done.code:
                raise RuntimeError(f"{' '.join(map(str, command))}\n{out.getvalue()}") from None


def files_of(out: Path) -> dict[str, str]:
    """What the records below a folder say of their files, and the numbers of a selection."""
    found = {f"name {file.relative_to(out)}": "" for file in out.rglob("*") if file.is_file()}
    for file in sorted(out.rglob("record.json")):
        run, record = file.parent.relative_to(out), json.loads(file.read_text())
        found |= {f"{run}/{name}": digest for name, digest in record["files"].items()}
        found[f"{run}/scores"] = json.dumps(record["scores"])
    for file in out.glob("selection.json"):
        kept = json.loads(file.read_text())
        tried = [*kept["backbones"], *(kept["method"] or {}).get("candidates", [])]
        numbers = [{k: v for k, v in one.items() if k != "seconds"} for one in tried]
        found[file.name] = json.dumps([numbers, kept["settings"]])
    return found


@contextmanager
def killing(out: Path, kill: Callable[[], None]) -> Iterator[None]:
    """Kill when three runs have begun."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            if len(list(out.rglob("request.json"))) >= 3:
                return kill()
        return None

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def measure(verb: str, command: list[object], root: Path, place: str, cluster: Any) -> Path:
    """Do a verb at a place; where its runs lie."""
    out = root / place / verb
    done = [*command, "--out", out, "--cache-dir", root / place / "cache", "--quiet"]
    start = time.perf_counter()
    if cluster is None:
        said(done)
    elif place == "one":
        said([*done, "--executor", "ray"])
    else:
        with (
            killing(out, cluster),
            patch.object(ray_executor, "resumed", wraps=ray_executor.resumed) as again,
        ):
            said([*done, "--executor", "ray"])
        print(f"{verb}: {again.call_count} jobs begun again", flush=True)
    print(f"{verb:<12}{place:<8}{time.perf_counter() - start:6.1f} s", flush=True)
    return out


def interrupted(command: list[object], root: Path) -> Path:
    """Ctrl-C while runs are under way on Ray, and --resume there; where the runs lie."""
    out = root / "interrupted" / "interrupted"
    rmtree(out.parent, ignore_errors=True)
    whole = [*command, "--out", out, "--cache-dir", root / "interrupted" / "cache", "--quiet"]
    with nodes(2):
        address = ray_address()
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "petiole",
                *map(str, [*whole, "--executor", f"ray://{address}"]),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(
                signal.SIGINT, signal.default_int_handler
            ),  # nohup ignores it
        )
        while process.poll() is None and len(list(out.rglob("metrics.jsonl"))) < 2:
            time.sleep(0.01)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        code = process.wait(120)
        kept = [list(out.rglob(name)) for name in ("checkpoint.safetensors", "record.json")]
        print(f"Ctrl-C: exit {code}; {len(kept[0])} checkpoints, {len(kept[1])} finished runs")
        said([*whole, "--resume", "--executor", f"ray://{address}"])
    return out


def ray_address() -> str:
    """Of the cluster that this process is connected to."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--only", nargs="*", default=SEEN)
    options = parser.parse_args()
    root: Path = options.root.resolve()
    os.environ["PETIOLE_CACHE"] = str(root / "cache")
    if not (root / "data").exists():
        draw(root / "data")
    commands = {verb: verbs(root / "data")[verb] for verb in options.only}
    for place in (*PLACES, "interrupted"):
        rmtree(root / place, ignore_errors=True)
    for verb, command in commands.items():
        whole = files_of(measure(verb, command, root, "local", None))
        if verb == "interrupted":
            told(verb, "two", whole, files_of(interrupted(command, root)))
            continue
        for place, count in PLACES.items():
            with nodes(count) as kill:
                told(verb, place, whole, files_of(measure(verb, command, root, place, kill)))


def told(verb: str, place: str, whole: dict[str, str], files: dict[str, str]) -> None:
    """Say how many of the files that the local runs left are equal."""
    every = whole | files
    other = [name for name in every if whole.get(name) != files.get(name)]
    runs = sum(name.endswith("/scores") for name in whole)
    digests = sum(not name.startswith("name ") for name in whole) - runs
    print(f"{verb}: {place}: {runs} runs with {digests} files: {len(other)} differences")
    print("".join(f"    {name}\n" for name in other), end="", flush=True)


if __name__ == "__main__":
    main()
