"""The adapter file: a small folder with everything trained, that proves its fit when it is opened.

    adapter.json          method and settings, class names, backbone and its fingerprint,
                          preprocessing, ledger, the golden logits
    adapter.safetensors   everything trained that prediction needs
    peft/                 the same without the head for the library peft, where it has a form for it

Opening compares the backbone's fingerprint and replays the golden input: an adapter on the wrong
weights is refused, not used. Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from petiole.backbones.base import IMAGES, Backbone
from petiole.backbones.registry import load_backbone
from petiole.data.image import read_image
from petiole.data.preprocessing import Preprocessing, evaluate_transform
from petiole.errors import AdapterError, ConfigError
from petiole.files import sha256, write_json, write_tensors
from petiole.ledger import Ledger, count
from petiole.methods.base import Plan
from petiole.methods.registry import create
from petiole.tasks.classification import peft_folder
from petiole.tasks.classification.model import AdaptedClassifier, predict
from petiole.version import __version__

MANIFEST, TENSORS, PEFT = "adapter.json", "adapter.safetensors", "peft"
TOLERANCE = 1e-3
"""Largest difference of a golden logit, relative to 1 + |logit|: far above rounding, far below use."""


class BackboneCard(BaseModel):
    """What is needed to find the backbone again and to know that it is the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    weights: str | None = None
    image_size: int | None = None
    fingerprint: str
    preprocessing: Preprocessing


class Golden(BaseModel):
    """A fixed random input, named by its seed, and the logits that it must give."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    logits: list[float]


class Manifest(BaseModel):
    """The JSON part of an adapter file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    petiole: str
    method: str
    settings: dict[str, Any]
    classes: list[str]
    backbone: BackboneCard
    ledger: Ledger
    golden: Golden
    tensors_sha256: str


@dataclass(frozen=True)
class Prediction:
    """The classes of one image, most probable first."""

    path: Path
    label: str
    probability: float
    probabilities: dict[str, float]


class Adapter:
    """A trained adapter on its backbone.

    Attributes:
        manifest: what the file says.
        adapted: the model that it makes of the backbone.
    """

    def __init__(self, manifest: Manifest, adapted: AdaptedClassifier) -> None:
        self.manifest, self.adapted = manifest, adapted

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the logits."""
        return self.manifest.classes

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        backbone: Backbone | None = None,
        weights: str | Path | None = None,
        device: str = "cpu",
    ) -> Self:
        """Open an adapter file, or the one inside a run folder.

        Args:
            path: folder with adapter.json, or a run folder.
            backbone: an already loaded one, to share it.
            weights: where the backbone's weights lie now, if they were moved.
            device: for the backbone, where it is loaded here.

        Raises:
            AdapterError: missing, damaged, incomplete, or made for other weights.
        """
        folder = find(Path(path))
        manifest = read_manifest(folder)
        card = manifest.backbone
        if backbone is None:
            file = weights or card.weights
            backbone = load_backbone(
                card.name, weights=file, image_size=card.image_size, device=device
            )
        _same_backbone(folder, card, backbone)
        adapted = AdaptedClassifier(backbone, _plan(folder, manifest, backbone))
        adapted.name(manifest.classes)
        fill(folder, manifest.tensors_sha256, adapted)
        adapted.to(next(backbone.module.parameters()).device).eval()
        adapter = cls(manifest, adapted)
        adapter.replay(folder)
        return adapter

    def save(self, folder: Path) -> None:
        """Write the file; the manifest comes last, so a folder with one is complete."""
        write_tensors(folder / TENSORS, self.adapted.state_dict())
        peft_folder.write(self.adapted, folder / PEFT)
        digest = sha256(folder / TENSORS)
        self.manifest = self.manifest.model_copy(update={"tensors_sha256": digest})
        write_json(folder / MANIFEST, self.manifest.model_dump(mode="json"))

    def replay(self, folder: Path) -> None:
        """Raise AdapterError unless the golden input gives the golden logits."""
        got = golden_logits(self.adapted, self.manifest.golden.seed)
        want = torch.tensor(self.manifest.golden.logits)
        same = got.shape == want.shape
        worst = float(((got - want).abs() / (1 + want.abs())).max()) if same else float("inf")
        if not worst <= TOLERANCE:
            raise AdapterError(
                f"{folder}: the golden input gives logits that differ by {worst:.2g} (relative; "
                f"allowed {TOLERANCE:g}), so predictions would not be those of the training. The "
                "backbone, its library or the arithmetic differs: train again on this one."
            )

    def predict(self, images: Sequence[str | Path], batch: int = 64) -> list[Prediction]:
        """Label image files.

        Raises:
            DataError: an image cannot be read; the message names it.
        """
        paths = [Path(image) for image in images]
        transform = evaluate_transform(self.adapted.backbone.preprocessing)
        device = next(self.adapted.backbone.module.parameters()).device
        rows = []
        for start in range(0, len(paths), batch):
            with ThreadPoolExecutor() as pool:
                read = pool.map(lambda p: transform(read_image(p)), paths[start : start + batch])
                tensor = torch.stack(list(read)).to(device)
            rows.append(predict(self.adapted, [self._lower(tensor)]).logits)
        return [
            _prediction(path, p, self.classes)
            for path, p in zip(paths, torch.cat(rows) if rows else [], strict=True)
        ]

    def _lower(self, images: Tensor) -> dict[str, Tensor]:
        return self.adapted.backbone.lower(images, self.adapted.cut)


def create_adapter(
    adapted: AdaptedClassifier,
    *,
    method: str,
    settings: dict[str, Any],
    classes: Sequence[str],
    weights: Path | None,
    image_size: int | None,
) -> Adapter:
    """Describe a trained model as an adapter, with its golden logits."""
    backbone = adapted.backbone
    card = BackboneCard(
        name=backbone.name,
        weights=str(weights) if weights else None,
        image_size=image_size,
        fingerprint=backbone.fingerprint,
        preprocessing=backbone.preprocessing,
    )
    golden = Golden(seed=0, logits=golden_logits(adapted, 0).tolist())
    manifest = Manifest(
        petiole=__version__,
        method=method,
        settings=settings,
        classes=list(classes),
        backbone=card,
        ledger=count(backbone, adapted.plan),
        golden=golden,
        tensors_sha256="",
    )
    return Adapter(manifest, adapted)


@torch.no_grad()
def golden_logits(adapted: AdaptedClassifier, seed: int) -> Tensor:
    """Logits (K,) of a standard-normal image drawn by numpy's PCG64 from ``seed``."""
    backbone = adapted.backbone
    device = next(backbone.module.parameters()).device
    noise = np.random.default_rng(seed).standard_normal((1, 3, *backbone.preprocessing.size))
    image = torch.from_numpy(noise.astype(np.float32)).to(device)
    training = adapted.training
    adapted.eval()
    logits: Tensor = adapted({IMAGES: image}).logits[0].float().cpu()
    adapted.train(training)
    return logits


def find(path: Path) -> Path:
    """Return the folder that holds adapter.json: ``path`` itself or ``path/adapter``."""
    for folder in (path, path / "adapter"):
        if (folder / MANIFEST).is_file():
            return folder
    raise AdapterError(
        f"No adapter at {path}: neither {path / MANIFEST} nor {path / 'adapter' / MANIFEST} exists. "
        "Give the folder that petiole fit wrote."
    )


def read_manifest(folder: Path) -> Manifest:
    """Read and check adapter.json.

    Raises:
        AdapterError: damaged, or written by a newer petiole.
    """
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
        if '"kind": "language"' in text:
            raise AdapterError(f"{folder} holds an adapter for a language model. Use petiole ask.")
        return Manifest.model_validate_json(text)
    except (ValidationError, UnicodeDecodeError) as error:
        raise AdapterError(
            f"{folder / MANIFEST} is damaged or of another version: {str(error).splitlines()[0]}. "
            "Copy the adapter folder again, or update petiole."
        ) from error


def _plan(folder: Path, manifest: Manifest, backbone: Backbone) -> Plan:
    try:
        with torch.random.fork_rng():
            method = create(manifest.method, manifest.settings)
            return method.plan(backbone, len(manifest.classes))
    except ConfigError as error:
        raise AdapterError(
            f"{folder / MANIFEST} asks for what this petiole ({__version__}; the file is from "
            f"{manifest.petiole}) cannot build: {error}"
        ) from error


def fill(folder: Path, digest: str, module: nn.Module) -> None:
    """Load the tensors of an adapter file into what they were saved from.

    Raises:
        AdapterError: missing, not those of the manifest, or not fitting.
    """
    file = folder / TENSORS
    if not file.is_file() or sha256(file) != digest:
        raise AdapterError(
            f"{file} is missing or not the one that {MANIFEST} describes (checksum differs). "
            "Copy the adapter folder again, whole."
        )
    try:
        module.load_state_dict(load_file(file), strict=True)
    except (RuntimeError, SafetensorError, KeyError) as error:
        raise AdapterError(
            f"{file} does not fit its own {MANIFEST}: {error}. Copy the adapter folder again, whole."
        ) from error


def _same_backbone(folder: Path, card: BackboneCard, backbone: Backbone) -> None:
    if backbone.fingerprint != card.fingerprint:
        raise AdapterError(
            f"{folder} was trained on {card.name} with fingerprint {card.fingerprint[:12]}, but "
            f"{backbone.name} has {backbone.fingerprint[:12]}. Load the original weights (--weights) "
            "or train a new adapter."
        )
    if backbone.preprocessing != card.preprocessing:
        raise AdapterError(
            f"{folder} was trained with preprocessing {card.preprocessing}, but the backbone now "
            f"states {backbone.preprocessing}. Use the image size that it was trained with."
        )


def _prediction(path: Path, probabilities: Tensor, classes: Sequence[str]) -> Prediction:
    order = probabilities.argsort(descending=True).tolist()
    table = {classes[i]: float(probabilities[i]) for i in order}
    best = order[0]
    return Prediction(path, classes[best], float(probabilities[best]), table)
