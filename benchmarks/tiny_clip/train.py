"""Train the packaged CLIP on the generated world: petiole/tiny-clip.

    L = (CE over texts + CE over images) / 2 on s cos(v, e),  s learned, at most 100

Captions of a batch that are word for word the same as, or fit, another picture of it would be false negatives: of
each pair of pictures with equal kind, count and style only the first caption of that scene counts as wrong for the
others, so pairs of equal scenes are masked out of both softmaxes.

Held-out compositions and unseen styles never appear. Pictures are drawn by worker processes; a step is a function of
(seed, step), so an interrupted training goes on where it stopped.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/tiny_clip/train.py OUT --steps 6000
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from loop import options, request, train
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from petiole.backbones.bundled.tiny_clip import ClipWords, config
from petiole.data.synthetic.scenes import Scene, caption, compositions, draw_scene, render
from petiole.data.synthetic.scenes.scene import SEEN
from petiole.files import write_tensors

KINDS = compositions(held=False)


def batch(size: int, seed: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (B, 3, 64, 64), ids (B, T), and a number for each scene (B,)."""
    rng, words = np.random.default_rng([seed, step]), ClipWords()
    scenes = [draw_scene(rng, KINDS, SEEN) for _ in range(size)]
    pictures = np.stack([np.asarray(render(s, int(rng.integers(2**31)))) for s in scenes])
    texts = [[words.start, *words(caption(s, rng)), words.end] for s in scenes]
    return (
        torch.from_numpy(pictures).permute(0, 3, 1, 2),
        filled(texts, words.end),
        numbered(scenes),
    )


def filled(texts: list[list[int]], end: int) -> Tensor:
    """Texts of one length (B, T), filled up with end tokens."""
    longest = max(map(len, texts))
    return torch.tensor([text + [end] * (longest - len(text)) for text in texts])


def numbered(scenes: list[Scene]) -> Tensor:
    """A number for each scene, the same for equal kind, count and style (B,)."""
    known: dict[Any, int] = {}
    return torch.tensor([known.setdefault((s.kind, s.count, s.style), len(known)) for s in scenes])


def loss_of(model: Any, pictures: Tensor, ids: Tensor, same: Tensor) -> Tensor:
    image = model.visual_projection(model.vision_model(pictures.float() / 127.5 - 1).pooler_output)
    return contrastive(model, image, ids, same)


def contrastive(model: Any, image: Tensor, ids: Tensor, same: Tensor) -> Tensor:
    """The symmetric loss of image vectors (B, d) and texts; other pictures of an equal scene take no part."""
    text = model.text_projection(model.text_model(ids).pooler_output)
    scale = model.logit_scale.clamp(max=math.log(100)).exp()
    logits = scale * normalize(image.float(), dim=-1) @ normalize(text.float(), dim=-1).T
    equal = (same[:, None] == same) & ~torch.eye(len(same), dtype=torch.bool)
    logits = logits.masked_fill(equal, -torch.inf)
    labels = torch.arange(len(same))
    return (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2


def main() -> None:
    from transformers import CLIPModel

    chosen = options(__doc__, steps=6000, batch=256, lr=1e-3).parse_args()
    torch.manual_seed(chosen.seed)
    model = CLIPModel(config(vocabulary=len(ClipWords()))).train()
    train(
        model,
        partial(batch, chosen.batch, chosen.seed),
        partial(loss_of, model),
        chosen,
    )
    with torch.no_grad():
        model.logit_scale.clamp_(max=math.log(100))
    half = {name: value.half() for name, value in model.state_dict().items()}
    write_tensors(chosen.out / "tiny_clip.safetensors", half, {"training": request(chosen)})


if __name__ == "__main__":
    main()
