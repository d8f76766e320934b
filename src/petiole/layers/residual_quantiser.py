"""Residual quantisation by a frozen codebook, the interface between an image encoder and language models.

    r_i^(0) = z_i
    k_{i,d} = argmin_k || r_i^(d-1) - c_k ||^2,   r_i^(d) = r_i^(d-1) - c_{k_{i,d}},   d = 1..D
    zhat_i^(<=d) = sum_{e<=d} c_{k_{i,e}},   zhat_i = zhat_i^(<=D)

(Lee et al., 2022, as in VILA-U; CRAFT, arXiv 2602.19449.) D = 1 is plain vector quantisation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, mse_loss

from petiole.errors import ConfigError, DataError
from petiole.layers.checks import positive

DISTANCES = 2**24  # held at once: 64 MiB


class Quantised(NamedTuple):
    """What the codebook makes of tokens z (..., N, d)."""

    codes: Tensor
    """k (..., N, D), int64."""
    partials: Tensor
    """zhat^(<=d) (D, ..., N, d), fp32, without gradient."""
    residual: Tensor
    """||z - zhat||_2 (..., N), fp32, without gradient."""
    straight_through: Tensor
    """zhat (..., N, d) in the type of z; its gradient is that of z."""


class ResidualQuantiser(nn.Module):
    """D rounds of nearest entry, by a codebook that nothing here can change.

    The codebook is a buffer, the same in training and evaluation: no parameter, no moving average, no replaced
    entries. Fill it with ``quantiser.codebooks.copy_(...)`` or from a state dict.

    Args:
        entries: K.
        width: d, of entries and tokens.
        depth: D.
        shared: one table for all depths, or one for each.

    Raises:
        ConfigError: a size below 1.
    """

    codebooks: Tensor
    """c (D or 1, K, d); standard normal numbers until filled."""
    kept: Tensor
    """(D, K), False for entries that ``keep`` took out of use."""

    def __init__(self, entries: int, width: int, depth: int = 1, shared: bool = True) -> None:
        super().__init__()
        positive(entries=entries, width=width, depth=depth)
        self.entries, self.width, self.depth, self.shared = entries, width, depth, shared
        self.register_buffer("codebooks", torch.randn(1 if shared else depth, entries, width))
        self.register_buffer("kept", torch.ones(depth, entries, dtype=torch.bool))

    def forward(self, z: Tensor) -> Quantised:
        """Quantise tokens (..., N, d), in fp32 also under autocast; the lowest index wins ties.

        Raises:
            ConfigError: tokens of another width.
        """
        if z.shape[-1] != self.width:
            raise ConfigError(
                f"Tokens are {z.shape[-1]} wide but entries {self.width}: take them from the layer that the "
                "codebook was made for."
            )
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            flat = z.detach().float().reshape(-1, self.width)
            codes = self._assign(flat)
            partials = torch.stack(self._sums(codes))
            residual = (flat - partials[-1]).norm(dim=-1)
        zhat = partials[-1].view(z.shape).to(z.dtype)
        return Quantised(
            codes.view(*z.shape[:-1], self.depth),
            partials.view(self.depth, *z.shape),
            residual.view(z.shape[:-1]),
            zhat + (z - z.detach()),  # z + sg[zhat - z], but exactly zhat forwards, as from codes
        )

    def embed(self, codes: Tensor) -> Tensor:
        """zhat of codes: (..., N, D) -> (..., N, d), bit for bit that of ``forward``.

        Raises:
            ConfigError: codes of another depth.
            DataError: codes outside the codebook.
        """
        if codes.shape[-1] != self.depth:
            raise ConfigError(
                f"Tokens have {codes.shape[-1]} codes but the quantiser is {self.depth} deep."
            )
        _check_codes(codes, self.entries)
        return self._sums(codes)[-1]

    def keep(self, frequencies: Tensor, share: float) -> ResidualQuantiser:
        """A quantiser that may only choose the most frequent ``share`` of all K entries, at least one.

        Codes keep their numbers; of equally frequent entries the lower number stays.

        Args:
            frequencies: of entries, (K,), or (D, K) for each depth its own.
            share: in (0, 1].

        Raises:
            ConfigError: a share outside (0, 1], frequencies of another shape.
        """
        if not 0 < share <= 1:
            raise ConfigError(f"The share of entries must lie in (0, 1], not {share}.")
        if tuple(frequencies.shape) not in {(self.entries,), (self.depth, self.entries)}:
            raise ConfigError(
                f"Frequencies must be ({self.entries},) or ({self.depth}, {self.entries}), not "
                f"{tuple(frequencies.shape)}."
            )
        order = frequencies.argsort(dim=-1, descending=True, stable=True)
        chosen = order[..., : max(1, round(share * self.entries))].to(self.kept.device)
        # Made without a draw, so that an ablation leaves the state of the random numbers as it was.
        with torch.device("meta"):
            small = ResidualQuantiser(self.entries, self.width, self.depth, self.shared)
        small.codebooks = self.codebooks.clone()
        small.kept = torch.zeros_like(self.kept)
        small.kept.scatter_(1, chosen.expand(self.depth, -1), True)
        return small.train(self.training)

    def _codebook(self, depth: int) -> Tensor:
        return self.codebooks[0 if self.shared else depth].float()

    def _assign(self, tokens: Tensor) -> Tensor:
        """Codes (n, D) of tokens (n, d), of so many at once that their distances fit in memory."""
        codes = tokens.new_empty(len(tokens), self.depth, dtype=torch.long)
        rest = tokens.clone()
        size = max(1, DISTANCES // self.entries)
        for d in range(self.depth):
            codebook = self._codebook(d)
            # ||c||^2 / 2 - r.c orders entries as the distance does.
            offset = codebook.square().sum(-1) / 2
            offset = offset.masked_fill(~self.kept[d], torch.inf)
            for start in range(0, len(rest), size):
                part = slice(start, start + size)
                codes[part, d] = torch.addmm(offset, rest[part], codebook.T, alpha=-1).argmin(-1)
            rest -= codebook[codes[:, d]]
        return codes

    def _sums(self, codes: Tensor) -> list[Tensor]:
        """zhat^(<=d) for d = 1..D, each (..., d)."""
        sums = [embedding(codes[..., 0], self._codebook(0))]
        for d in range(1, self.depth):
            sums.append(sums[-1] + embedding(codes[..., d], self._codebook(d)))
        return sums


def commitment(z: Tensor, partials: Tensor) -> Tensor:
    """How far tokens are from their entries: 1/D sum_d mean( (z - sg[zhat^(<=d)])^2 ).

    The mean is over elements, as in VILA-U; only z has a gradient, as in CRAFT.

    Args:
        z: (..., N, d).
        partials: (D, ..., N, d), of ``Quantised``.
    """
    each = [mse_loss(z.float(), partial.detach().float()) for partial in partials]
    return torch.stack(each).mean()


def frequencies(codes: Tensor, entries: int, smoothing: float = 1.0) -> Tensor:
    """p_k = (n_k + s) / (n + s K) of codes of any shape -> (K,), float64. For one depth pass ``codes[..., d]``.

    Raises:
        DataError: codes outside the codebook, or none without smoothing.
    """
    _check_codes(codes, entries)
    if not codes.numel() and not smoothing > 0:
        raise DataError("No codes to count: pass some, or smooth the frequencies.")
    counts = torch.bincount(codes.flatten(), minlength=entries).double() + smoothing
    return counts / counts.sum()


def perplexity(codes: Tensor, entries: int) -> float:
    """exp( - sum_k p_k log p_k ) of the use of entries: 1 when one is used, K when all are equally.

    Raises:
        DataError: codes outside the codebook, or none.
    """
    p = frequencies(codes, entries, smoothing=0)
    return float(torch.special.entr(p).sum().exp())


def _check_codes(codes: Tensor, entries: int) -> None:
    if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= entries):
        raise DataError(
            f"Codes run from {int(codes.min())} to {int(codes.max())} but the codebook has {entries} entries: "
            "they were made with another codebook."
        )
