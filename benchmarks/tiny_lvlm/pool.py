"""The pictures that petiole/tiny-lvlm is trained on: the base domain of the board, drawn once, with captions and questions.

Only part ``train`` of domain ``base`` is ever drawn, so no model that is trained here has seen another domain.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from petiole.data.synthetic.boards import SIZE, batch, questions
from petiole.files import write_text

CHUNK = 500
ASKED = 6
"""Questions to each picture."""


@dataclass(frozen=True)
class Pool:
    """Drawn pictures.

    Attributes:
        images: (n, 48, 48, 3) uint8.
        captions: of each.
        turns: (question, answer) pairs of each; answers give reasons unless the question says briefly.
    """

    images: Tensor
    captions: list[str]
    turns: list[list[tuple[str, str]]]

    def __len__(self) -> int:
        return len(self.captions)


def drawn(folder: Path, count: int, seed: int) -> Pool:
    """``count`` pictures of this seed, from the folder if they were drawn before."""
    images, text = folder / f"pool{seed}.npy", folder / f"pool{seed}.json"
    if not text.exists():
        folder.mkdir(parents=True, exist_ok=True)
        held = np.lib.format.open_memmap(images, "w+", np.uint8, (count, SIZE, SIZE, 3))
        captions, turns = [], []
        rng = np.random.default_rng([seed, 7])
        for start in range(0, count, CHUNK):
            rows = batch("base", "train", range(start, min(start + CHUNK, count)), seed)
            for i, row in enumerate(rows, start):
                held[i] = row.image
                captions.append(row.sample.caption)
                turns.append([(q.text, q.target) for q in questions(row.board, rng, ASKED)])
        held.flush()
        write_text(text, json.dumps({"captions": captions, "turns": turns}))
    stored = json.loads(text.read_text())
    turns = [[(q, a) for q, a in row] for row in stored["turns"]]
    return Pool(torch.from_numpy(np.load(images, mmap_mode="r+")), stored["captions"], turns)


def pictures(images: Tensor) -> Tensor:
    """uint8 (B, 48, 48, 3) -> (B, 3, 48, 48) in [-1, 1], as the tower's preprocessing gives them."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1
