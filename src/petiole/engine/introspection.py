"""What a TextRefiner's cache holds, how it is read, and which patches its entries stand for.

    effective rank   exp(H(p)),  p_i = s_i / Σ s, s the singular values of the entries (Roy & Vetterli, 2007); at most M
    read entropy     mean over classes of H(W_c) / log M: 1 where every class reads the same mean of all entries
    cosine           mean over pairs of entries
    usage            share of an image set's local tokens whose nearest entry is j
    nearest          the patches most like entry j

The last two need the alignment g, which only an adapter trained with ``keep_alignment=true`` has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from petiole.data.sources import open_data
from petiole.engine.adapter import Adapter
from petiole.engine.features import Features
from petiole.errors import AdapterError
from petiole.layers.local_cache import LocalCache
from petiole.methods.refined_head import RefinedHead, Refiner

NEAREST = 3


@dataclass(frozen=True)
class CacheReport:
    """The numbers above; usage and nearest are empty without images.

    Attributes:
        entries: M.
        nearest: of each entry (image, row, column, cosine), best first.
    """

    entries: int
    effective_rank: float
    cosine: float
    read_entropy: float
    usage: tuple[float, ...] = ()
    nearest: tuple[tuple[tuple[Path, int, int, float], ...], ...] = ()


@torch.no_grad()
def describe(adapter: Adapter, images: Path | None = None) -> CacheReport:
    """Describe the cache of an adapter.

    Args:
        adapter: trained with TextRefiner.
        images: whose patches are looked through.

    Raises:
        AdapterError: it has no cache; or images are given and its alignment was not kept.
    """
    head = adapter.adapted.head
    if not isinstance(head, RefinedHead) or head.refiner.cache is None:
        raise AdapterError(f"{adapter.manifest.method} has no cache of local tokens.")
    cache = head.refiner.cache
    with adapter.adapted.attached():
        shares = cache.shares(head.vectors.embeddings().float())
    used, nearest = ((), ()) if images is None else _among(adapter, head.refiner, cache, images)
    return CacheReport(
        entries=len(cache.entries),
        effective_rank=effective_rank(cache.entries),
        cosine=mean_cosine(cache.entries),
        read_entropy=read_entropy(shares),
        usage=used,
        nearest=nearest,
    )


def effective_rank(entries: Tensor) -> float:
    """exp of the entropy of the singular values' shares, (M, d) -> 1 ... M."""
    values = torch.linalg.svdvals(entries.double())
    return float(torch.special.entr(values / values.sum()).sum().exp())


def mean_cosine(entries: Tensor) -> float:
    """Mean over pairs of different entries; 1 for a single one."""
    unit = normalize(entries.double(), dim=-1)
    count = len(unit)
    total = float((unit @ unit.T).sum()) - count
    return total / (count * (count - 1)) if count > 1 else 1.0


def read_entropy(shares: Tensor) -> float:
    """W (C, M) -> 0 (each class reads one entry) ... 1 (all alike)."""
    if shares.shape[1] < 2:
        return 0.0
    return float(torch.special.entr(shares.double()).sum(dim=1).mean() / math.log(shares.shape[1]))


def _among(
    adapter: Adapter, refiner: Refiner, cache: LocalCache, images: Path
) -> tuple[tuple[float, ...], tuple[tuple[tuple[Path, int, int, float], ...], ...]]:
    if refiner.align is None:
        raise AdapterError(
            "This adapter's alignment was dropped after training, so its cache cannot be compared with "
            "patches. Train it with --set keep_alignment=true."
        )
    backbone, data = adapter.adapted.backbone, open_data(images)
    roles = (backbone.vector, backbone.patches)
    table = Features(backbone, None, quiet=True).table(data, roles)
    paths = list(data.paths)
    counts = torch.zeros(len(cache.entries))
    best: list[list[tuple[Path, int, int, float]]] = [[] for _ in cache.entries]
    unit = normalize(cache.entries, dim=-1)
    start = 0
    for state in table.batches(len(data)):
        vector, patches = (state[role].float() for role in roles)
        tokens = torch.cat([vector[:, None], patches], dim=1)
        aligned = refiner.align(tokens)
        counts += torch.bincount(cache.assign(aligned.flatten(0, 1)), minlength=len(counts))
        cosines = normalize(aligned[:, 1:], dim=-1) @ unit.T  # (B, P, M)
        side = math.isqrt(cosines.shape[1])
        for entry in range(len(unit)):
            values, where = cosines[..., entry].max(dim=1)
            for i, (value, patch) in enumerate(zip(values.tolist(), where.tolist(), strict=True)):
                best[entry].append((paths[start + i], patch // side, patch % side, value))
            best[entry] = sorted(best[entry], key=lambda one: -one[3])[:NEAREST]
        start += len(vector)
    return tuple((counts / counts.sum()).tolist()), tuple(map(tuple, best))
