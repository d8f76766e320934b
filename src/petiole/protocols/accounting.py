"""A published share of trained parameters, counted again under every accounting that is in use.

AdapterTune's abstract prints "0.92 of the parameters". Rank 16 in all blocks, biases and linear head
included, over the parameters of full fine-tuning (backbone and the same head), and the arithmetic
mean over five data sets times three backbones give 0.9171 per cent.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import torch

from petiole.backbones.registry import load_backbone
from petiole.ledger import sizes
from petiole.methods.registry import create

HEADLINE = (
    "trained (adapters, biases and head) over full fine-tuning (backbone and head), mean of pairs"
)


@dataclass(frozen=True)
class BackbonePair:
    """One backbone with one data set's head; parameters.

    Attributes:
        frozen: of the backbone.
        adapters, head: trained.
        biases: those of the adapters that are biases.
    """

    backbone: str
    data: str
    frozen: int
    adapters: int
    head: int
    biases: int

    @property
    def share(self) -> float:
        """Trained parameters in per cent of full fine-tuning's."""
        return 100 * (self.adapters + self.head) / (self.frozen + self.head)


@dataclass(frozen=True)
class Accounting:
    """All pairs and what each accounting makes of them, in per cent; the headline is the first."""

    pairs: tuple[BackbonePair, ...]
    shares: dict[str, float]


def account(table: dict[str, Any]) -> Accounting:
    """Count a ``params`` table of the claims: its method on every backbone for every data set."""
    pairs = tuple(
        _pair(name, data, classes, table["method"], table["settings"])
        for name in table["backbones"]
        for data, classes in table["classes"].items()
    )
    trained = [p.adapters + p.head for p in pairs]
    full = [p.frozen + p.head for p in pairs]

    def mean(top: list[int], bottom: list[int]) -> float:
        return fmean(100 * a / b for a, b in zip(top, bottom, strict=True))

    shares = {
        HEADLINE: mean(trained, full),
        "the same over the backbone alone": mean(trained, [p.frozen for p in pairs]),
        "the same over backbone, head and adapters": mean(
            trained, [p.frozen + p.head + p.adapters for p in pairs]
        ),
        "without biases of the adapters": mean(
            [t - p.biases for t, p in _with(trained, pairs)], full
        ),
        "adapters alone, without head, over full fine-tuning": mean(
            [p.adapters for p in pairs], full
        ),
        "ratio of sums instead of mean of ratios": 100 * sum(trained) / sum(full),
        "median of the pairs": median(p.share for p in pairs),
    }
    return Accounting(pairs, shares)


def _with(trained: list[int], pairs: tuple[BackbonePair, ...]) -> list[tuple[int, BackbonePair]]:
    return list(zip(trained, pairs, strict=True))


def _pair(
    name: str, data: str, classes: int, method: str, settings: dict[str, Any]
) -> BackbonePair:
    shape = load_backbone(name, device="meta")
    with torch.device("meta"):
        plan = create(method, settings).plan(shape, classes)
        counted = sizes(shape, plan)
    trained = (p for part in plan.adapters for p in part.parameters())
    return BackbonePair(
        backbone=name,
        data=data,
        frozen=counted.backbone,
        adapters=counted.adapters,
        head=counted.head,
        biases=sum(p.numel() for p in trained if p.ndim == 1),
    )
