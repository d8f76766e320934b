"""Train the tower of petiole/tiny-lvlm: encoder, codebook, image head and text tower.

    L = L_con(h(z~), T(caption))  +  MSE(pixels, decoder(z^))  +  0.25 L_commit

with the sigmoid contrastive loss. The codebook follows the tokens by a moving average; entries that nobody uses start anew at
tokens of the batch. The first steps run without it; then it starts from k-means over the tokens of some batches. The pixel decoder
is thrown away.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/tiny_lvlm/tower.py OUT --seed 0
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from pool import Pool, drawn, pictures
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, mse_loss, normalize

from petiole.backbones.bundled.tiny_lvlm import contrast, encoder, preprocessing
from petiole.backbones.bundled.word_list import WordList
from petiole.backbones.codebook_lvlm.bundle import OTHER, PAD, SPECIALS, save_tower
from petiole.backbones.codebook_lvlm.codebook import CodebookSpec
from petiole.backbones.codebook_lvlm.tower import Tower
from petiole.data.synthetic.boards import SIZE, words
from petiole.layers.residual_quantiser import (
    ResidualQuantiser,
    commitment,
    frequencies,
    perplexity,
)

CONFIG = {
    "size": SIZE,
    "patch": 8,
    "width": 128,
    "blocks": 4,
    "d": 32,
    "space": 128,
    "text_width": 96,
    "longest": 40,
}
ENTRIES, DEPTH, TAP = 512, 2, 3
DECAY, DEAD = 0.98, 0.05


class Learning:
    """A codebook that follows what it is asked to quantise: exponential moving average, dead entries restarted."""

    def __init__(self, quantiser: ResidualQuantiser, tokens: Tensor) -> None:
        self.quantiser = quantiser
        share = 3 * ENTRIES // 4
        first = means(tokens, share)
        rest = tokens - first[torch.cdist(tokens, first).argmin(1)]
        self.sums = torch.cat([first, means(rest, ENTRIES - share)])
        self.counts = torch.ones(ENTRIES)
        quantiser.codebooks[0].copy_(self.sums)

    def learn(self, z: Tensor, codes: Tensor, partials: Tensor) -> None:
        """Move entries towards the mean of what they stood for, over all depths."""
        before = torch.cat([torch.zeros_like(partials[:1]), partials[:-1]])
        rest = (z[None] - before).flatten(0, -2)
        chosen = codes.movedim(-1, 0).flatten()
        counts = torch.bincount(chosen, minlength=ENTRIES).float()
        sums = torch.zeros_like(self.sums).index_add_(0, chosen, rest)
        self.counts.mul_(DECAY).add_(counts, alpha=1 - DECAY)
        self.sums.mul_(DECAY).add_(sums, alpha=1 - DECAY)
        dead = (self.counts < DEAD).nonzero()[:, 0]
        if len(dead):
            drawn = rest[torch.randint(len(rest), (len(dead),))]
            self.counts[dead], self.sums[dead] = 1.0, drawn
        self.quantiser.codebooks[0].copy_(self.sums / self.counts[:, None])


def means(tokens: Tensor, count: int, rounds: int = 8) -> Tensor:
    """k-means, started at tokens."""
    centres = tokens[torch.randperm(len(tokens))[:count]].clone()
    for _ in range(rounds):
        near = torch.cdist(tokens, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, near, tokens)
        counts = torch.bincount(near, minlength=count)
        used = counts > 0
        centres[used] = sums[used] / counts[used, None]
    return centres


def sigmoid_loss(tower: Tower, tokens: Tensor, texts: list[list[int]]) -> Tensor:
    """SigLIP's loss; equal captions are no negatives."""
    heads = tower.aligned
    images = normalize(heads.image(tokens).float())
    captions = normalize(heads.texts(texts).float())
    logits = heads.scale.exp() * images @ captions.T + heads.bias
    sign = 2 * torch.eye(len(texts)) - 1
    same = torch.tensor([[a == b for b in texts] for a in texts]) & (sign < 0)
    return -(logsigmoid(sign * logits) * ~same).sum() / len(texts)


class Decoder(nn.Module):
    """Tokens (B, 36, 32) -> pixels (B, 36, 192) of their patches."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(32, 256), nn.GELU(), nn.Linear(256, 192))

    def forward(self, tokens: Tensor) -> Tensor:
        pixels: Tensor = self.layers(tokens)
        return pixels


def patches(x: Tensor) -> Tensor:
    """(B, 3, 48, 48) -> (B, 36, 192)."""
    return x.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def fresh(seed: int) -> tuple[Tower, WordList]:
    """A tower with random weights."""
    torch.manual_seed(seed)
    known = WordList(words(), SPECIALS, OTHER)
    quantiser = ResidualQuantiser(ENTRIES, CONFIG["d"], DEPTH, shared=True)
    image_encoder = encoder("tower", CONFIG)
    spec = spec_of(quantiser)
    return Tower(image_encoder, quantiser, spec, contrast(CONFIG, known, PAD)), known


def spec_of(quantiser: ResidualQuantiser) -> CodebookSpec:
    """The contract of the codebook as it is now."""
    side = SIZE // CONFIG["patch"]
    stated = preprocessing(SIZE)
    return CodebookSpec.of(
        quantiser.codebooks, DEPTH, tap=TAP, grid=(side, side), preprocessing=stated
    )


def train(pool: Pool, chosen: argparse.Namespace) -> tuple[Tower, WordList, list[dict[str, float]]]:
    """Train; returns the tower, its words, and what was logged."""
    tower, known = fresh(chosen.seed)
    decoder = Decoder()
    tower.requires_grad_(True)
    parameters = [*tower.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=chosen.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, chosen.lr, chosen.steps, pct_start=0.1
    )
    captions = [known.split(text) for text in pool.captions]
    rng, book, log = np.random.default_rng([chosen.seed, 1]), None, []
    recent: list[Tensor] = []
    begun = time.time()
    for step in range(chosen.steps):
        rows = rng.integers(len(pool), size=chosen.batch)
        x = pictures(pool.images[rows])
        with torch.autocast("cpu", torch.bfloat16, enabled=chosen.bf16):
            vision_output = tower.encode_images(x, discrete=book is not None)
            parts = {
                "contrast": sigmoid_loss(tower, vision_output.seen, [captions[i] for i in rows]),
                "pixels": mse_loss(decoder(vision_output.seen).float(), patches(x)),
            }
        if book is not None:
            parts["commit"] = 0.25 * commitment(vision_output.z, vision_output.partials)
        torch.stack(list(parts.values())).sum().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        with torch.no_grad():
            if book is not None:
                book.learn(vision_output.z.detach(), vision_output.codes, vision_output.partials)
            elif step >= chosen.bare - 10:
                recent.append(vision_output.z.detach().flatten(0, 1))
            if step == chosen.bare:
                book = Learning(tower.quantiser, torch.cat(recent))
        if step % 50 == 0 or step == chosen.steps - 1:
            line = {name: round(float(part.detach()), 4) for name, part in parts.items()}
            line |= {
                "step": step,
                "perplexity": round(perplexity(vision_output.codes, ENTRIES), 1),
                "residual": round(float(vision_output.residual.mean()), 3),
                "spread": round(float(vision_output.z.detach().std()), 3),
                "seconds": round(time.time() - begun),
            }
            log.append(line)
            print(json.dumps(line), flush=True)
    return tower, known, log


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("out", type=Path)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--pictures", type=int, default=40000)
    options.add_argument("--steps", type=int, default=1500)
    options.add_argument("--bare", type=int, default=150)
    options.add_argument("--batch", type=int, default=96)
    options.add_argument("--lr", type=float, default=1.5e-3)
    options.add_argument("--bf16", action="store_true", help="in mixed precision")
    chosen = options.parse_args()
    pool = drawn(chosen.out, chosen.pictures, chosen.seed)
    tower, known, log = train(pool, chosen)
    tower.requires_grad_(False).eval()
    tower.load_state_dict(
        {
            k: v.half().float() if v.is_floating_point() and not k.startswith("quantiser.") else v
            for k, v in tower.state_dict().items()
        }
    )  # as it will be stored
    tower.spec = spec_of(tower.quantiser)
    with torch.no_grad():
        parts = [
            tower.encode_images(pictures(pool.images[i : i + 500])).codes[..., 0]
            for i in range(0, 10000, 500)
        ]
    tower.frequencies.copy_(frequencies(torch.cat(parts), ENTRIES))
    home = chosen.out / f"base{chosen.seed}"
    save_tower(tower, CONFIG, known, home / "tower")
    (home / "tower" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))


if __name__ == "__main__":
    main()
