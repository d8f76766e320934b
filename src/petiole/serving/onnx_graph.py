"""The graph of one adapter in the inference process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from petiole.engine.adapter import TOLERANCE
from petiole.engine.model_card import read_kept
from petiole.errors import AdapterError, boundary
from petiole.files import sha256
from petiole.tasks.classification.export.folder import GOLDEN, MANIFEST, ExportManifest
from petiole.tasks.classification.export.onnx import FILE
from petiole.tasks.classification.export.session import OnnxSession

AGAIN = "Delete it, and it is exported again."


def open_graph(place: Path, *, threads: int) -> OnnxSession:
    """A session over what ``petiole export`` wrote, after its digests and its golden input were checked.

    Raises:
        AdapterError: it is damaged, or says something else on this machine.
        ConfigError: ONNX Runtime is not installed.
    """
    with boundary(place / MANIFEST, AGAIN, AdapterError):
        about = read_kept(place / MANIFEST, ExportManifest, AGAIN)
    for name, digest in about.files.items():
        if not (place / name).is_file() or sha256(place / name) != digest:
            raise AdapterError(f"{place / name} is missing or damaged (checksum differs). {AGAIN}")
    session = OnnxSession(place / FILE, threads=threads)
    with boundary(place / GOLDEN, AGAIN, AdapterError), np.load(place / GOLDEN) as golden:
        pixels, logits = golden["pixels"], golden["logits"]
    difference: Any = np.abs(session.predict(pixels) - logits).max() / (1 + np.abs(logits).max())
    if not difference <= TOLERANCE:
        raise AdapterError(
            f"{place} gives other logits on this machine ({difference:.2g}, relative). {AGAIN}"
        )
    return session
