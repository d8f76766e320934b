"""Pruning of image tokens at test time by the rarity of their codebook entries (CRAFT, arXiv 2602.19449).

Frequent entries, the background, are cut hard and rare ones kept; within an entry tokens with a large quantisation
residual go first, then tokens far from those already kept. The paper gives no budget formula: this is a
reconstruction, for an image of N tokens with entries k_i and n_k tokens of entry k:

    M = max(1, round(kappa N)),   rho_k = 1 / p_k
    quota_k(gamma) = min( n_k, ceil(gamma rho_k) )
    gamma* = smallest gamma > 0 with sum_k quota_k(gamma) >= M

The j-th token of entry k (j = 0, 1, ...) enters once gamma > j p_k. Therefore gamma* is found without a search:
it lies just above the M-th smallest of the N values j p_k.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from petiole.errors import ConfigError, DataError, unknown

Mode = Literal["random", "uniform", "rarity", "rarity+residual", "full"]
EntryDepth = Literal["first", "joint"]
Positions = Literal["keep", "compact"]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

GOLDEN = 0.6180339887498949
SAME = 1 + 1e-9  # values of j p_k that differ by rounding alone


@dataclass(frozen=True)
class Pruning:
    """Which of an image's tokens a language model reads.

    Attributes:
        keep: kappa, the share of tokens kept.
        mode: ``full`` as above; ``rarity+residual`` takes the largest residuals of an entry, whatever their places;
            ``rarity`` takes tokens of an entry at random. Without entries, for reference: ``random`` tokens of the
            image, ``uniform`` ones spread over the grid.
        entry_depth: an entry is the code of the ``first`` depth, with its p, or the codes of all depths together
            (``joint``). p of the latter is the product over depths of p_d(k_d): tuples are too many to count.
        spread: beta, the weight of the distance to tokens already kept in ``full``.
        positions: tokens ``keep`` their position ids, with gaps, or are numbered anew (``compact``).
        seed: of random choices, which depend on it and the image's codes only, so that an image loses the same
            tokens in any batch.

    Raises:
        ConfigError: an unknown name, or a number out of range.
    """

    keep: float = 0.8
    mode: Mode = "full"
    entry_depth: EntryDepth = "first"
    spread: float = 1.0
    positions: Positions = "keep"
    seed: int = 0

    def __post_init__(self) -> None:
        for field, kinds in (("mode", Mode), ("entry_depth", EntryDepth), ("positions", Positions)):
            if getattr(self, field) not in get_args(kinds):
                raise unknown(f"{field} of pruning", getattr(self, field), get_args(kinds))
        if not 0 < self.keep <= 1:
            raise ConfigError(f"The share of tokens to keep must lie in (0, 1], not {self.keep}.")
        if not 0 <= self.spread < float("inf") or self.seed < 0:
            raise ConfigError(
                f"spread and seed of pruning must be finite and not negative, not {self.spread} and {self.seed}."
            )

    def count(self, tokens: int) -> int:
        """M, how many of ``tokens`` stay."""
        return max(1, round(self.keep * tokens))

    def select(
        self, codes: Tensor, residual: Tensor, frequencies: Tensor, grid: tuple[int, int]
    ) -> Tensor:
        """The kept tokens of each image, (B, M), in ascending raster order.

        Should more than M tokens enter at gamma*, the surplus leaves the entries with the largest p, the token
        chosen last first; an entry loses its only token when there is no other to take.

        Args:
            codes: k (B, N, D).
            residual: ||z - zhat|| (B, N).
            frequencies: p of entries, all positive: (K,) of the first depth, or (D, K).
            grid: rows and columns, whose product is N.

        Raises:
            ConfigError: shapes that do not fit.
            DataError: frequencies that are not positive, codes beyond them, residuals that are not finite.
        """
        _check_shapes(codes, residual, grid)
        images, tokens = residual.shape
        wanted = self.count(tokens)
        if wanted == tokens:
            chosen = np.broadcast_to(np.arange(tokens), (images, tokens))
        elif self.mode == "uniform":
            chosen = np.broadcast_to(_spread(wanted, *grid), (images, wanted))
        elif self.mode == "random":
            order = self._draw(codes.cpu().numpy()).argsort(axis=1)
            chosen = np.sort(order[:, :wanted], axis=1)
        else:
            kept = self._by_rarity(codes, residual, frequencies, grid, wanted)
            chosen = np.nonzero(kept)[1].reshape(images, wanted)
        return torch.tensor(chosen, dtype=torch.long, device=codes.device)

    def position_ids(self, chosen: Tensor) -> Tensor:
        """Positions (B, M) that the language model is told of tokens that ``select`` chose."""
        if self.positions == "keep":
            return chosen
        return torch.arange(chosen.shape[1], device=chosen.device).expand_as(chosen)

    def _by_rarity(
        self,
        codes: Tensor,
        residual: Tensor,
        frequencies: Tensor,
        grid: tuple[int, int],
        wanted: int,
    ) -> Bools:
        numbers = codes.cpu().numpy()
        entry, p = self._entries(numbers, frequencies.detach().double().cpu().numpy())
        score = residual.detach().double().cpu().numpy()
        if not np.isfinite(score).all():
            raise DataError("Quantisation residuals are not finite: look at the encoder's output.")
        if self.mode == "full":  # the order within an entry is made below
            order = entry.argsort(axis=1, kind="stable")
        else:
            order = np.lexsort((-self._draw(numbers) if self.mode == "rarity" else -score, entry))
        entry, p = np.take_along_axis(entry, order, 1), np.take_along_axis(p, order, 1)
        enters = within_quota(entry, p, wanted)
        if self.mode == "full":
            scores = np.take_along_axis(score, order, 1)
            for image in range(len(entry)):
                self._choose(entry[image], scores[image], order[image], grid, enters[image])
        kept = np.zeros_like(enters)
        np.put_along_axis(kept, order, enters, 1)
        return kept

    def _entries(self, codes: Ints, frequencies: Floats) -> tuple[Ints, Floats]:
        """The entry (B, N) of every token as a number, and its p."""
        depth = codes.shape[2]
        table = frequencies[None] if frequencies.ndim == 1 else frequencies
        if table.ndim != 2 or len(table) not in {1, depth}:
            raise ConfigError(
                f"Frequencies must be (K,) or ({depth}, K), not {frequencies.shape}, for {depth} codes a token."
            )
        used = codes if self.entry_depth == "joint" else codes[..., :1]
        if len(table) < used.shape[2]:
            raise ConfigError(f"Joint entries need frequencies ({depth}, K), one row a depth.")
        if not (np.isfinite(table).all() and (table > 0).all()):
            raise DataError("Frequencies must be positive: count codes with a smoothing of 1.")
        if used.min() < 0 or used.max() >= table.shape[1]:
            raise DataError(
                f"Codes run from {used.min()} to {used.max()} but there are {table.shape[1]} frequencies: "
                "count them with the same codebook."
            )
        p = np.prod([table[d][used[..., d]] for d in range(used.shape[2])], axis=0)
        if used.shape[2] == 1:
            return used[..., 0], p
        rows = used.reshape(-1, depth)
        tuples = np.unique(rows, axis=0, return_inverse=True)[1]
        return tuples.reshape(p.shape), p

    def _draw(self, codes: Ints) -> Floats:
        """Uniform numbers (B, N), of each image by the seed and its own codes."""
        draws = []
        for image in codes:
            digest = blake2b(np.ascontiguousarray(image, dtype="<i8").tobytes(), digest_size=8)
            generator = np.random.default_rng(
                [self.seed, int.from_bytes(digest.digest(), "little")]
            )
            draws.append(generator.random(len(image)))
        return np.array(draws).reshape(codes.shape[:2])

    def _choose(
        self, entry: Ints, score: Floats, place: Ints, grid: tuple[int, int], enters: Bools
    ) -> None:
        """Of one image's tokens, sorted by entry, mark in each crowded entry as many as enter, by ``greedy``."""
        starts = np.flatnonzero(np.diff(entry, prepend=entry[0] - 1))
        sizes = np.diff(starts, append=len(entry))
        quotas = np.add.reduceat(enters, starts, dtype=np.int64)
        for crowded in np.flatnonzero((quotas > 0) & (quotas < sizes)):
            part = slice(starts[crowded], starts[crowded] + sizes[crowded])
            chosen = greedy(score[part], place[part], grid, int(quotas[crowded]), self.spread)
            enters[part] = False
            enters[part][chosen] = True


def within_quota(entry: Ints, p: Floats, wanted: int) -> Bools:
    """Which tokens enter at gamma*, less the surplus: exactly ``wanted`` of each row.

    Args:
        entry: (B, N), tokens of a row sorted by entry and within it best first.
        p: (B, N), of their entries.
        wanted: M.
    """
    tokens = np.arange(entry.shape[1])
    first = np.diff(entry, axis=1, prepend=entry[:, :1] - 1) != 0
    slot = tokens - np.maximum.accumulate(np.where(first, tokens, 0), axis=1)
    threshold = slot * p
    last = np.partition(threshold, wanted - 1, axis=1)[:, wanted - 1 : wanted]
    enters: Bools = threshold <= last * SAME
    surplus = enters.sum(axis=1, keepdims=True) - wanted
    leaving = np.lexsort((entry, -slot, -p, first, ~enters))
    dropped = np.zeros_like(enters)
    np.put_along_axis(dropped, leaving, tokens < surplus, 1)
    return enters & ~dropped


def greedy(score: Floats, place: Ints, grid: tuple[int, int], quota: int, spread: float) -> Ints:
    """``quota`` tokens of one entry, in the order of choice; the first of equals.

        S = {argmax e},   then add argmax_{i not in S}  e_i + beta min_{j in S} dist(i, j) / diag

    Args:
        score: (n,), min-max scaled to e in [0, 1] (0 when all are equal).
        place: (n,) raster positions, ascending.
        grid: rows and columns; diag is the distance of opposite corners.
        quota: at most n.
        spread: beta.
    """
    span = np.ptp(score)
    e = (score - score.min()) / span if span > 0 else np.zeros_like(score)
    rows, columns = np.divmod(place, grid[1])
    unit = spread / max(1.0, float(np.hypot(grid[0] - 1, grid[1] - 1)))
    isolation = unit * np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    chosen = np.empty(quota, dtype=np.int64)
    chosen[0] = e.argmax()
    nearest = isolation[chosen[0]]
    for step in range(1, quota):
        nearest[chosen[step - 1]] = -np.inf  # never again
        chosen[step] = (e + nearest).argmax()
        nearest = np.minimum(nearest, isolation[chosen[step]])
    return chosen


def _spread(wanted: int, height: int, width: int) -> Ints:
    """``wanted`` places spread over the grid: equally many in each row, up to one, shifted from row to row."""
    share = np.arange(height + 1) * wanted // height
    places: list[int] = []
    for row, count in enumerate(np.diff(share)):
        phase = (0.5 + row * GOLDEN) % 1
        places.extend(row * width + int((j + phase) * width / count) for j in range(count))
    return np.array(places)


def _check_shapes(codes: Tensor, residual: Tensor, grid: tuple[int, int]) -> None:
    if codes.ndim != 3 or residual.shape != codes.shape[:2] or not codes.numel():
        raise ConfigError(
            "Codes must be (images, tokens, depths) and residuals (images, tokens), none of them empty; not "
            f"{tuple(codes.shape)} and {tuple(residual.shape)}."
        )
    if grid[0] * grid[1] != codes.shape[1]:
        raise ConfigError(f"A grid of {grid[0]} x {grid[1]} does not hold {codes.shape[1]} tokens.")
