"""The adapter of labelled images: class names, logits as golden values, and a part for the library peft.

peft/ holds the same without the head, where peft has a form for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from pydantic import ValidationError
from torch import Tensor

from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import IMAGES
from petiole.backbones.registry import load_backbone
from petiole.data.image import ImageRef
from petiole.data.image import load as load_image
from petiole.data.inputs import as_images
from petiole.data.preprocessing import evaluate_transform
from petiole.engine.adapted_model import evaluating
from petiole.engine.adapter import MANIFEST, Adapter, Manifest, building, check_fingerprint
from petiole.engine.feature_extractor import padded
from petiole.engine.model_card import FrozenModel, ModelCard, reason
from petiole.engine.task import register
from petiole.errors import AdapterError
from petiole.ledger import count, repeated
from petiole.methods.base import Method, Plan
from petiole.methods.registry import create
from petiole.methods.test_time.base import TestTimeMethod
from petiole.tasks.classification import peft_folder
from petiole.tasks.classification.calibration import Calibration, ClassificationDetails
from petiole.tasks.classification.model import AdaptedClassifier, Predictions, predict

PEFT = "peft"


@dataclass(frozen=True)
class Prediction:
    """The classes of one image, most probable first.

    Attributes:
        label: most probable class.
        probabilities: of all classes, most probable first; calibrated where the adapter is.
        outside: whether it looks out of distribution; ``None`` where the adapter cannot say.
    """

    path: Path
    label: str
    probability: float
    probabilities: dict[str, float]
    outside: bool | None = None


class ImageAdapter(Adapter):
    """A trained head, and what is attached, on an image backbone; subclasses say what its outputs mean.

    Attributes:
        details_model: the manifest's part of this kind of adapter.
    """

    options: ClassVar[frozenset[str]] = frozenset({"backbone", "weights", "device"})
    details_model: ClassVar[type[FrozenModel]]
    adapted: AdaptedClassifier

    @classmethod
    def open(
        cls,
        folder: Path,
        manifest: Manifest,
        *,
        backbone: Backbone | None = None,
        weights: str | Path | None = None,
        device: str = "cpu",
    ) -> Self:
        """See ``Adapter.load``."""
        card = manifest.backbone
        if backbone is None:
            backbone = load_backbone(
                card.name,
                weights=weights or card.weights,
                image_size=card.image_size,
                quantize=card.quantize,
                device=device,
            )
        _check_backbone(folder, card, backbone)
        with building(folder, manifest):
            method = create(manifest.method, manifest.settings)
            plan = cls.plan(method, backbone, len(manifest.classes), manifest.method)
            adapted = AdaptedClassifier(backbone, plan)
        adapted.name(manifest.classes)
        adapter = cls(manifest, adapted)
        adapter.read_details()  # damage is told when the file is opened
        adapter.fill(folder)
        adapted.to(backbone.device).eval()
        return adapter

    @classmethod
    def plan(cls, method: Method, backbone: Backbone, classes: int, name: str) -> Plan:  # noqa: ARG003 - of the method, for messages
        """What a method puts onto a backbone for so many outputs."""
        return method.plan(backbone, classes)

    @classmethod
    def describe(
        cls,
        adapted: AdaptedClassifier,
        details: FrozenModel,
        *,
        method: str,
        settings: dict[str, Any],
        classes: Sequence[str],
        weights: Path | None = None,
        image_size: int | None = None,
    ) -> Self:
        """Describe a trained model, with its golden outputs."""
        backbone = adapted.backbone
        place = str(weights) if weights else None
        known = {**settings, **adapted.plan.settled}
        manifest = Manifest(
            kind=cls.kind,
            method=method,
            settings=known,
            classes=list(classes),
            backbone=ModelCard.of(backbone, weights=place, image_size=image_size),
            ledger=repeated(count(backbone, adapted.plan), create(method, known)),
            details=details.model_dump(mode="json"),
            golden=golden_logits(adapted).tolist(),
        )
        return cls(manifest, adapted)

    def read_details(self) -> FrozenModel:
        """The manifest's part of this kind of adapter.

        Raises:
            AdapterError: it is damaged.
        """
        try:
            return self.details_model.model_validate(self.manifest.details)
        except ValidationError as error:
            raise AdapterError(
                f"The details in {MANIFEST} are damaged: {reason(error)}. Copy the adapter folder again, "
                "or update petiole."
            ) from error

    @property
    def frozen(self) -> dict[str, Any]:
        return {"backbone": self.adapted.backbone}

    def golden_values(self) -> Tensor:
        return golden_logits(self.adapted)


@register("classification")
class ClassificationAdapter(ImageAdapter):
    """A trained classifier on its backbone."""

    kind: ClassVar[str] = "classification"
    details_model = ClassificationDetails

    @classmethod
    def of(
        cls, adapted: AdaptedClassifier, *, calibration: Calibration | None = None, **described: Any
    ) -> Self:
        """Describe a trained model as ``ImageAdapter.describe`` does, with its calibration, where it has one."""
        return cls.describe(adapted, ClassificationDetails(calibration=calibration), **described)

    @property
    def calibration(self) -> Calibration | None:
        """What it knows of its own errors, if anything."""
        return self.details.calibration

    def probabilities(self, logits: Tensor) -> Tensor:
        """Class probabilities (n, K) of logits, calibrated where the adapter is."""
        return self.calibration.probabilities(logits) if self.calibration else logits.softmax(-1)

    def familiarity(self, outputs: Predictions) -> NDArray[np.float32]:
        """How like the training images each image looks (n,); without a calibration, its largest logit."""
        vectors, logits = outputs
        known = self.calibration
        found = known.familiarity(logits, vectors)[0] if known else logits.amax(-1)
        return found.numpy()

    @cached_property
    def details(self) -> ClassificationDetails:
        """The manifest's part of this kind of adapter."""
        return cast(ClassificationDetails, self.read_details())

    def save(self, folder: Path) -> None:
        peft_folder.write(self.adapted, folder / PEFT)
        super().save(folder)

    def predict(self, images: object, batch: int = 64) -> list[Prediction]:
        """Label images; see ``label``."""
        return label(self.adapted, self.classes, images, batch, self.calibration)

    def predict_adapted(self, images: object, method: TestTimeMethod) -> list[Prediction]:
        """Label images, each after the adapter was adapted to it; the adapter stays as it is.

        Raises:
            ConfigError: the method does not fit this adapter.
            DataError: an image cannot be read; the message names it.
        """
        from petiole.tasks.classification.test_time import adapted_outputs

        refs = as_images(images)
        outputs = adapted_outputs(self.adapted, refs, method)
        return predictions_of([r.path for r in refs], outputs, self.classes, self.calibration)


def label(
    adapted: AdaptedClassifier,
    classes: Sequence[str],
    images: object,
    batch: int = 64,
    calibration: Calibration | None = None,
) -> list[Prediction]:
    """Label images, in any form that ``petiole.data.inputs.as_images`` takes.

    Raises:
        DataError: an image cannot be read; the message names it.
    """
    refs = as_images(images)
    outputs = outputs_of(adapted, refs, batch)
    return predictions_of([ref.path for ref in refs], outputs, classes, calibration)


def predictions_of(
    paths: Sequence[Path],
    outputs: Predictions,
    classes: Sequence[str],
    calibration: Calibration | None = None,
) -> list[Prediction]:
    """What vectors and logits say of n images."""
    vectors, logits = outputs
    probabilities = calibration.probabilities(logits) if calibration else logits.softmax(-1)
    outside = calibration.outside(logits, vectors) if calibration else [None] * len(logits)
    return [
        _prediction(path, p, classes, odd)
        for path, p, odd in zip(paths, probabilities, outside, strict=True)
    ]


def outputs_of(
    adapted: AdaptedClassifier,
    refs: Sequence[ImageRef],
    batch: int = 64,
    change: Callable[[Image], Image] = lambda image: image,
) -> Predictions:
    """Vectors (n, d) and logits (n, K) of images, each of which ``change`` may alter before it is resized.

    Raises:
        DataError: an image cannot be read; the message names it.
    """
    backbone = adapted.backbone
    transform = evaluate_transform(backbone.preprocessing)
    parts: list[Predictions] = []
    for start in range(0, len(refs), batch):
        with ThreadPoolExecutor() as pool:
            read = pool.map(lambda r: transform(change(load_image(r))), refs[start : start + batch])
            tensor = torch.stack(list(read)).to(backbone.device)
        # One image alone is answered at its own cost; several, so that none changes with the others.
        for chunk, own in padded(tensor) if len(refs) > 1 else [(tensor, 1)]:
            found = predict(adapted, [backbone.lower(chunk, adapted.cut)])
            parts.append(Predictions(*(value[:own] for value in found)))
    if not parts:
        return Predictions(torch.zeros(0, 1), torch.zeros(0, 1))
    return Predictions(*(torch.cat(values) for values in zip(*parts, strict=True)))


def logits_of(
    adapted: AdaptedClassifier,
    refs: Sequence[ImageRef],
    batch: int = 64,
    change: Callable[[Image], Image] = lambda image: image,
) -> Tensor:
    """Of ``outputs_of`` the logits alone."""
    return outputs_of(adapted, refs, batch, change).logits


def golden_image(backbone: Backbone) -> NDArray[np.float32]:
    """Standard-normal pixels (1, 3, H, W) drawn by numpy's PCG64 from seed 0."""
    noise = np.random.default_rng(0).standard_normal((1, 3, *backbone.preprocessing.size))
    return noise.astype(np.float32)


def golden_logits(adapted: AdaptedClassifier) -> Tensor:
    """Logits (K,) of ``golden_image``; where it has several sets of them, one behind the other."""
    image = torch.from_numpy(golden_image(adapted.backbone)).to(adapted.backbone.device)
    with evaluating(adapted):
        logits: Tensor = adapted({IMAGES: image}).logits[0].flatten().float().cpu()
    return logits


def _check_backbone(folder: Path, card: ModelCard, backbone: Backbone) -> None:
    check_fingerprint(folder, card, backbone)
    if backbone.preprocessing != card.preprocessing:
        raise AdapterError(
            f"{folder} was trained with preprocessing {card.preprocessing}, but the backbone now "
            f"states {backbone.preprocessing}. Use the image size that it was trained with."
        )


def _prediction(
    path: Path, probabilities: Tensor, classes: Sequence[str], outside: bool | None
) -> Prediction:
    order = probabilities.argsort(descending=True).tolist()
    table = {classes[i]: float(probabilities[i]) for i in order}
    best = order[0]
    return Prediction(path, classes[best], float(probabilities[best]), table, outside)
