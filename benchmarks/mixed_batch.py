"""A batch in which every image has an adapter of its own, in one run, on one machine.

A ViT-S/14 with random weights, fp32; every adapter has rank 16 in every block, none of its numbers as
it started. Each repeat times, in a random order, on the same images:

    bare        the backbone without any adapter
    single      the whole batch through one AdapterTune adapter
    mixed       every image through an AdapterTune adapter of its own
    separate    the same adapters, one image after the other
    kinds       every image through an adapter of its own: AdapterTune of ranks 8, 16, 32, LoRA, SSF
    lora, lora mixed    as single and mixed, LoRA on q, k and v
    peft, peft mixed    the same with the library peft: LoRA on its fused qkv, adapter_names=[...]

Times are seconds of the processor on one thread, so that other work on the machine counts little.
Reported: the ratios of each repeat's times as median (least to most), median seconds, and the largest
difference of a mixed logit from its adapter's own, relative to the largest logit of its image.

glibc gives large tensors back to the system after every use, which costs those ways most that make
many; with MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TRIM_THRESHOLD_=10000000000 it keeps them.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/mixed_batch.py --image-size 98 --repeats 9
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable

import peft
import timm
import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.registry import load_backbone
from petiole.methods.registry import create
from petiole.serving.pool import AdapterPool
from petiole.tasks.classification.model import AdaptedClassifier

MODEL = "vit_small_patch14_dinov2"
CLASSES = 10
KINDS = (
    ("adaptertune", {"rank": 8}),
    ("adaptertune", {"rank": 16}),
    ("adaptertune", {"rank": 32}),
    ("lora-qkv", {"rank": 16}),
    ("ssf", {}),
)
RATIOS = (
    ("single", "bare"),
    ("mixed", "single"),
    ("kinds", "single"),
    ("separate", "mixed"),
    ("lora mixed", "lora"),
    ("peft mixed", "peft"),
    ("lora mixed", "peft mixed"),
    ("mixed", "peft mixed"),
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--image-size", type=int, default=98)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--repeats", type=int, default=9)
    options.add_argument("--ways", nargs="+", help="those alone, e.g. 'lora mixed' 'peft mixed'")
    chosen = options.parse_args()

    torch.manual_seed(0)
    random.seed(0)
    torch.set_num_threads(1)
    backbone = random_backbone(chosen.image_size)
    images = torch.randn(chosen.batch, 3, chosen.image_size, chosen.image_size)
    pool, names = filled_bank(backbone, chosen.batch)
    ways = {**ours(pool, images, names), **theirs(images)}
    ways = {way: ways[way] for way in chosen.ways or ways}
    for run in ways.values():
        run()
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(chosen.repeats):
        # In another order each time: what the one before leaves in memory tells.
        for way, run in random.sample(sorted(ways.items()), len(ways)):
            start = time.process_time()
            run()
            seconds[way].append(time.process_time() - start)
        print(json.dumps({way: round(times[-1], 4) for way, times in seconds.items()}), flush=True)
    summary = {
        "image_size": chosen.image_size,
        "batch": chosen.batch,
        "seconds": {way: round(statistics.median(times), 4) for way, times in seconds.items()},
        "ratios": {
            f"{a} / {b}": spread(seconds[a], seconds[b])
            for a, b in RATIOS
            if {a, b} <= seconds.keys()
        },
        "largest_difference": {kind: difference(pool, images, names[kind]) for kind in names},
    }
    print(json.dumps(summary, indent=2))


def random_backbone(size: int) -> Backbone:
    """Random weights, with layer scales of 1, so that every block counts."""
    backbone = load_backbone(f"timm/{MODEL}", image_size=size, device="meta")
    backbone.module.to_empty(device="cpu")
    backbone.module.load_state_dict(
        timm.create_model(MODEL, num_classes=0, init_values=1.0).state_dict()
    )
    return backbone


def filled_bank(backbone: Backbone, count: int) -> tuple[AdapterPool, dict[str, list[str]]]:
    """One adapter an image, of each kind of batch; returns their names."""
    pool = AdapterPool(backbone)
    names: dict[str, list[str]] = {"mixed": [], "lora mixed": [], "kinds": []}
    for i in range(count):
        chosen = {"mixed": KINDS[1], "lora mixed": KINDS[3], "kinds": KINDS[i % len(KINDS)]}
        for kind, (method, settings) in chosen.items():
            adapted = AdaptedClassifier(backbone, create(method, settings).plan(backbone, CLASSES))
            shake(adapted)
            names[kind].append(f"{kind} {i}")
            pool.add(names[kind][-1], adapted)
    return pool, names


def shake(module: nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn_like(parameter)


def ours(
    pool: AdapterPool, images: Tensor, names: dict[str, list[str]]
) -> dict[str, Callable[[], object]]:
    backbone = pool.backbone

    def separate() -> None:
        for i, name in enumerate(names["mixed"]):
            pool(images[i : i + 1], name)

    return {
        "bare": lambda: backbone.lower(images, (backbone.vector,)),
        "single": lambda: pool(images, names["mixed"][0]),
        "mixed": lambda: pool.mixed(images, names["mixed"]),
        "separate": separate,
        "kinds": lambda: pool.mixed(images, names["kinds"]),
        "lora": lambda: pool(images, names["lora mixed"][0]),
        "lora mixed": lambda: pool.mixed(images, names["lora mixed"]),
    }


def theirs(images: Tensor) -> dict[str, Callable[[], object]]:
    """The same network in timm's own class, as a user of peft would have it; heads left out."""
    plain = timm.create_model(
        MODEL, num_classes=0, img_size=images.shape[-1], dynamic_img_size=True
    )
    config = peft.LoraConfig(r=16, lora_alpha=16, target_modules=["qkv"])
    model = peft.get_peft_model(plain, config, adapter_name="0")
    for i in range(1, len(images)):
        model.add_adapter(str(i), config)
    model.set_adapter("0")
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data += 0.02 * torch.randn_like(parameter)
    model.eval()
    own = [str(i) for i in range(len(images))]

    def run(**options: object) -> None:
        with torch.no_grad():
            model(images, **options)

    return {"peft": run, "peft mixed": lambda: run(adapter_names=own)}


def spread(times: list[float], base: list[float]) -> str:
    """Median (least to most) of the ratio within each repeat."""
    ratios = [a / b for a, b in zip(times, base, strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def difference(pool: AdapterPool, images: Tensor, names: list[str]) -> float:
    worst = 0.0
    for i, answer in enumerate(pool.mixed(images, names)):
        alone = pool(images[i : i + 1], names[i]).logits[0]
        worst = max(worst, float((answer.logits - alone).abs().max() / alone.abs().max()))
    return worst


if __name__ == "__main__":
    main()
