"""What a user would take instead, end to end: each a process of its own, on the same images and weights, in turn.

Rows: features once with timm and scikit-learn, and fastai's transfer learning, against `petiole fit`; the same image folder
through full fine-tuning of timm and of lightly-train, and LoRA with transformers' Trainer and peft, against ours at the same
batch, rate and passes. Reported: lines of the user's code, processor seconds, wall seconds, peak memory and accuracy; medians,
lowest and highest of the repeats.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/rivals DATA EFFICIENTNET.safetensors VIT_S.safetensors --repeats 3

DATA holds train/ and test/ with a folder a class each, of which --shots and --test-images a class are taken. The rows of fastai and
lightly-train need an interpreter that has them beside timm (--fastai, --lightly); they are left out without one. With --phases each
of our rows also says what its processor seconds are made of (see ``phases.py``).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from dinov2_folder import write_dinov2

HERE = Path(__file__).parent
WHO = {
    "features": "features once: timm, scikit-learn",
    "fastai": "a head, then all: fastai",
    "features, ours": "petiole fit, logistic-regression",
    "default, ours": "petiole fit (averaged ridge)",
    "lora": "LoRA: transformers Trainer, peft",
    "lora, ours": "petiole fit, lora-qkv",
    "full": "full fine-tuning: timm",
    "lightly": "full fine-tuning: lightly-train",
    "full, ours": "petiole fit, full",
}
SCRIPTS = {
    "features": "features_once.py",
    "fastai": "fastai_learner.py",
    "lora": "trainer_peft.py",
    "full": "timm_full.py",
    "lightly": "lightly_classifier.py",
}
"""Rows that are a script of the user's; the others are one command."""
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
"""What ``petiole.tune_allocator`` sets."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("data", type=Path)
    options.add_argument("efficientnet", type=Path)
    options.add_argument("vit", type=Path)
    options.add_argument("--shots", type=int, default=10)
    options.add_argument("--test-images", type=int, default=20)
    options.add_argument("--epochs", type=int, default=10)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--rows", nargs="+", choices=WHO, default=list(WHO))
    options.add_argument("--fastai", metavar="PYTHON", help="an interpreter that has fastai")
    options.add_argument(
        "--lightly", metavar="PYTHON", help="an interpreter that has lightly-train"
    )
    options.add_argument(
        "--tuned", action="store_true", help="malloc for all as ours sets it for itself (glibc)"
    )
    options.add_argument("--phases", action="store_true")
    chosen = options.parse_args()
    if chosen.tuned:
        os.environ.update(MALLOC)
    pythons = {"fastai": chosen.fastai, "lightly": chosen.lightly}
    rows = [row for row in chosen.rows if pythons.get(row, sys.executable)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        some(chosen.data / "train", folder / "train", chosen.shots)
        some(chosen.data / "test", folder / "test", chosen.test_images)
        write_dinov2(chosen.vit, folder / "dinov2", image_size=98)
        kept: dict[str, list[dict[str, float]]] = {row: [] for row in rows}
        for _ in range(chosen.repeats):
            for row in rows:
                command = commands(folder, chosen.efficientnet, chosen.vit, chosen.epochs)[row]
                command[0] = pythons.get(row, sys.executable)
                if chosen.phases:
                    command = in_phases(command)
                kept[row].append(measured(command, folder))
                print(row, json.dumps(kept[row][-1]), flush=True)
        table(kept)


def some(images: Path, out: Path, count: int) -> None:
    """The first ``count`` images of each class, by name."""
    for kind in sorted(path for path in images.iterdir() if path.is_dir()):
        (out / kind.name).mkdir(parents=True)
        for image in sorted(kind.iterdir())[:count]:
            shutil.copy(image, out / kind.name)


def commands(folder: Path, efficientnet: Path, vit: Path, epochs: int) -> dict[str, list[str]]:
    """What is run by row; each prints its accuracy last."""
    train, test, dinov2 = (str(folder / part) for part in ("train", "test", "dinov2"))

    def script(row: str, *rest: object) -> list[str]:
        path = str(HERE / SCRIPTS[row])
        return [sys.executable, path, train, test, str(epochs), *map(str, rest)]

    def ours(method: str, *rest: str) -> list[str]:
        petiole = [sys.executable, "-m", "petiole", "fit", train, "--test", test, "--all-images"]
        run = ["--method", method, "--out", str(folder / "run"), "--cache-dir", str(folder / "cache")]  # fmt: skip
        return [*petiole, *run, "--quiet", "--json", *rest]

    lite = ["--backbone", "petiole/efficientnet-lite0"]
    same = ["batch_size=25", f"epochs={epochs}", "min_steps=0", "views=0", "weight_decay=0.01"]
    as_vit = ["--backbone", dinov2, "--image-size", "98", "--set", *same]
    return {
        "features": script("features", efficientnet),
        "fastai": script("fastai", efficientnet),
        "features, ours": ours("logistic-regression", *lite),
        "default, ours": ours("auto", *lite),
        "lora": script("lora", dinov2, folder / "trainer"),
        "lora, ours": ours("lora-qkv", *as_vit, "lr=1e-3", "rank=16"),
        "full": script("full", vit),
        "lightly": script("lightly", vit, folder / "lightly"),
        "full, ours": ours("full", *as_vit, "lr=1e-4"),
    }


def in_phases(command: list[str]) -> list[str]:
    """The command, if it is of petiole, with its phases on standard error."""
    if command[1:3] != ["-m", "petiole"]:
        return command
    return [command[0], str(HERE / "phases.py"), *command[3:]]


def measured(command: Sequence[str], folder: Path) -> dict[str, float]:
    """Processor and wall seconds, peak memory in MB and accuracy of one process."""
    for left in ("run", "cache", "trainer", "lightly"):
        shutil.rmtree(folder / left, ignore_errors=True)
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        said = run.stdout.read()
        _, status, used = os.wait4(run.pid, 0)
        run.returncode = os.waitstatus_to_exitcode(status)
        assert run.stderr is not None
        told = run.stderr.read()
        if run.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {run.returncode}:\n{told}")
        if "phases.py" in command[1]:
            print(told.strip().splitlines()[-1], flush=True)
    return {
        "cpu": used.ru_utime + used.ru_stime,
        "wall": time.perf_counter() - start,
        "peak": used.ru_maxrss / 1024,
        "accuracy": 100 * accuracy(said),
    }


def accuracy(said: str) -> float:
    """From the JSON that a process prints last."""
    last = said.rfind('{"accuracy"')
    result = json.loads(said[last if last >= 0 else said.index("{") :])
    scores = result["record"]["scores"]["test"] if "record" in result else result
    return float(scores["accuracy"])


def lines(row: str) -> int:
    """Of a user's code: without blank lines and the docstring; one for a command."""
    if row not in SCRIPTS:
        return 1
    text = (HERE / SCRIPTS[row]).read_text().splitlines()
    return sum(1 for line in text if line.strip() and not line.startswith('"""'))


def table(kept: dict[str, list[dict[str, float]]]) -> None:
    print(
        "\n| | lines | CPU seconds | wall | peak, MB | accuracy |\n|---|---:|---:|---:|---:|---:|"
    )
    for row, runs in kept.items():
        cells = [
            spread([run[name] for run in runs]) for name in ("cpu", "wall", "peak", "accuracy")
        ]
        print(f"| {WHO[row]} | {lines(row)} | {' | '.join(cells)} |")


def spread(values: Sequence[float]) -> str:
    middle = statistics.median(values)
    if min(values) == max(values):
        return f"{middle:.4g}"
    return f"{middle:.4g} ({min(values):.4g}–{max(values):.4g})"


if __name__ == "__main__":
    main()
