"""Choosing without the test images: which images judge, and how they are left out."""

from __future__ import annotations

import torch
from torch import Tensor


def judged_by(is_target: Tensor) -> Tensor:
    """The images (n,) that a choice is judged on: the target's, because they count; all where there is no target."""
    return is_target if is_target.any() else torch.ones_like(is_target)


def blocks_of(labels: Tensor, seed: int = 0) -> list[Tensor]:
    """Indices of images in blocks of one of every class, in random order; rare classes miss from later blocks.

    Leaving a whole block out keeps classes balanced: to leave out single images makes each one's own class the
    rarest, which at two shots a class costs many points of estimated accuracy.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order.to(labels.device)
    blocks: list[list[int]] = []
    used: dict[int, int] = {}
    for index, label in zip(order.tolist(), labels[order].tolist(), strict=True):
        place = used.get(label, 0)
        used[label] = place + 1
        if place == len(blocks):
            blocks.append([])
        blocks[place].append(index)
    return [torch.tensor(block, device=labels.device) for block in blocks]
