"""Many adapters over one session of ONNX Runtime: switched from call to call, mixed in one batch by turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from petiole.backbones.base import Backbone
from petiole.data.preprocessing import Preprocessing
from petiole.engine.model_card import FrozenModel, read_kept
from petiole.errors import AdapterError, ConfigError, boundary, unknown
from petiole.files import sha256, write_sealed
from petiole.serving.onnx_adapter import PoolEntry, write_adapter
from petiole.serving.onnx_backbone import write_backbone
from petiole.serving.pool import PoolPrediction
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.export.session import OnnxSession, onnxruntime
from petiole.tasks.classification.model import ClassifierOutput

GRAPH, ABOUT = "backbone.onnx", "backbone.json"
AGAIN = "Write it again from the adapter folder."


class PoolBackbone(FrozenModel):
    """backbone.json.

    Attributes:
        name, fingerprint: of the frozen model.
        preprocessing: what it expects of its pixels.
        graph_sha256: of backbone.onnx.
    """

    format: Literal[1] = 1
    name: str
    fingerprint: str
    preprocessing: Preprocessing
    graph_sha256: str


@dataclass(frozen=True)
class _Member:
    entry: PoolEntry
    weights: Any
    head: OnnxSession | None


class OnnxPool:
    """Adapters over one ONNX backbone; the face of ``petiole.AdapterPool``, without torch in the forward pass.

    A call names one adapter, and each gets a run of the graph with that adapter's inputs alone: ONNX Runtime would take two at once
    without a word. Threads may share a pool.

        OnnxPool.create(petiole.load("petiole/tiny-vit"), "pool")
        pool = OnnxPool("pool")
        pool.add("birds", petiole.Adapter.load("runs/birds"))
        pool(pixels, "birds").logits

    Args:
        folder: that ``create`` wrote.
        threads: that compute one call; 0 leaves it to ONNX Runtime.

    Raises:
        RunError: the folder is incomplete or damaged.
        AdapterError: ONNX Runtime cannot open the graph.
    """

    def __init__(self, folder: str | Path, *, threads: int = 0) -> None:
        self.folder = Path(folder)
        if not (self.folder / ABOUT).is_file():
            raise AdapterError(f"{self.folder} is no pool. Write one by OnnxPool.create.")
        with boundary(self.folder / ABOUT, AGAIN, AdapterError):
            self.about = read_kept(self.folder / ABOUT, PoolBackbone, AGAIN)
        _check_digest(self.folder / GRAPH, self.about.graph_sha256)
        self._session = OnnxSession(self.folder / GRAPH, threads=threads).session
        self._members: dict[str, _Member] = {}

    @classmethod
    def create(cls, backbone: Backbone, folder: str | Path, *, threads: int = 0) -> OnnxPool:
        """Write a backbone with empty slots into a new folder, and open it.

        Raises:
            ConfigError: there is one already, or ONNX Runtime is not installed.
        """
        place = Path(folder)
        onnxruntime()
        if (place / GRAPH).exists():
            raise ConfigError(
                f"{place / GRAPH} exists already. Open it by OnnxPool({str(folder)!r})."
            )
        place.mkdir(parents=True, exist_ok=True)
        write_backbone(backbone, place / GRAPH)
        about = PoolBackbone(
            name=backbone.name,
            fingerprint=backbone.fingerprint,
            preprocessing=backbone.preprocessing,
            graph_sha256=sha256(place / GRAPH),
        )
        write_sealed(place / ABOUT, about.model_dump(mode="json"))
        return cls(place, threads=threads)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the adapters, in the order in which they came."""
        return tuple(self._members)

    def classes(self, name: str) -> tuple[str, ...]:
        """Class names of an adapter, in the order of its logits."""
        return tuple(self._member(name).entry.classes)

    def add(self, name: str, adapter: ClassificationAdapter | str | Path) -> None:
        """Take an adapter in.

        Args:
            name: what calls name it by.
            adapter: opened, whose files are then written into this folder; or the NAME.json of files written before.

        Raises:
            AdapterError: the name is taken, the files are damaged, or it is for another backbone or fits no slot.
        """
        if name in self._members:
            raise AdapterError(f"This pool has an adapter {name!r} already. Remove it first.")
        if isinstance(adapter, ClassificationAdapter):
            self._check_backbone(name, adapter.adapted.backbone.fingerprint)
            adapter = write_adapter(adapter, self.folder / "adapters", name)
        self._members[name] = self._opened(name, Path(adapter))

    def remove(self, name: str) -> None:
        """Let an adapter go; its files stay.

        Raises:
            AdapterError: no such name; the nearest are listed.
        """
        self._member(name)
        del self._members[name]

    def __call__(self, pixels: Tensor, name: str | None) -> ClassifierOutput:
        """Run one adapter on a batch; ``None`` gives the bare vector, and no logits.

        Args:
            pixels: (B, 3, H, W), preprocessed.
            name: of the adapter.

        Raises:
            AdapterError: no such name.
        """
        member = None if name is None else self._member(name)
        options = onnxruntime().RunOptions()
        if member:
            options.add_active_adapter(member.weights)
        given = {"pixels": pixels.numpy()}
        logits, vector = self._session.run(["logits", "vector"], given, options)
        if member is None:
            logits = logits[:, :0]
        elif member.head:
            logits = member.head.predict(vector)
        return ClassifierOutput(torch.from_numpy(vector), torch.from_numpy(logits))

    def mixed(self, pixels: Tensor, names: Sequence[str | None]) -> list[PoolPrediction]:
        """Run a batch in which every image names its adapter: one run for each of them.

        Raises:
            AdapterError: no such name.
            ConfigError: not one name an image.
        """
        if len(pixels) != len(names):
            raise ConfigError(f"{len(pixels)} images need as many names, not {len(names)}.")
        answers: dict[int, PoolPrediction] = {}
        for name in dict.fromkeys(names):
            rows = [i for i, other in enumerate(names) if other == name]
            classes = () if name is None else self.classes(name)
            vectors, logits = self(pixels[rows], name)
            for row, vector, scores in zip(rows, vectors, logits, strict=True):
                answers[row] = PoolPrediction(name, vector, scores, classes)
        return [answers[i] for i in range(len(names))]

    def _member(self, name: str) -> _Member:
        if not isinstance(name, str):
            raise AdapterError(f"A call runs one adapter, named by a string, not {name!r}.")
        if name not in self._members:
            raise unknown("adapter of this pool", name, self._members, AdapterError)
        return self._members[name]

    def _opened(self, name: str, file: Path) -> _Member:
        with boundary(file, AGAIN, AdapterError):
            entry = read_kept(file, PoolEntry, AGAIN)
        self._check_backbone(name, entry.fingerprint)
        for other, digest in entry.files.items():
            _check_digest(file.parent / other, digest)
        weights = onnxruntime().LoraAdapter()
        parts = {Path(other).suffix: file.parent / other for other in entry.files}
        with boundary(file, AGAIN, AdapterError):
            weights.Load(str(parts[".onnx_adapter"]))
        head = OnnxSession(parts[".onnx"], threads=1) if ".onnx" in parts else None
        return _Member(entry, weights, head)

    def _check_backbone(self, name: str, fingerprint: str) -> None:
        if fingerprint != self.about.fingerprint:
            raise AdapterError(
                f"Adapter {name!r} belongs to a backbone with fingerprint {fingerprint[:12]}, but this pool serves "
                f"{self.about.name} with {self.about.fingerprint[:12]}. Put it into a pool of its own."
            )


def _check_digest(file: Path, digest: str) -> None:
    if not file.is_file() or sha256(file) != digest:
        raise AdapterError(f"{file} is missing or damaged (checksum differs). {AGAIN}")
