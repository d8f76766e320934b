"""What another place is told to compute of images, and what it says became of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from petiole.backbones.base import State
from petiole.data.preprocessing import Preprocessing
from petiole.engine.feature_store import Key


@dataclass(frozen=True)
class FeatureJob:
    """What is computed of images; plain, so that it can be sent to another process.

    Attributes:
        key: under which it is stored.
        preprocessing: of the network.
        cache: folder of the feature cache.
        device: that the network is opened on.
        thumbnails: keep what the leak check sees of the images, too.
        open: gives, in a worker, transformed images (n, 3, H, W) -> values by role, one row each.
    """

    key: Key
    preprocessing: Preprocessing
    cache: Path
    device: str
    open: Callable[[], Callable[[Tensor], State]]
    thumbnails: bool = False


@dataclass
class FeatureReport:
    """What became of the images.

    Attributes:
        ids: image -> SHA-256 (hex) of its bytes; of those in a packed file the path is the file's, and the name in it.
        bad: image that cannot be read -> what is wrong with it.
        computed: how many were not stored before.
    """

    ids: dict[Path, str] = field(default_factory=dict)
    bad: dict[Path, str] = field(default_factory=dict)
    computed: int = 0
