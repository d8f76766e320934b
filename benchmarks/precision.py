"""fp32 against bf16 below the cut: processor time of the features, how far they move, and what a linear head makes of them.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/precision.py IMAGES --weights VIT_S.safetensors

IMAGES holds train/ and test/ with a folder a class each. The same draws of ten images a class for both; logistic regression, C by
left-out training images.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegressionCV

from petiole.backbones.registry import load
from petiole.data.sources import open_data
from petiole.data.splits import draw_shots
from petiole.engine.feature_extractor import Features

BACKBONES = ("petiole/tiny-vit", "petiole/tiny-clip", "petiole/efficientnet-lite0")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("images", type=Path)
    options.add_argument("--weights", type=Path, help="of timm's ViT-S/14, a row more")
    options.add_argument("--test-images", type=int, default=400)
    options.add_argument("--draws", type=int, default=5)
    chosen = options.parse_args()
    train, test = (open_data(chosen.images / part) for part in ("train", "test"))
    rng = np.random.default_rng(0)
    test = test.select(np.sort(rng.permutation(len(test))[: chosen.test_images]).tolist())
    draws = [draw_shots(train, 10, seed=seed) for seed in range(chosen.draws)]
    names: list[tuple[str, dict[str, object]]] = [(name, {}) for name in BACKBONES]
    if chosen.weights:
        size = {"weights": chosen.weights, "image_size": 98}
        names.append(("timm/vit_small_patch14_dinov2.lvd142m", size))
    for name, rest in names:
        backbone = load(name, **rest)
        row: dict[str, object] = {"backbone": name}
        scores = {}
        for precision in ("fp32", "bf16"):
            features = Features(backbone, None, precision, quiet=True)
            features.vectors(test.select(range(32)))  # the first call is slower
            start = time.process_time()
            held = features.vectors(test)
            row[f"{precision} ms an image"] = 1000 * (time.process_time() - start) / len(test)
            scores[precision] = [accuracy(features, draw, held, test.labels) for draw in draws]
            row[f"{precision} accuracy"] = np.mean(scores[precision])
            if precision == "fp32":
                exact = held
        cosine = (
            (exact * held).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(held, axis=1)
        )
        difference = np.subtract(scores["bf16"], scores["fp32"])
        row |= {
            "lowest cosine": cosine.min(),
            "gain": difference.mean(),
            "sd": difference.std(ddof=1),
        }
        print(
            json.dumps(
                {k: v if isinstance(v, str) else round(float(v), 4) for k, v in row.items()}
            ),
            flush=True,
        )


def accuracy(features: Features, draw, held: np.ndarray, labels: np.ndarray) -> float:  # type: ignore[no-untyped-def]
    head = LogisticRegressionCV(
        Cs=np.logspace(-3, 2, 6),
        cv=5,
        max_iter=500,
        l1_ratios=(0,),
        scoring="accuracy",
        use_legacy_attributes=False,
    )
    vectors = features.vectors(draw)
    mean, spread = vectors.mean(0), vectors.std() + 1e-6
    head.fit((vectors - mean) / spread, draw.labels)
    return 100 * float(head.score((held - mean) / spread, labels))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
