"""Training from the feature cache against the usual loop, in one run, on one machine.

The usual loop reads every image and runs timm's forward in every epoch (under no_grad), then takes
the same steps on the same rows with the same head, optimiser and schedule. Reported: processor seconds
of each repeat (other work on the machine counts little), their ratio (cold: computing the cache included;
warm: cache already there), and the accuracy of both on the same held-back images.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/cache_against_loop.py IMAGES --epochs 20 --repeats 3
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from petiole.backbones.base import Backbone
from petiole.backbones.registry import load_backbone
from petiole.data.dataset import Dataset
from petiole.data.image import read_image
from petiole.data.preprocessing import evaluate_transform
from petiole.data.sources import open_shift
from petiole.data.splits import draw_shots
from petiole.engine import optimizer
from petiole.engine.feature_extractor import Features
from petiole.engine.feature_store import FeatureCache
from petiole.engine.trainer import Callbacks
from petiole.methods.base import Method
from petiole.methods.registry import create
from petiole.tasks.classification import training
from petiole.tasks.classification.model import AdaptedClassifier, ClassificationLoss, predict
from petiole.tasks.classification.sampler import Sampler


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("images", type=Path, help="one folder a class")
    options.add_argument("--shots", type=int, default=40)
    options.add_argument("--epochs", type=int, default=20)
    options.add_argument("--repeats", type=int, default=3)
    chosen = options.parse_args()

    shift = open_shift(chosen.images)
    train = draw_shots(shift.train, chosen.shots, seed=0)
    batch = 12 * min(16, len(train.classes))
    steps = chosen.epochs * len(train) // batch
    method = create("linear-probe", {"steps": steps, "views": 0})
    backbone = load_backbone("petiole/efficientnet-lite0")
    plain = usual_backbone(backbone)
    rows = []
    for repeat in range(chosen.repeats):
        with tempfile.TemporaryDirectory() as folder:
            cold, ours = cached(backbone, method, train, Path(folder), repeat)
            warm, _ = cached(backbone, method, train, Path(folder), repeat)
        usual, theirs = usual_loop(plain, backbone, method, train, repeat)
        rows.append(
            {
                "cold_seconds": cold,
                "warm_seconds": warm,
                "usual_seconds": usual,
                "cold_ratio": usual / cold,
                "warm_ratio": usual / warm,
                "cached_accuracy": accuracy(ours, shift.test),
                "usual_accuracy": accuracy(theirs, shift.test),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    summary = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    print(json.dumps({"images": len(train), "steps": steps, "batch": batch, "median": summary}))


def cached(
    backbone: Backbone, method: Method, train: Dataset, folder: Path, seed: int
) -> tuple[float, AdaptedClassifier]:
    """Petiole's way: features once, then steps on them."""
    start = time.process_time()
    adapted = fresh(backbone, method, train, seed)
    features = Features(backbone, FeatureCache(folder), quiet=True)
    table = features.table(train, adapted.cut)
    callbacks = Callbacks(quiet=True)
    training.train(adapted, train, table, method.recipe, seed=seed, callbacks=callbacks)
    return time.process_time() - start, adapted


def usual_loop(
    plain: nn.Module, backbone: Backbone, method: Method, train: Dataset, seed: int
) -> tuple[float, AdaptedClassifier]:
    """Read, transform and run the frozen network for every batch of every epoch."""
    start = time.process_time()
    adapted = fresh(backbone, method, train, seed)
    transform = evaluate_transform(backbone.preprocessing)
    recipe = method.recipe
    sampler = Sampler(train, recipe, seed)
    head = adapted.head
    adamw = torch.optim.AdamW(
        optimizer.parameter_groups(ClassificationLoss(adapted, 0.5, 0.0), recipe, {}), lr=recipe.lr
    )
    labels = torch.tensor(train.labels.copy())
    for step in range(recipe.steps):
        chosen, _ = sampler(step)
        images = torch.stack(
            [transform(read_image(train.samples[i].path)) for i in chosen.tolist()]
        )
        with torch.no_grad():
            vectors: Tensor = plain(images)
        for group in adamw.param_groups:
            group["lr"] = optimizer.learning_rate(step, recipe)
        cross_entropy(head(vectors), labels[chosen]).backward()
        adamw.step()
        adamw.zero_grad()
    return time.process_time() - start, adapted


def usual_backbone(backbone: Backbone) -> nn.Module:
    """The same weights in timm's own model, as a user would call it."""
    plain: nn.Module = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    plain.load_state_dict(backbone.module.state_dict())
    return plain.eval()


def fresh(backbone: Backbone, method: Method, train: Dataset, seed: int) -> AdaptedClassifier:
    """The same initial head for both."""
    torch.manual_seed(seed)
    return AdaptedClassifier(backbone, method.plan(backbone, len(train.classes)))


_TEST: dict[str, object] = {}


def accuracy(adapted: AdaptedClassifier, test: Dataset) -> float:
    """On held-back images; their features are computed once for all models."""
    if "table" not in _TEST:
        folder = Path(tempfile.mkdtemp())
        features = Features(adapted.backbone, FeatureCache(folder), quiet=True)
        _TEST["table"] = features.table(test, adapted.cut)
    probabilities = predict(adapted, _TEST["table"].batches(len(test))).probabilities  # type: ignore[attr-defined]
    return float((probabilities.argmax(1).numpy() == test.labels).mean())


if __name__ == "__main__":
    main()
