"""What a language model is shown of an image.

Stored features (``StoredVisuals``), features of a backbone of ours (``BackboneVisuals``), or the picture itself
(``PixelSource``) for a vision encoder that is trained too (``open_vision_tower``).
"""

from __future__ import annotations

from petiole.tasks.text.vision_tower import PixelSource, Trained, open_vision_tower
from petiole.tasks.text.visual_backbone import BackboneVisuals, Prepared
from petiole.tasks.text.visual_base import InMemoryVisuals, VisualFeatures, VisualSource
from petiole.tasks.text.visual_stored import StoredVisuals

__all__ = [
    "BackboneVisuals",
    "InMemoryVisuals",
    "PixelSource",
    "Prepared",
    "StoredVisuals",
    "Trained",
    "VisualFeatures",
    "VisualSource",
    "open_vision_tower",
]
