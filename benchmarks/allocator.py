"""CPU time, page faults and memory with glibc's malloc as it is, and as ``petiole.tune_allocator`` sets it.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/allocator.py --repeats 3

Three kinds: malloc as it is; set, and nothing ever given back; set, with ``release_memory`` every fourth call, far more
often than a run does it (every 20 seconds, and between phases). Every measurement is a fresh process, and the kinds take
turns within a repeat. CPU seconds are user and system time together, because the machine is shared. Prints a Markdown
table of medians.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

KINDS = ("default", "set", "set, released")
CALLS = 4
Call = Callable[[], object]


def features() -> Call:
    """EfficientNet-Lite0 up to its vector; 64 images are a batch of the feature extractor, which computes it in chunks."""
    import torch

    from petiole.backbones.registry import load_backbone
    from petiole.engine.feature_extractor import padded

    backbone = load_backbone("petiole/efficientnet-lite0")
    images = torch.randn(64, 3, *backbone.preprocessing.size)
    return lambda: [backbone.lower(chunk, (backbone.vector,)) for chunk, _ in padded(images)]


def training(name: str, size: int) -> Call:
    """An optimiser step of a method on tiny-vit, on random images."""
    import torch

    from petiole.backbones.registry import load_backbone
    from petiole.engine.optimizer import make_optimizer
    from petiole.methods.registry import create
    from petiole.tasks.classification.model import AdaptedClassifier, ClassificationLoss

    backbone, method = load_backbone("petiole/tiny-vit"), create(name)
    adapted = AdaptedClassifier(backbone, method.plan(backbone, 10))
    loss_module = ClassificationLoss(adapted, 0.5, 0.0).train()
    optimizer = make_optimizer(loss_module, method.recipe)
    images = torch.randn(size, 3, *backbone.preprocessing.size)
    labels, is_target = torch.arange(size) % 10, torch.ones(size, dtype=torch.bool)
    state = backbone.lower(images, adapted.training_cut)

    def step() -> None:
        with adapted.attached():
            loss_module(state, labels, is_target).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


WORK: dict[str, tuple[str, Callable[[], Call]]] = {
    "features": ("features of EfficientNet-Lite0, 64 images", features),
    "adaptertune": ("AdapterTune step on tiny-vit, 32 images", lambda: training("adaptertune", 32)),
    "full": ("full fine-tuning step of tiny-vit, 32 images", lambda: training("full", 32)),
}


def measure(work: str, kind: str) -> dict[str, float]:
    """One kind of work in this process."""
    from petiole.allocator import release_memory, tune_allocator

    assert kind == "default" or tune_allocator()
    call = WORK[work][1]()
    call()
    before = resource.getrusage(resource.RUSAGE_SELF)
    for index in range(CALLS):
        call()
        if kind == "set, released" and index % 4 == 3:
            release_memory()
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    status = Path("/proc/self/status").read_text().splitlines()
    resident = next(int(row.split()[1]) for row in status if row.startswith("VmRSS"))
    return {
        "seconds": spent / CALLS,
        "faults": (after.ru_minflt - before.ru_minflt) / CALLS,
        "peak": after.ru_maxrss / 1024,
        "after": resident / 1024,
    }


def row(work: str, repeats: int) -> list[str]:
    """Lines of the table, a kind each."""
    seen: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(repeats):
        for kind in KINDS:
            command = [sys.executable, __file__, "--one", work, kind]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            seen[kind].append(json.loads(out))
    lines = []
    for kind, values in seen.items():
        middle = {name: statistics.median(v[name] for v in values) for name in values[0]}
        ratios = [v["seconds"] / d["seconds"] for v, d in zip(values, seen["default"], strict=True)]
        lines.append(
            f"| {WORK[work][0]} | {kind} | {middle['seconds']:.2f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f}-{max(ratios):.2f}) | {middle['faults']:,.0f} | {middle['peak']:,.0f} "
            f"| {middle['after']:,.0f} |"
        )
    return lines


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--one", nargs=2, help="work and kind, measured in this process")
    options.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    chosen = options.parse_args()
    if chosen.one:
        print(json.dumps(measure(*chosen.one)))
        return
    print("| a call | malloc | CPU seconds | of default | page faults | peak, MB | after it, MB |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for work in chosen.work:
        print("\n".join(row(work, chosen.repeats)), flush=True)


if __name__ == "__main__":
    main()
