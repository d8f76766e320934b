"""The V->L block: frozen visual features become tokens of a language model (Cho et al., 2021; Sung et al., 2022).

    e_j = LN_a(W_f f_j + b_f) + LN_b(W_p [p_j ; area(p_j)] + b_p) + E_img[k] + codes[n - 1 - j]

f_j is the j-th of an image's features, p_j its box (x1, x2, y1, y2 in 0..1), k the number of the image,
``codes`` a code for each place. In the published models the codes are rows that were added to the word
embedding; they stay at their random start there, because the word embedding is frozen. Here they are a
parameter of this block, so that an adapter file can hold them. They count alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from petiole.errors import ConfigError, unknown
from petiole.layers.initial import normal

Boxes = Literal["zero", "grid", "given"]
Norms = Literal["each", "sum"]


@dataclass(frozen=True)
class VisualOptions:
    """Where the reference is odd, a name for what it does and for what one would expect.

    Attributes:
        boxes: ``zero`` as published (the box term is the constant LN_b(b_p), and W_p never learns);
            ``grid`` the cells of a square grid; ``given`` those of a detector, with its features.
        mask_padding: let attention pass over the zero rows that fill up a short video; published: no.
        norms: ``each`` term its own LN_a, LN_b; ``sum`` one LN on the sum, as VL-T5's own BART.

    Raises:
        ConfigError: another value.
    """

    boxes: Boxes = "zero"
    mask_padding: bool = False
    norms: Norms = "each"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("boxes", self.boxes, get_args(Boxes)),
            ("norms", self.norms, get_args(Norms)),
        ):
            if value not in known:
                raise unknown(name, value, known)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """From options by name.

        Raises:
            ConfigError: no such option, or no such value.
        """
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise unknown("option of a V->L block", name, known)
        return cls(**options)


class VisualEmbedding(nn.Module):
    """Features (B, N, D_v) -> tokens (B, N, d).

    Args:
        width: D_v.
        out: d.
        codes: rows of the table of places.
        norm: makes a normalisation of d channels (T5's has no bias).
        std: of the normal start of maps and tables; ``None`` for torch's own.
        options: see ``VisualOptions``.

    Parameters, BART-base with 2048-d features: 1,582,848, and 153,600 of the codes.
    """

    def __init__(
        self,
        width: int,
        out: int,
        *,
        codes: int,
        norm: Callable[[int], nn.Module],
        std: float | None,
        options: VisualOptions,
    ) -> None:
        super().__init__()
        self.width, self.options = width, options
        self._shape = (width, out, codes, norm, std, options)
        self.features = nn.Linear(width, out)
        self.boxes = nn.Linear(5, out)
        self.images = nn.Embedding(2, out)
        self.codes = nn.Parameter(torch.randn(codes, out) * (1.0 if std is None else std))
        separate = options.norms == "each"
        self.feature_norm = norm(out) if separate else nn.Identity()
        self.box_norm = norm(out) if separate else nn.Identity()
        self.norm = nn.Identity() if separate else norm(out)
        if std is not None:
            for layer in (self.features, self.boxes, self.images):
                normal(layer, std)

    def again(self) -> VisualEmbedding:
        """A fresh one of the same shape, drawn from torch's generator."""
        width, out, codes, norm, std, options = self._shape
        return VisualEmbedding(width, out, codes=codes, norm=norm, std=std, options=options)

    def forward(self, features: Tensor, boxes: Tensor | None, images: int) -> Tensor:
        """Embed.

        Args:
            features: (B, K N, D_v), of K images one behind the other.
            boxes: (B, K N, 4) as x1, y1, x2, y2 in 0..1, where they are given.
            images: K, 1 or 2.

        Raises:
            ConfigError: more places than codes, features of another width, or missing boxes.
        """
        total, width = features.shape[1:]
        places = total // images
        if width != self.width or places > len(self.codes):
            raise ConfigError(
                f"This model takes at most {len(self.codes)} visual features of width {self.width} an "
                f"image, not {places} of width {width}. Pool them, or set the model's vision width."
            )
        place = torch.arange(places, device=features.device).repeat(images)
        image = torch.arange(images, device=features.device).repeat_interleave(places)
        seen = self.feature_norm(self.features(features))
        where = self.box_norm(self.boxes(self._corners(boxes, features, places)))
        codes = self.codes[len(self.codes) - 1 - place]
        tokens: Tensor = self.norm(seen + where + self.images(image) + codes)
        return tokens

    def _corners(self, boxes: Tensor | None, features: Tensor, places: int) -> Tensor:
        """(x1, y1, x2, y2, a), (B, K N, 5), or (K N, 5) where they are the same for all.

        VL-T5's module says that it takes (x1, x2, y1, y2) and computes an area of them; its loaders feed (x1, y1, x2, y2).
        So its checkpoints were trained with a = (y2 - x2) (y1 - x1), which is no area, and so it is here.
        """
        match self.options.boxes:
            case "zero":
                return features.new_zeros(features.shape[1], 5)
            case "grid":
                repeats = features.shape[1] // places
                corners = _cells(places).to(features).repeat(repeats, 1)
            case "given":
                if boxes is None:
                    raise ConfigError(
                        "boxes=given needs features with boxes (a detector's). Use boxes=zero or grid."
                    )
                corners = boxes.to(features.dtype)
        x1, y1, x2, y2 = corners.unbind(-1)
        return torch.stack([x1, y1, x2, y2, (y2 - x2) * (y1 - x1)], dim=-1)


def _cells(count: int) -> Tensor:
    """x1, y1, x2, y2 of the cells of a square grid, row by row.

    Raises:
        ConfigError: the features are no square grid.
    """
    side = round(count**0.5)
    if side * side != count:
        raise ConfigError(
            f"boxes=grid needs a square grid of features, not {count}. Use boxes=zero."
        )
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    x, y = x.flatten() / side, y.flatten() / side
    return torch.stack([x, y, x + 1 / side, y + 1 / side], dim=-1)
