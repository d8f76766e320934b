"""Train the image tower of petiole/tiny-lit with labels: what the things are, which colour and texture, how many.

    L = CE(shape) + CE(colour) + CE(texture) + CE(count),  a linear head each on the pooled vector

It starts from petiole/tiny-clip's tower. Held-out compositions and unseen styles never appear.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/tiny_clip/image_tower.py OUT
"""

from __future__ import annotations

import numpy as np
import torch
from loop import options, request, train
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from petiole.backbones.dual_encoder.towers import TwoTowers
from petiole.backbones.registry import load_backbone
from petiole.data.synthetic.scenes import (
    COLOURS,
    SHAPES,
    TEXTURES,
    compositions,
    draw_scene,
    render,
)
from petiole.data.synthetic.scenes.scene import MOST, SEEN
from petiole.files import write_tensors

KINDS = compositions(held=False)


class Attributes(nn.Module):
    """The tower and a head for each part of a scene."""

    def __init__(self) -> None:
        super().__init__()
        towers = load_backbone("petiole/tiny-clip")
        assert isinstance(towers, TwoTowers)
        self.vision = towers.module.vision_model
        sizes = (len(SHAPES), len(COLOURS), len(TEXTURES), MOST)
        self.heads = nn.ModuleList(nn.Linear(128, size) for size in sizes)

    def loss(self, pictures: Tensor, parts: Tensor) -> Tensor:
        pooled = self.vision(pictures.float() / 127.5 - 1).pooler_output
        terms = [
            cross_entropy(h(pooled).float(), y) for h, y in zip(self.heads, parts.T, strict=True)
        ]
        return torch.stack(terms).sum()


def main() -> None:
    chosen = options(__doc__, steps=1600, batch=128, lr=1e-3).parse_args()

    def batch(step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([chosen.seed, 2, step])
        scenes = [draw_scene(rng, KINDS, SEEN) for _ in range(chosen.batch)]
        pictures = np.stack([np.asarray(render(s, int(rng.integers(2**31)))) for s in scenes])
        parts = [(s.kind.shape, s.kind.colour, s.kind.texture, s.count - 1) for s in scenes]
        return torch.from_numpy(pictures).permute(0, 3, 1, 2), torch.tensor(parts)

    torch.manual_seed(chosen.seed)
    model = Attributes().train().requires_grad_(True)
    train(model, batch, model.loss, chosen)
    half = {name: value.half() for name, value in model.vision.state_dict().items()}
    write_tensors(chosen.out / "image_tower.safetensors", half, {"training": request(chosen)})


if __name__ == "__main__":
    main()
