"""What a format of export is, and where formats register.

Another format is one new file beside this one, or a distribution with an entry point of the group ``petiole.export_formats``:

    @FORMATS.register("tflite", "a model for phones")
    @dataclass(frozen=True)
    class TFLite(Format): ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from petiole.errors import ConfigError
from petiole.registry import Registry
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.model import Predictions

Run = Callable[[Tensor], Predictions]
"""Pixels (B, 3, H, W) in fp32, or raw images (B, height, width, 3) in uint8 -> vectors (B, d) and logits (B, K)."""


@dataclass(frozen=True)
class Format(ABC):
    """One format of export; its fields are its options.

    Attributes:
        needs: what must be installed to use what it writes, beside numpy and pillow.
        writes_with: what else must be installed to write it.
        opening: Python for the usage script, which defines ``outputs(pixels)``: (n, 3, H, W) in fp32 -> logits (n, K) and
            vectors (n, d), as numpy arrays. ``HERE`` is the folder. Without it there is no script.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    writes_with: ClassVar[tuple[str, ...]] = ()
    opening: ClassVar[str] = ""

    def check(self) -> None:
        """Raise ConfigError where a library that it needs is missing."""
        missing = [name for name in (*self.needs, *self.writes_with) if find_spec(name) is None]
        if missing:
            raise ConfigError(
                f"This format needs {', '.join(missing)}. Install: pip install {' '.join(missing)}"
            )

    @property
    def raw(self) -> bool:
        """Whether it takes raw images instead of preprocessed pixels."""
        return False

    @property
    def approximate(self) -> str:
        """Why its logits are not the adapter's up to rounding; empty where they are."""
        return ""

    @abstractmethod
    def write(self, adapter: ClassificationAdapter, folder: Path) -> None:
        """Write the model into an empty folder.

        Raises:
            AdapterError: this adapter has no such form; the message says why.
        """

    @abstractmethod
    def open(self, folder: Path, adapter: ClassificationAdapter) -> Run:
        """The model from what ``write`` wrote.

        Args:
            folder: that was written to.
            adapter: for formats that state weights and no architecture; no others look at it.
        """


FORMATS = Registry[type[Format]](
    "format of export",
    "petiole.tasks.classification.export",
    "FORMATS.register",
    "petiole.export_formats",
    described=True,
)
