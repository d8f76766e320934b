"""Train petiole/tiny-lit: text tower and projections beside a locked image tower (LiT, Zhai et al., 2022).

    L = (CE over texts + CE over images) / 2 on s cos(P v, e),  s = 100

Each picture keeps the one caption that it came with, right or wrong (``species.alt_text``). Held-out compositions and unseen styles
never appear.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/tiny_clip/text_tower.py OUT --tower IMAGE/image_tower.safetensors
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loop import options, request, train
from rich.progress import track
from torch import Tensor
from train import contrastive, filled, numbered

from petiole.backbones.bundled.tiny_lit import SpeciesWords, shape
from petiole.backbones.weights import load_strictly, read_safetensors
from petiole.data.synthetic.scenes import Scene, compositions, draw_scene, render
from petiole.data.synthetic.scenes.scene import SEEN
from petiole.data.synthetic.scenes.species import alt_text
from petiole.files import write_tensors

KINDS = compositions(held=False)
PART = 200


@torch.no_grad()
def corpus(vision: Any, pictures: int, seed: int) -> tuple[Tensor, list[Scene], list[str]]:
    """Pooled vectors (N, 128), scenes and captions."""
    vectors, scenes, texts = [], [], []
    for first in track(range(0, pictures, PART), "pictures"):
        drawn = []
        for i in range(first, min(first + PART, pictures)):
            rng = np.random.default_rng([seed, 3, i])
            scenes.append(draw_scene(rng, KINDS, SEEN))
            texts.append(alt_text(scenes[-1], rng))
            drawn.append(np.asarray(render(scenes[-1], int(rng.integers(2**31)))))
        x = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 127.5 - 1
        vectors.append(vision(x).pooler_output)
    return torch.cat(vectors), scenes, texts


def main() -> None:
    parser = options(__doc__, steps=2000, batch=256, lr=1e-3)
    parser.add_argument("--tower", type=Path, required=True, help="as image_tower.py wrote it")
    parser.add_argument("--pictures", type=int, default=40_000)
    parser.set_defaults(workers=0)  # nothing is drawn while it trains
    chosen = parser.parse_args()
    from transformers import CLIPModel

    torch.manual_seed(chosen.seed)
    model = CLIPModel(shape())
    tower = {name: t.float() for name, t in read_safetensors(chosen.tower).items()}
    load_strictly(model.vision_model, tower, str(chosen.tower))
    model.vision_model.requires_grad_(False)
    torch.nn.init.constant_(model.logit_scale, math.log(100)).requires_grad_(False)
    vectors, scenes, texts = corpus(model.vision_model.eval(), chosen.pictures, chosen.seed)
    words = SpeciesWords()
    ids = [[words.start, *words(text), words.end] for text in texts]

    def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
        rows = np.random.default_rng([chosen.seed, 4, step]).integers(len(ids), size=chosen.batch)
        read = filled([ids[i] for i in rows], words.end)
        return vectors[rows], read, numbered([scenes[i] for i in rows])

    def loss_of(image: Tensor, read: Tensor, same: Tensor) -> Tensor:
        return contrastive(model, model.visual_projection(image), read, same)

    train(model.train(), batch, loss_of, chosen)
    half = {name: value.half() for name, value in model.state_dict().items()}
    write_tensors(chosen.out / "tiny_lit.safetensors", half, {"training": request(chosen)})


if __name__ == "__main__":
    main()
