"""How good petiole/tiny-clip is: zero-shot by task and style, retrieval, and its random twin.

OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/tiny_clip/measure.py [--weights FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from petiole.backbones.bundled.tiny_clip import ClipWords
from petiole.backbones.dual_encoder.towers import TwoTowers
from petiole.backbones.registry import load_backbone
from petiole.data.preprocessing import evaluate_transform
from petiole.data.synthetic.scenes import STYLES, TASKS, caption, compositions, draw_scene, render
from petiole.data.synthetic.scenes.scene import SEEN, Composition, Scene
from petiole.data.synthetic.scenes.tasks import KINDS
from petiole.methods.prompt_learning.class_names import SentenceTemplate, TextHead

IMAGES = 600


@torch.no_grad()
def vectors(towers: TwoTowers, scenes: Sequence[Scene], seed: int) -> Tensor:
    """Unit vectors of pictures of the scenes."""
    transform = evaluate_transform(towers.preprocessing)
    pictures = torch.stack([transform(render(s, seed + i)) for i, s in enumerate(scenes)])
    parts = [towers.lower(part, ("final.image",))["final.image"] for part in pictures.split(100)]  # type: ignore[no-untyped-call]
    return normalize(torch.cat(parts), dim=-1)


@torch.no_grad()
def accuracy(
    towers: TwoTowers,
    names: Sequence[str],
    draw: Callable[[int, np.random.Generator], Scene],
    style: str,
) -> float:
    """Zero-shot with "a photo of a {}."."""
    head = TextHead(towers, len(names), SentenceTemplate())
    head.rename(names)
    labels = [i % len(names) for i in range(IMAGES)]
    scenes = []
    for i, label in enumerate(labels):
        scene = draw(label, np.random.default_rng([99, label, i]))
        scenes.append(Scene(scene.kind, scene.count, scene.size, style))
    guesses = head(vectors(towers, scenes, 10**6)).argmax(1)
    return float((guesses == torch.tensor(labels)).float().mean())


@torch.no_grad()
def retrieval(towers: TwoTowers, count: int = 200) -> dict[str, float]:
    """Recall at 1 among pictures of as many different held-out or seen scenes."""
    found = {}
    for name, kinds in (
        ("seen", compositions(held=False)),
        ("held out", compositions(held=True)),
    ):
        rng = np.random.default_rng(5)
        scenes: dict[tuple[Composition, int], Scene] = {}
        while len(scenes) < count:
            scene = draw_scene(rng, kinds, SEEN[:1])
            scenes.setdefault((scene.kind, scene.count), scene)
        words = ClipWords()
        texts = [[0, *words(caption(s, rng)), 1] for s in scenes.values()]
        longest = max(map(len, texts))
        ids = torch.tensor([t + [1] * (longest - len(t)) for t in texts])
        score = vectors(towers, list(scenes.values()), 3) @ normalize(towers.encode(ids), dim=-1).T
        right = torch.arange(count)
        found[f"{name}, text to image"] = float((score.argmax(0) == right).float().mean())
        found[f"{name}, image to text"] = float((score.argmax(1) == right).float().mean())
    return found


def seen_kinds() -> tuple[Composition, ...]:
    """As many compositions of pre-training as the task has held-out ones."""
    kinds = compositions(held=False)
    order = np.random.default_rng(41).permutation(len(kinds))[: len(KINDS)]
    return tuple(kinds[i] for i in order)


def measure(towers: TwoTowers) -> dict[str, object]:
    from petiole.data.synthetic.scenes import class_name

    seen = seen_kinds()
    table: dict[str, dict[str, float]] = {}
    for style in STYLES:
        row = {name: accuracy(towers, t.classes, t.draw, style) for name, t in TASKS.items()}
        row["seen compositions"] = accuracy(
            towers,
            [class_name(kind) for kind in seen],
            lambda label, rng: Scene(seen[label], 1, str(rng.choice(["small", "large"])), "clear"),
            style,
        )
        table[style] = {name: round(100 * value, 1) for name, value in row.items()}
    return {"zero-shot, %": table, "recall at 1": retrieval(towers)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--weights", type=Path)
    options.add_argument("--random", action="store_true", help="its twin with random weights too")
    chosen = options.parse_args()
    towers = load_backbone("petiole/tiny-clip", weights=chosen.weights)
    assert isinstance(towers, TwoTowers)
    print(json.dumps(measure(towers), indent=1))
    if chosen.random:
        torch.manual_seed(0)
        for parameter in towers.module.parameters():
            if parameter.ndim >= 2:
                torch.nn.init.normal_(parameter, std=0.05)
        print(json.dumps({"random twin": measure(towers)}, indent=1))


if __name__ == "__main__":
    main()
