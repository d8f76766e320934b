"""ONNX against PyTorch for every packaged backbone x kind of method, and 1,000 adapters over one ONNX session.

    python benchmarks/export.py formats > formats.md
    python benchmarks/export.py int8 --data DIR > int8.md            # labelled images, for a ridge head
    python benchmarks/export.py pool --adapters 1000 > pool.md

Times are seconds of the processor on one thread, so that other work on the machine counts little; both engines see the same images
in turn, and a ratio is the median over repeats of torch's seconds by ONNX Runtime's. Adapters have random numbers, none as it started.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch

import petiole
from petiole.backbones.base import Backbone
from petiole.errors import PetioleError
from petiole.serving.onnx_pool import OnnxPool
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.export.session import OnnxSession
from petiole.tasks.classification.module import AdaptedBackbone

KINDS = {
    "linear-probe": "head",
    "cls-residual-lora": "final feature",
    "adaptertune": "bottlenecks in blocks",
    "lora-qkv": "LoRA in blocks",
    "vpt-deep": "visual prompts",
    "bitfit": "tuned copies",
    "coop": "words before class names",
    "maple": "prompts in both towers",
    "clip-lora": "LoRA in both towers",
    "cocoop": "words shifted by the image",
}
BACKBONES = ("petiole/efficientnet-lite0", "petiole/tiny-vit", "petiole/tiny-clip")
CLASSES = tuple(f"class {i}" for i in range(10))
BATCHES = (1, 16)


def adapted(backbone: Backbone, method: str, seed: int = 0) -> AdaptedBackbone:
    """A model none of whose numbers is as it started."""
    torch.manual_seed(seed)
    model = petiole.adapt(backbone, method, classes=CLASSES)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value) * 0.02)
    return model.eval()


def table(head: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def seconds(run: Callable[[], object]) -> float:
    """Of the processor, for one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def ratio(
    one: Callable[[], object], two: Callable[[], object], repeats: int
) -> tuple[float, float]:
    """Median of one's seconds by two's, and two's median seconds; both take turns."""
    one(), two()
    pairs = [(seconds(one), seconds(two)) for _ in range(repeats)]
    return statistics.median(a / b for a, b in pairs), statistics.median(b for _, b in pairs)


@torch.no_grad()
def formats(names: Sequence[str], repeats: int) -> None:
    """A row for each backbone and kind of method."""
    rows = []
    for name in names:
        backbone = petiole.load(name)
        assert isinstance(backbone, Backbone)
        for method, kind in KINDS.items():
            try:
                model = adapted(backbone, method)
            except PetioleError:
                continue  # the backbone has no such parts
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "out"
                try:
                    done = model.export(out)
                except PetioleError as error:
                    rows.append(
                        [name, method, kind, f"refused: {str(error).split(',')[0]}", *[""] * 5]
                    )
                    continue
                file = out / "model.onnx"
                session = OnnxSession(file, threads=1)
                cells = []
                for count in BATCHES:
                    pixels = torch.randn(count, 3, *backbone.preprocessing.size)
                    found, took = ratio(
                        lambda pixels=pixels, model=model: model(pixels),
                        lambda pixels=pixels, session=session: session.predict(pixels.numpy()),
                        repeats,
                    )
                    cells += [f"{1000 * took:.1f}", f"{found:.1f}"]
                seen = done.parity.made_up
                difference = f"{seen.largest_difference:.1e}"
                size = f"{file.stat().st_size / 2**20:.1f}"
                rows.append([name, method, kind, difference, size, *cells])
            print(rows[-1], file=sys.stderr)
    head = ["backbone", "method", "kind", "largest difference", "MB"]
    head += [part for b in BATCHES for part in (f"ms, batch {b}", f"torch / ONNX, batch {b}")]
    print(table(head, rows))


@torch.no_grad()
def int8(names: Sequence[str], data: Path, repeats: int) -> None:
    """Accuracy, agreement, size and time of 8 bits, of a ridge head on these images."""
    rows = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            run = petiole.fit(
                data, method="ridge", backbone=name, shots=10, quiet=True, out=Path(folder) / "run"
            )
            model = petiole.load_adapter(run.folder)
            files = sorted(data.rglob("*.*"))
            test = random.Random(0).sample(files, min(300, len(files)))
            pairs = [(file, file.parent.name) for file in test]
            pixels = torch.randn(1, 3, *model.backbone.preprocessing.size)
            whole: OnnxSession | None = None
            for how, options in (
                ("fp32", {}),
                ("int8 weights", {"int8": "weights"}),
                ("int8 dynamic", {"int8": "dynamic"}),
                ("fp32, preprocessing inside", {"preprocess": True}),
            ):
                out = Path(folder) / how
                parity = model.export(out, data=pairs, **options).parity
                file, given = out / "model.onnx", parity.given
                assert given is not None
                speed = ""
                if "inside" not in how:
                    session = OnnxSession(file, threads=1)
                    whole = whole or session
                    found, _ = ratio(
                        lambda whole=whole, pixels=pixels: whole.predict(pixels.numpy()),
                        lambda session=session, pixels=pixels: session.predict(pixels.numpy()),
                        repeats,
                    )
                    speed = f"{found:.2f}"
                cells = [f"{100 * parity.adapter_accuracy:.1f}", f"{100 * parity.accuracy:.1f}"]
                rows.append(
                    [
                        name,
                        how,
                        f"{file.stat().st_size / 2**20:.1f}",
                        *cells,
                        f"{100 * given.same_label:.1f}",
                        f"{given.largest_difference:.1e}",
                        speed,
                    ]
                )
                print(rows[-1], file=sys.stderr)
    head = ["backbone", "model", "MB", "adapter, %", "exported, %", "same label, %"]
    print(table([*head, "largest difference", "fp32 / it, batch 1"], rows))


@torch.no_grad()
def pool(count: int, repeats: int) -> None:
    """Memory and switching of many adapters; the cost of inputs that have a default."""
    backbone = petiole.load("petiole/tiny-vit")
    assert isinstance(backbone, Backbone)
    pixels = torch.randn(1, 3, *backbone.preprocessing.size)
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        session = OnnxPool.create(backbone, place / "pool", threads=1)
        originals = [adapted(backbone, "lora-qkv", seed) for seed in range(3)]
        whole = place / "whole"
        originals[0].export(whole)
        single = OnnxSession(whole / "model.onnx", threads=1)
        for i, model in enumerate(originals):
            session.add(str(i), described(model))
        gc.collect()
        process = psutil.Process()
        before, start = process.memory_info().rss, time.process_time()
        for i in range(len(originals), count):
            session.add(str(i), place / "pool" / "adapters" / f"{i % len(originals)}.json")
        loading = (time.process_time() - start) / (count - len(originals))
        for i in range(count):
            session(pixels, str(i))  # so that every one's pages are touched
        after = process.memory_info().rss
        file = place / "pool" / "adapters" / "0.onnx_adapter"
        want = originals[1](pixels)
        rows += [
            ["adapters", f"{count:,}"],
            ["file of one, KB", f"{file.stat().st_size / 1024:.0f}"],
            ["memory of one, KB", f"{(after - before) / 1024 / (count - len(originals)):.0f}"],
            ["opening one, ms", f"{1000 * loading:.2f}"],
            [
                "largest difference",
                f"{float((session(pixels, '1').logits - want).abs().max()):.1e}",
            ],
        ]
        names = iter(range(10**9))
        found, took = ratio(
            lambda: session(pixels, str(next(names) % count)), lambda: session(pixels, "0"), repeats
        )
        rows += [
            ["one call, ms", f"{1000 * took:.2f}"],
            ["another adapter each call / the same", f"{found:.2f}"],
        ]
        for size in BATCHES:
            images = torch.randn(size, 3, *backbone.preprocessing.size)
            found, _ = ratio(
                lambda images=images: session(images, "0"),
                lambda images=images: single.predict(images.numpy()),
                repeats,
            )
            rows.append([f"slots / adapter fixed in the graph, batch {size}", f"{found:.2f}"])
        rows.append(
            [
                "graph with slots, MB",
                f"{(place / 'pool' / 'backbone.onnx').stat().st_size / 2**20:.1f}",
            ]
        )
        rows.append(
            ["graph with one adapter, MB", f"{(whole / 'model.onnx').stat().st_size / 2**20:.1f}"]
        )
    print(table(["petiole/tiny-vit, LoRA of rank 16 on q, k, v", ""], rows))


def described(model: AdaptedBackbone) -> ClassificationAdapter:
    """A model as an adapter."""
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        return ClassificationAdapter.load(folder, backbone=model.backbone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["formats", "int8", "pool"])
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--adapters", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "formats":
        formats(given.backbones, given.repeats)
    elif given.what == "int8":
        int8(given.backbones, given.data, given.repeats)
    else:
        pool(given.adapters, given.repeats)


if __name__ == "__main__":
    main()
