"""Parameters and FLOPs by role, counted on a meta device, without weights: one ledger for every kind of network.

ledger     what is counted of any network: ``ledger(network, method, classes)``
image      FLOPs of one image through an image backbone
text       sizes by kind and FLOPs of one sample, of an encoder-decoder
codebook   sizes by part and FLOPs of one question, of a vision-language model over a codebook
counting   what all of them count by

A percentage is never bare: its name says of what. FLOPs are 2 x multiply-accumulates, as torch's FlopCounterMode
sees them (matrix products, convolutions, attention), with a formula of our own for the backward of grouped convolutions.
"""

from petiole.ledger import codebook, image, text
from petiole.ledger.codebook import question_flops
from petiole.ledger.counting import size_of
from petiole.ledger.ledger import (
    Ledger,
    Question,
    QuestionFlops,
    Sizes,
    count,
    count_parameters,
    ledger,
    params,
    repeated,
    sizes,
)

__all__ = [
    "Ledger",
    "Question",
    "QuestionFlops",
    "Sizes",
    "codebook",
    "count",
    "count_parameters",
    "image",
    "ledger",
    "params",
    "question_flops",
    "repeated",
    "size_of",
    "sizes",
    "text",
]
