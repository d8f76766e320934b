"""Parameters and FLOPs by role, counted on a meta device, without weights.

image      of a method on an image backbone
language   of a method on an encoder-decoder
lvlm       of a method on a vision-language model over a codebook, and of one question to it
counting   what both count by

A percentage is never bare: its name says of what. FLOPs are 2 x multiply-accumulates, as torch's FlopCounterMode
sees them (matrix products, convolutions, attention).
"""

from petiole.ledger.counting import size_of
from petiole.ledger.image import Ledger, count, ledger, params
from petiole.ledger.language import (
    LanguageLedger,
    LanguageSizes,
    count_language,
    language_ledger,
    sizes,
)
from petiole.ledger.lvlm import LVLMFlops, LVLMLedger, flops, lvlm_ledger

__all__ = [
    "LVLMFlops",
    "LVLMLedger",
    "LanguageLedger",
    "LanguageSizes",
    "Ledger",
    "count",
    "count_language",
    "flops",
    "language_ledger",
    "ledger",
    "lvlm_ledger",
    "params",
    "size_of",
    "sizes",
]
