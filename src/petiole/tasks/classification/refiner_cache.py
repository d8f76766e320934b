"""What a TextRefiner's cache holds, how it is read, and which patches its entries stand for.

    effective rank   exp(H(p)),  p_i = s_i / Σ s, s the singular values of the entries (Roy & Vetterli, 2007); at most M
    read entropy     mean over classes of H(W_c) / log M: 1 where every class reads the same mean of all entries;
                     where class vectors depend on the image (CoCoOp), over some images too
    cosine           mean over pairs of entries
    mean read        on how many images the answer is another one if every class reads the mean of what all classes read. Where
                     E^ meets the image as it is, such a read adds the same to all logits, and the softmax cancels it
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
from petiole.engine.feature_extractor import Features
from petiole.errors import AdapterError
from petiole.layers.local_cache import LocalCache
from petiole.layers.token_alignment import TokenAlignment
from petiole.methods.prompt_learning.refined_head import (
    Refined,
    RefinedByImage,
    RefinedHead,
)
from petiole.metrics.reduced_rank import effective_rank as rank_of
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.model import predict

NEAREST = 3
READERS = 16
"""Images by which the reads of a host are measured whose class vectors depend on the image."""


@dataclass(frozen=True)
class CacheReport:
    """The numbers above; without images those that need them are missing, and without alignment usage and nearest.

    Attributes:
        entries: M.
        read_entropy: ``None`` where it depends on images and there are none.
        changed: of how many images the answer changes with the mean read, and of how many in all.
        nearest: of each entry (image, row, column, cosine), best first.
    """

    entries: int
    effective_rank: float
    cosine: float
    read_entropy: float | None
    changed: tuple[int, int] | None = None
    usage: tuple[float, ...] = ()
    nearest: tuple[tuple[tuple[Path, int, int, float], ...], ...] = ()


@torch.no_grad()
def describe(adapter: ClassificationAdapter, images: Path | None = None) -> CacheReport:
    """Describe the cache of an adapter.

    Args:
        adapter: trained with TextRefiner.
        images: whose patches are looked through.

    Raises:
        AdapterError: it has no cache.
    """
    head = adapter.adapted.head
    if not isinstance(head, Refined) or head.refiner.cache is None:
        raise AdapterError(f"{adapter.manifest.method} has no cache of local tokens.")
    cache = head.refiner.cache
    queries = _queries(adapter, images)
    align = head.refiner.align
    used, nearest = _among(adapter, align, cache, images) if align and images else ((), ())
    return CacheReport(
        entries=len(cache.entries),
        effective_rank=effective_rank(cache.entries),
        cosine=mean_cosine(cache.entries),
        read_entropy=None if queries is None else read_entropy(cache.shares(queries)),
        changed=None if images is None else _changed(adapter, head, cache, images),
        usage=used,
        nearest=nearest,
    )


def _queries(adapter: ClassificationAdapter, images: Path | None) -> Tensor | None:
    """The class vectors that read, (n, d)."""
    head, backbone = adapter.adapted.head, adapter.adapted.backbone
    with adapter.adapted.attached():
        if isinstance(head, RefinedHead):
            return head.named.embeddings().float()
        if images is None or not isinstance(head, RefinedByImage):
            return None
        data = open_data(images)
        step = -(-len(data) // READERS)
        some = data.select(list(range(0, len(data), step)))
        states = Features(backbone, None, quiet=True).table(some, (backbone.vector,)).batches(1)
        vectors = [head.named.embeddings_of(state[backbone.vector].float()) for state in states]
        return torch.cat(vectors).flatten(0, 1).float()


def effective_rank(entries: Tensor) -> float:
    """exp of the entropy of the singular values' shares, (M, d) -> 1 ... M."""
    return rank_of(torch.linalg.svdvals(entries.double()))


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


def _changed(
    adapter: ClassificationAdapter, head: Refined, cache: LocalCache, images: Path
) -> tuple[int, int]:
    """Images whose answer is another one with the mean read, and all."""
    data, adapted = open_data(images), adapter.adapted
    table = Features(adapted.backbone, None, quiet=True).table(data, adapted.cut)
    found = predict(adapted, table.batches(len(data)))
    changed = 0
    with adapted.attached():
        for start in range(0, len(data), READERS):
            some = slice(start, start + READERS)
            vector = found.vectors[some].to(cache.entries.device)
            own, _ = head.pair(vector)
            read = cache.read(own)
            alike = head.refiner.blend(own, read.mean(-2, keepdim=True).expand_as(read))
            cosines = normalize(vector, dim=-1)[:, None] @ head.met(alike).mT
            changed += int(
                (cosines.squeeze(1).argmax(1).cpu() != found.logits[some].argmax(1)).sum()
            )
    return changed, len(data)


def _among(
    adapter: ClassificationAdapter, align: TokenAlignment, cache: LocalCache, images: Path
) -> tuple[tuple[float, ...], tuple[tuple[tuple[Path, int, int, float], ...], ...]]:
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
        aligned = align(tokens)
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
