"""Published shares of trained parameters of a language model, counted again on a meta device.

    share        = 100 trained / (language model + V->L block + what was added)     VL-Adapter's, CVPR
    share, alone = 100 trained / language model as it was pre-trained               arXiv v1's

CLIP counts nowhere. Two of the paper's rows (1.14 and 1.18) were left over from the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch

from petiole.backbones.encoder_decoder import Seq2Seq
from petiole.backbones.registry import LoadRequest, load_any
from petiole.ledger import count_parameters
from petiole.methods.text import encoder_decoder_of
from petiole.tasks.text.adapter import method_of

Verdict = Literal["reproduced", "other denominator", "differs", "no claim"]


@dataclass(frozen=True)
class Share:
    """One row.

    Attributes:
        row: its label.
        tags: of the sources of the claim.
        claimed: per cent as published; ``None`` where no claim was seen.
        trainable, total: parameters, with everything added and without CLIP.
        alone: of the language model without V->L block, added words and layers.
        verdict: whether ours rounds to the claim, or would over the language model alone.
        note: what is known of the difference.
    """

    row: str
    tags: tuple[str, ...]
    claimed: float | None
    trainable: int
    total: int
    alone: int
    verdict: Verdict
    note: str = ""

    @property
    def percent(self) -> float:
        """Trained, in per cent of the total."""
        return 100 * self.trainable / self.total

    @property
    def percent_alone(self) -> float:
        """Trained, in per cent of the language model alone."""
        return 100 * self.trainable / self.alone


def count(table: Mapping[str, Any]) -> tuple[tuple[Share, ...], tuple[str, ...]]:
    """Count a ``shares`` table of the claims.

    Returns:
        Its rows, and what is missing for those that cannot be counted.
    """
    rows = table["rows"]
    missing = tuple(f"{row['label']}: {row['missing']}" for row in rows if "missing" in row)
    digits = table["digits"]
    return tuple(_share(row, row.get("digits", digits)) for row in rows if "method" in row), missing


def _share(row: Mapping[str, Any], digits: int) -> Share:
    model, method = (
        language_shape(row["backbone"]),
        method_of(row["method"], row.get("settings", {})),
    )
    with torch.device("meta"):
        counted = count_parameters(model, method)
    of_total, of_language = (
        counted.trainable_percent_of_total,
        counted.trainable_percent_of_language_model,
    )
    assert of_language is not None
    claimed = row.get("claimed")
    return Share(
        row=row["label"],
        tags=tuple(row.get("tags", ())),
        claimed=claimed,
        trainable=counted.trainable,
        total=counted.total,
        alone=counted.parts["language"],
        verdict=_verdict(claimed, of_total, of_language, digits),
        note=row.get("note", ""),
    )


def _verdict(claimed: float | None, of_total: float, of_language: float, digits: int) -> Verdict:
    if claimed is None:
        return "no claim"
    if round(of_total, digits) == claimed:
        return "reproduced"
    if round(of_language, digits) == claimed:
        return "other denominator"
    return "differs"


@cache
def language_shape(name: str) -> Seq2Seq:
    """A language model by name on the meta device, without weights."""
    return encoder_decoder_of(load_any(LoadRequest(name, meta=True), device="meta"))
