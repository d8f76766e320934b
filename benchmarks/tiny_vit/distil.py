"""Distil EfficientNet-Lite0 into tiny-vit's blocks, from the cache that `cache.py` made.

Everything above the frozen stem is trained on one core. The teacher's pooled feature (1280) is centred,
projected on its first 192 principal components U (half whitened), and three things are asked at once:

    L = |LN(cls) - pooled U|^2 + a |W_p LN(patch_j) - map_j|^2 + b KL(teacher logits || W_c LN(cls))

so that the CLS token becomes the teacher's principal components, and each patch token knows the teacher's
map at its own place. W_p and W_c are dropped afterwards.

    python benchmarks/tiny_vit/distil.py CACHE OUT [--minutes 60]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from cache import ROOT, settings, teacher
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from petiole.backbones.bundled.tiny_vit import architecture

WIDTH = 192


@dataclass
class Cache:
    """Stored crops in memory: stem maps, teacher's maps and pooled features, all fp16."""

    stem: Tensor  # (N, 112, 10, 10)
    target: Tensor  # (N, 320, 5, 5)
    pooled: Tensor  # (N, 1280)

    def __len__(self) -> int:
        return len(self.stem)


def read(folder: Path, model: nn.Module, count: int) -> Cache:
    """Read the first shards and finish the teacher's forward pass."""
    shards = [folder / f"{index:04d}" for index in range(count)]
    if missing := [shard.name for shard in shards if not shard.is_dir()]:
        raise SystemExit(
            f"{folder} lacks {len(missing)} of {count} shards: run cache.py to its end"
        )
    stem, target = (
        torch.cat([torch.from_numpy(np.load(s / f"{k}.npy")) for s in shards])
        for k in ("stem", "target")
    )
    return Cache(stem, target, pool(model, target))


@torch.inference_mode()
def pool(model: nn.Module, target: Tensor) -> Tensor:
    # Kept apart from what each pass frees: between its large maps small results would hold the memory, 20 GB of it.
    pooled = torch.empty(len(target), model.bn2.num_features, dtype=torch.half)
    with torch.autocast("cpu", torch.bfloat16):
        for kept, maps in zip(pooled.split(256), target.split(256), strict=True):
            kept.copy_(model.bn2(model.conv_head(maps.float())).float().mean((2, 3)))
    return pooled


class Student(nn.Module):
    """tiny-vit above its stem, with the two heads that are dropped afterwards."""

    def __init__(self, vit: VisionTransformer, data: Cache, model: nn.Module) -> None:
        super().__init__()
        self.vit = vit
        sample = data.pooled[:: max(1, len(data) // 8192)].float()
        maps = data.target[:: max(1, len(data) // 4096)].float()
        self.mean = sample.mean(0)
        self.map_mean, self.map_std = maps.mean((0, 2, 3)), maps.std((0, 2, 3)) + 1e-3
        values, basis = torch.linalg.eigh(torch.cov((sample - self.mean).T))
        spread = values.flip(0)[:WIDTH].sqrt()  # sd of each principal component
        # Half-whitened: kNN on the teacher keeps its accuracy, and small components are heard too.
        gain = spread.rsqrt() / spread.mean().sqrt()
        components = basis.flip(1)[:, :WIDTH]
        self.basis = components * gain
        self.explained = float(spread.square().sum() / values.sum())
        back = components / gain  # (1280, 192): components back to pooled features
        self.patch_head = nn.Linear(WIDTH, 320)
        self.logit_head = nn.Linear(WIDTH, 1000)
        self.classifier = model.classifier
        with torch.no_grad():
            self.logit_head.weight.copy_(model.classifier.weight @ back)
            self.logit_head.bias.copy_(model.classifier(self.mean))
            vit.norm.weight.copy_(spread * gain)
            balance(vit.patch_embed.merge, data.stem[:1024].float())

    def forward(self, stem: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tokens = self.vit._pos_embed(self.vit.patch_embed.tokens(stem))
        tokens = self.vit.norm(self.vit.blocks(tokens))
        cls = tokens[:, 0]
        return cls, self.patch_head(tokens[:, 1:]), self.logit_head(cls)

    def wanted(self, pooled: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            cls = (pooled - self.mean) @ self.basis
            maps = (target.flatten(2).transpose(1, 2) - self.map_mean) / self.map_std
            return cls, maps, self.classifier(pooled)


def balance(merge: nn.Conv2d, stem: Tensor) -> None:
    """Start the merge on standardised channels: the stem's channels differ in scale by a factor of ten."""
    mean, std = stem.mean((0, 2, 3)), stem.std((0, 2, 3)) + 1e-3
    weight = torch.randn_like(merge.weight) / math.sqrt(merge.weight[0].numel())
    merge.weight.copy_(weight / std[None, :, None, None])
    merge.bias.copy_(-(merge.weight * mean[None, :, None, None]).sum((1, 2, 3)))


def losses(student: Student, batch: tuple[Tensor, Tensor, Tensor], temperature: float) -> dict:
    stem, target, pooled = batch
    want_cls, want_map, want_logits = student.wanted(pooled.float(), target.float())
    with torch.autocast("cpu", torch.bfloat16):
        cls, maps, logits = student(stem.float())
    cls, maps, logits = cls.float(), maps.float(), logits.float()
    kl = F.kl_div(
        F.log_softmax(logits / temperature, -1),
        F.log_softmax(want_logits / temperature, -1),
        log_target=True,
        reduction="batchmean",
    )
    return {
        "cls": F.mse_loss(cls, want_cls),
        "map": F.mse_loss(maps, want_map),
        "kl": kl * temperature**2,
        "agree": (logits.argmax(-1) == want_logits.argmax(-1)).float().mean(),
        "cosine": F.cosine_similarity(cls, want_cls).mean(),
    }


def optimiser(student: Student, config: dict) -> torch.optim.AdamW:
    """AdamW; matrices decay, everything else (biases, norms, CLS, positions, merge) does not."""
    own = [(n, p) for n, p in student.named_parameters() if p.requires_grad]
    decays = [p for n, p in own if p.ndim == 2 and not n.startswith(("logit", "patch"))]
    rest = [p for n, p in own if not any(p is d for d in decays)]
    groups = [
        {"params": decays, "weight_decay": config["decay"]},
        {"params": rest, "weight_decay": 0},
    ]
    return torch.optim.AdamW(groups, lr=config["lr"], betas=(0.9, config["beta2"]))


def train(student: Student, data: Cache, config: dict, out: Path, minutes: float | None) -> None:
    """Warm-up and cosine over `steps`, or over `minutes` of the clock if given."""
    generator = torch.Generator().manual_seed(config["seed"])
    held = len(data) - config["held_out"]
    adam, batch, start, step = optimiser(student, config), config["batch"], time.time(), 0
    order = torch.empty(0, dtype=torch.long)
    saved = time.time()
    while (done := (time.time() - start) / 60 / minutes if minutes else step / config["steps"]) < 1:
        if len(order) < batch:
            order = torch.randperm(held, generator=generator)
        index, order = order[:batch], order[batch:]
        for group in adam.param_groups:
            warm = min(1.0, (step + 1) / config["warmup"])
            group["lr"] = config["lr"] * warm * 0.5 * (1 + math.cos(math.pi * done))
        terms = losses(
            student, (data.stem[index], data.target[index], data.pooled[index]), config["T"]
        )
        loss = (
            terms["cls"] + config["map_weight"] * terms["map"] + config["kl_weight"] * terms["kl"]
        )
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        adam.step()
        if step % config["log_every"] == 0:
            note(student, data, held, terms, step, start, done, config, out)
        if time.time() - saved > 300:
            save(student.vit, out)
            saved = time.time()
        step += 1
    note(student, data, held, terms, step, start, 1.0, config, out)
    save(student.vit, out)


def note(
    student: Student,
    data: Cache,
    held: int,
    terms: dict,
    step: int,
    start: float,
    done: float,
    config: dict,
    out: Path,
) -> None:
    with torch.inference_mode():
        rows = [slice(i, i + 256) for i in range(held, len(data), 256)]
        each = [
            losses(student, (data.stem[r], data.target[r], data.pooled[r]), config["T"])
            for r in rows
        ]
    row = {"step": step, "minutes": round((time.time() - start) / 60, 2), "done": round(done, 4)}
    row |= {k: round(v.item(), 4) for k, v in terms.items()}
    row |= {f"held_{k}": round(float(np.mean([e[k].item() for e in each])), 4) for k in terms}
    print(json.dumps(row), flush=True)
    with (out / "log.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def save(vit: VisionTransformer, out: Path) -> None:
    """Write all tensors in fp16, atomically."""
    state = {
        k: (v.half() if v.is_floating_point() else v).contiguous()
        for k, v in vit.state_dict().items()
    }
    save_file(state, out / "partial")
    os.replace(out / "partial", out / "model.safetensors")


def copy_stem(vit: VisionTransformer, model: nn.Module) -> None:
    stem = vit.patch_embed
    stem.conv_stem.load_state_dict(model.conv_stem.state_dict())
    stem.bn1.load_state_dict(model.bn1.state_dict())
    stem.stages.load_state_dict(model.blocks[: len(stem.stages)].state_dict())
    for part in (stem.conv_stem, stem.bn1, stem.stages):
        part.requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path, help="what cache.py filled; read into memory")
    parser.add_argument("out", type=Path, help="folder for model.safetensors and log.jsonl")
    parser.add_argument("--minutes", type=float, help="end by the clock instead of after `steps`")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    config = settings() | settings()["distil"]
    torch.set_num_threads(1)
    torch.manual_seed(config["seed"])
    model = teacher(ROOT / config["teacher"]).requires_grad_(False)
    data = read(args.cache, model, config["cache"]["crops"] // config["cache"]["shard"])
    vit = architecture().train()
    copy_stem(vit, model)
    student = Student(vit, data, model)
    print(f"{len(data)} crops, 192 components explain {student.explained:.3f}", flush=True)
    train(student, data, config, args.out, args.minutes)


if __name__ == "__main__":
    main()
