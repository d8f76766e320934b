"""What a language model is shown of an image.

Stored features (``FeatureSight``), features of a backbone of ours (``BackboneSight``), or the picture itself
(``PictureSight``) for eyes that are trained too (``open_eyes``).
"""

from __future__ import annotations

from petiole.engine.sight_backbone import BackboneSight, Prepared
from petiole.engine.sight_base import Remembered, Seen, Sight
from petiole.engine.sight_eyes import PictureSight, Trained, open_eyes
from petiole.engine.sight_features import FeatureSight

__all__ = [
    "BackboneSight",
    "FeatureSight",
    "PictureSight",
    "Prepared",
    "Remembered",
    "Seen",
    "Sight",
    "Trained",
    "open_eyes",
]
