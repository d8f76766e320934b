"""What a vision-language task asks: one sample is one text about images, and what may be said of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from petiole.printable import composed


@dataclass(frozen=True)
class TextSample:
    """One question, sentence or wish for a caption; its texts are kept in Unicode's normal form C, names of files as they are.

    Attributes:
        key: unique in its part of the data set.
        text: what the encoder reads, without the task's prefix; empty for captions.
        images: names of the images (or of the one video) in their source of features, none for text alone,
            two for a pair.
        targets: what the decoder may learn to say -> its weight. VQA's soft scores, else one target of
            weight 1; empty where nothing is known (the sample then has weight 0 in training).
        references: what a prediction is scored against: ten human answers, all captions of the image, or
            the one answer.
        group: samples that are scored together (a sentence of NLVR2 with its image pairs); empty for none.
        caption: a text about the image, which losses between image and text compare with it; empty for none.
        label: class of the image: two samples of one label are no negatives of each other. Empty for none.
        facts: statements that are true of the image, one of them each ("there is a red circle"), which an
            explanation is checked against.
    """

    key: str
    text: str = ""
    images: tuple[str, ...] = ()
    targets: Mapping[str, float] = field(default_factory=dict)
    references: tuple[str, ...] = ()
    group: str = ""
    caption: str = ""
    label: str = ""
    facts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("text", "caption", "label"):
            object.__setattr__(self, name, composed(getattr(self, name)))
        for name in ("references", "facts"):
            object.__setattr__(self, name, tuple(map(composed, getattr(self, name))))
        if not all(map(str.isascii, self.targets)):
            weights: dict[str, float] = {}
            for text, weight in self.targets.items():
                weights[composed(text)] = weights.get(composed(text), 0.0) + weight
            object.__setattr__(self, "targets", weights)
