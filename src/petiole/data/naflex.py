"""NaFlex: an image keeps its shape and becomes as many patches as a budget allows (Dehghani et al., 2023; Tschannen et al., 2025).

Grids differ from image to image, and batches and stores want one size. So an image travels as a *strip* (3, p, (P + 1) p): its
patches of side p side by side in row order, zeros up to the budget P, and one more patch that says how many rows (first channel)
and columns (second) its grid has.
"""

from __future__ import annotations

from math import ceil, isqrt

import torch
from torch import Tensor
from torch.nn.functional import pad

PRECISION = 1e-5
LARGEST = 100.0
"""Both libraries look for the scale below the latter, to the former, by halving."""


def grid_for(size: tuple[int, int], patch: int, budget: int) -> tuple[int, int]:
    """Rows and columns of patches of the largest image of this (width, height)'s shape that needs at most ``budget``.

    As timm's ``get_image_size_for_seq`` and transformers' ``get_image_size_for_max_num_patches``, by the same halvings.
    """
    width, height = size

    def grid(scale: float) -> tuple[int, int]:
        rows, columns = (max(1, ceil(side * scale / patch)) for side in (height, width))
        return rows, columns

    low, high = PRECISION / 10, LARGEST
    while high - low >= PRECISION:
        scale = (low + high) / 2
        rows, columns = grid(scale)
        low, high = (scale, high) if rows * columns <= budget else (low, scale)
    return grid(low)


def strip_of(image: Tensor, patch: int, budget: int) -> Tensor:
    """An image (3, rows * p, columns * p) as a strip (3, p, (P + 1) p)."""
    rows, columns = image.shape[1] // patch, image.shape[2] // patch
    cells = image.reshape(3, rows, patch, columns, patch).permute(0, 2, 1, 3, 4)
    strip = pad(cells.reshape(3, patch, -1), (0, (budget + 1 - rows * columns) * patch))
    return head(strip[None], torch.tensor([[rows, columns]]))[0]


def head(strips: Tensor, grids: Tensor) -> Tensor:
    """Strips (B, 3, p, (P + 1) p) that say that their grids are these (B, 2), in place."""
    patch = strips.shape[2]
    strips[:, :2, :, -patch:] = grids.to(strips)[:, :, None, None]
    return strips


def grids_of(strips: Tensor) -> Tensor:
    """Rows and columns (B, 2) of strips (B, 3, p, (P + 1) p); the largest square where they say none that is possible."""
    budget = strips.shape[3] // strips.shape[2] - 1
    square = torch.full((len(strips), 2), isqrt(budget))
    if strips.is_meta:
        return square
    said = strips[:, :2, 0, -1].round().long()
    possible = (said >= 1).all(dim=1) & (said.prod(dim=1) <= budget)
    return torch.where(possible[:, None], said, square.to(said))


def patches_of(strips: Tensor) -> Tensor:
    """Strips (B, 3, p, (P + 1) p) -> patches (B, P, p p 3), channels last, as both libraries' networks take them."""
    count, _, patch, length = strips.shape
    cells = strips[..., : length - patch].reshape(count, 3, patch, -1, patch)
    return cells.permute(0, 3, 2, 4, 1).flatten(2)


def places_of(grids: Tensor, budget: int) -> tuple[Tensor, Tensor]:
    """Row and column (B, P, 2) of each patch, zeros behind the last one, and which are patches (B, P)."""
    index = torch.arange(budget, device=grids.device)
    rows, columns = grids[:, :1], grids[:, 1:]
    valid = index < rows * columns
    places = torch.stack([index // columns, index % columns], dim=-1)
    return places * valid[..., None], valid
