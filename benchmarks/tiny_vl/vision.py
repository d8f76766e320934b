"""Train the vision part of petiole/tiny-vl: petiole/tiny-grid learns what lies where in pictures of the generated world.

    L = [BCE(there) + BCE(centre) + CE(shape) + CE(colour) + CE(texture)] of cells  +  0.3 [BCE(shapes) + MSE(x, y)] of the mean

A cell of the 8 x 8 map has a thing where its centre lies within the thing's radius (and a little more) of it; only such cells
have a shape, a colour and a texture. All heads are linear maps of the last map, so that what they find lies open in it; they are
thrown away. The mean over all cells predicts which shapes there are and where their middle is, because it stands for
a frame of a clip.

Held-out compositions and unseen styles never appear. Pictures are drawn first, once; then every epoch sees them shifted and
mirrored at random.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/tiny_vl/vision.py OUT
"""

from __future__ import annotations

import argparse
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import cross_entropy, mse_loss, pad
from torch.nn.utils.fusion import fuse_conv_bn_weights

from petiole.backbones.bundled.tiny_grid import GRID, SIZE, WIDTH, Layer, TinyGrid
from petiole.data.synthetic.scenes import COLOURS, SHAPES, TEXTURES
from petiole.data.synthetic.scenes.clip import draw_clip, frames_of
from petiole.data.synthetic.scenes.layout import draw_any, placed_objects
from petiole.data.synthetic.scenes.render import render_objects
from petiole.data.synthetic.scenes.scene import SEEN, SceneObject, draw_kind
from petiole.files import write_tensors

MOST = 6
"""Things in a picture."""
PARTS = {"shape": len(SHAPES), "colour": len(COLOURS), "texture": len(TEXTURES)}
CHUNK = 500
SHIFT = 5


def things(rng: np.random.Generator) -> list[SceneObject]:
    """What is in a picture: two thirds are views, the others frames of clips and lone things anywhere."""
    luck = rng.random()
    if luck < 0.66:
        return placed_objects(draw_any(rng), rng)
    if luck < 0.84:
        frames = frames_of(draw_clip(rng), rng)
        return [thing for thing in frames[rng.integers(len(frames))] if thing.radius]
    radius = rng.uniform(0.11, 0.29)
    x, y = rng.uniform(radius, 1 - radius, 2)
    return [SceneObject(draw_kind(rng, lambda _: True), float(x), float(y), float(radius))]


def chunk(seed: int, number: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Pictures (n, 64, 64, 3), and their things (n, 6, 6) as x, y, radius, shape, colour, texture; radius 0 is none."""
    rng = np.random.default_rng([seed, number])
    pictures = np.zeros((CHUNK, SIZE, SIZE, 3), np.uint8)
    objects = np.zeros((CHUNK, MOST, 6), np.float32)
    for i in range(CHUNK):
        there = things(rng)
        style = str(rng.choice(SEEN))
        pictures[i] = np.asarray(render_objects(there, style, int(rng.integers(2**31))))
        for j, t in enumerate(there):
            objects[i, j] = (t.x, t.y, t.radius, t.kind.shape, t.kind.colour, t.kind.texture)
    return pictures, objects


def drawn(file: Path, count: int, seed: int, workers: int) -> tuple[Tensor, Tensor]:
    """All pictures, from the file if they were drawn before."""
    if not file.exists():
        numbers = range(math.ceil(count / CHUNK))
        with ProcessPoolExecutor(workers) as pool:
            parts = list(pool.map(chunk, [seed] * len(numbers), numbers))
        pictures, objects = (np.concatenate(part) for part in zip(*parts, strict=True))
        np.savez(file, pictures=pictures, objects=objects)
    with np.load(file) as kept:
        return torch.from_numpy(kept["pictures"]), torch.from_numpy(kept["objects"])


class Heads(nn.Module):
    """Linear readings of the map and of its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.Linear(WIDTH, 2 + sum(PARTS.values()))
        self.whole = nn.Linear(WIDTH, len(SHAPES) + 2)


def cells(objects: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of every cell, row by row: whether a thing is there and whether its centre is, (B, 64); and which thing, (B, 64)."""
    at = (torch.arange(GRID) + 0.5) / GRID
    y, x = torch.meshgrid(at, at, indexing="ij")
    dx = (objects[:, :, 0, None] - x.flatten()).abs()
    dy = (objects[:, :, 1, None] - y.flatten()).abs()
    none = (objects[:, :, 2, None] == 0).float() * 1e3
    distance, which = (dx.square() + dy.square() + none).min(dim=1)
    radius = objects[:, :, 2].gather(1, which)
    there = (distance.sqrt() < radius + 0.03) & (radius > 0)
    half = 0.5 / GRID
    centre = ((dx <= half) & (dy <= half) & (none == 0)).any(dim=1)
    return there | centre, centre, which


def loss_of(model: TinyGrid, heads: Heads, pictures: Tensor, objects: Tensor) -> dict[str, Tensor]:
    """The terms of the loss."""
    with torch.autocast("cpu", torch.bfloat16):
        last = model.forward_features(pictures)
    tokens = last.float().flatten(2).transpose(1, 2)
    there, centre, which = cells(objects)
    scores = heads.cells(tokens)
    terms = {
        "there": bce(scores[..., 0], there.float()),
        "centre": 2 * bce(scores[..., 1], centre.float()),
    }
    kinds = objects[:, :, 3:].long().gather(1, which[..., None].expand(-1, -1, 3))[there]
    parts = scores[..., 2:][there].split(list(PARTS.values()), dim=-1)
    for i, (name, part) in enumerate(zip(PARTS, parts, strict=True)):
        terms[name] = cross_entropy(part, kinds[:, i])
    known = (objects[:, :, 2] > 0).float()
    shapes = torch.zeros(len(objects), len(SHAPES))
    shapes.scatter_add_(1, objects[:, :, 3].long(), known)
    middle = (objects[:, :, :2] * known[..., None]).sum(1) / known.sum(1, keepdim=True)
    whole = heads.whole(tokens.mean(dim=1))
    terms["shapes"] = 0.3 * bce(whole[:, 2:], (shapes > 0).float())
    terms["middle"] = 0.3 * 10 * mse_loss(whole[:, :2], middle)
    return terms


def varied(pictures: Tensor, objects: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A batch in [-1, 1], shifted by up to 5 pixels, and half of the time mirrored, all alike."""
    x = pictures.permute(0, 3, 1, 2).float() / 127.5 - 1
    objects = objects.clone()
    down, right = (int(n) for n in rng.integers(-SHIFT, SHIFT + 1, 2))
    x = pad(x, (SHIFT,) * 4, mode="replicate")
    x = x[:, :, SHIFT - down : SHIFT - down + SIZE, SHIFT - right : SHIFT - right + SIZE]
    objects[:, :, 0] += right / SIZE
    objects[:, :, 1] += down / SIZE
    if rng.random() < 0.5:
        x = x.flip(3)
        objects[:, :, 0] = 1 - objects[:, :, 0]
    return x.contiguous(memory_format=torch.channels_last), objects


def folded(model: TinyGrid) -> dict[str, Tensor]:
    """Weights of the network without batch norms that computes the same."""
    plain = TinyGrid()
    with torch.no_grad():
        plain.places.copy_(model.places)
    for name, module in model.named_modules():
        if isinstance(module, Layer):
            own, norm = plain.get_submodule(name), module.norm
            assert isinstance(own, Layer)
            assert isinstance(norm, nn.BatchNorm2d)
            own.conv.weight, bias = fuse_conv_bn_weights(
                module.conv.weight,
                module.conv.bias,
                norm.running_mean,
                norm.running_var,
                norm.eps,
                norm.weight,
                norm.bias,
            )
            own.conv.bias = bias
    return {name: value.detach().half().contiguous() for name, value in plain.state_dict().items()}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("out", type=Path)
    options.add_argument("--pictures", type=int, default=24000)
    options.add_argument("--steps", type=int, default=1300)
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--lr", type=float, default=3e-3)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--workers", type=int, default=1)
    chosen = options.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    begun = time.time()
    pictures, objects = drawn(
        chosen.out / "vision.npz", chosen.pictures, chosen.seed, chosen.workers
    )
    print(f"drawn in {time.time() - begun:.0f} s", flush=True)
    torch.manual_seed(chosen.seed)
    model, heads = TinyGrid(nn.BatchNorm2d).train(), Heads()
    model.to(memory_format=torch.channels_last)
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=chosen.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, chosen.lr, chosen.steps, pct_start=0.1
    )
    begun = time.time()
    for step in range(chosen.steps):
        rng = np.random.default_rng([chosen.seed, 1, step])
        rows = torch.from_numpy(rng.integers(len(pictures), size=chosen.batch))
        terms = loss_of(model, heads, *varied(pictures[rows], objects[rows], rng))
        torch.autograd.backward(sum(terms.values(), torch.zeros(())))
        torch.nn.utils.clip_grad_norm_(parameters, 2.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0 or step == chosen.steps - 1:
            values = {name: round(float(value.detach()), 4) for name, value in terms.items()}
            line = {"model": "tiny-grid", "step": step, **values}
            with open(chosen.out / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps({**line, "seconds": round(time.time() - begun)}) + "\n")
        if step % 400 == 399 or step == chosen.steps - 1:
            terms_of = {k: v for k, v in vars(chosen).items() if k not in ("out", "workers")}
            training = {"training": json.dumps(terms_of, sort_keys=True)}
            write_tensors(chosen.out / "tiny_grid.safetensors", folded(model), training)


if __name__ == "__main__":
    main()
