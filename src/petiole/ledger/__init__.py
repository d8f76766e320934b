"""Parameters and FLOPs by role, counted on a meta device, without weights.

image      of a method on an image backbone
language   of a method on an encoder-decoder
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

__all__ = [
    "LanguageLedger",
    "LanguageSizes",
    "Ledger",
    "count",
    "count_language",
    "language_ledger",
    "ledger",
    "params",
    "size_of",
    "sizes",
]
