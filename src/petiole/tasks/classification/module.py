"""``petiole.adapt``: a backbone with one method on it, as a module for one's own loop.

model = petiole.adapt(petiole.load("petiole/tiny-vit"), "adaptertune", classes=["cat", "dog"], rank=16)
logits = model(images)                      # (B, K)
optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=1e-3)
model.save("adapters/pets"); model = petiole.load_adapter("adapters/pets")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import IMAGES, FrozenNetwork
from petiole.backbones.image_errors import expecting_images
from petiole.data.inputs import as_dataset
from petiole.errors import AdapterError, ConfigError
from petiole.layers.solved import SolvedHead
from petiole.methods.registry import create, settings_of
from petiole.printable import composed
from petiole.tasks.classification.adapter import ClassificationAdapter, Prediction, label
from petiole.tasks.classification.calibration import Calibration
from petiole.tasks.classification.model import AdaptedClassifier

if TYPE_CHECKING:
    from petiole.tasks.classification.export.folder import ExportManifest


class AdaptedBackbone(nn.Module):
    """Preprocessed images (B, 3, H, W) -> logits (B, K).

    Its parameters and its ``state_dict`` are the adapter's alone: the backbone stays frozen, in evaluation mode, and is
    not saved. Moving the module to a device or dtype moves the backbone along.

    Attributes:
        adapted: the model underneath.
        classes: names in the order of the logits.
        calibration: of an adapter that was opened; training the module drops it, because it no longer holds.
    """

    calibration: Calibration | None = None

    def __init__(
        self,
        adapted: AdaptedClassifier,
        method: str,
        settings: dict[str, Any],
        classes: Sequence[str],
    ) -> None:
        super().__init__()
        self.adapted, self.method, self.settings = adapted, method, settings
        self.classes = tuple(classes)

    @property
    def backbone(self) -> Backbone:
        """The frozen model underneath."""
        return self.adapted.backbone

    def preprocess(self, image: Any) -> Tensor:
        """A PIL image as the backbone's weights want it, (3, H, W)."""
        return self.backbone.preprocess(image)

    def forward(self, images: Tensor) -> Tensor:
        """Preprocessed images (B, 3, H, W) -> logits (B, K).

        Raises:
            BackboneError: images of another shape, type or device.
        """
        with expecting_images(self.backbone, images):
            logits: Tensor = self.adapted({IMAGES: images}).logits
        return logits

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """What an optimizer gets."""
        return (p for p in self.parameters() if p.requires_grad)

    def save(self, folder: str | Path) -> Path:
        """Write the adapter file, which ``petiole.load_adapter`` and every command open; returns its folder."""
        place = Path(folder)
        self._adapter().save(place)
        return place

    def export(
        self, folder: str | Path, format: str = "onnx", *, data: object = None, **options: Any
    ) -> ExportManifest:
        """Write the model in a format that needs no Petiole; see ``petiole.export``.

        Args:
            folder: that does not exist yet.
            format: onnx, torch-export, safetensors-merged, timm, hf, or a plug-in's.
            data: labelled images to compare on as well, in any form that ``petiole.data.inputs.as_dataset`` takes.
            options: of the format.

        Raises:
            AdapterError: this model has no such form, or what was written says something else.
            ConfigError: an unknown format or option, a missing library, or ``folder`` exists.
        """
        from petiole.tasks.classification.export.folder import export

        images = None if data is None else as_dataset(data, classes=self.classes)
        return export(self._adapter(), Path(folder), format, options, images)

    def _adapter(self) -> ClassificationAdapter:
        return ClassificationAdapter.of(
            self.adapted,
            method=self.method,
            settings=self.settings,
            classes=self.classes,
            calibration=self.calibration,
        )

    def predict(self, images: object) -> list[Prediction]:
        """Labels of images in any form that ``petiole.data.inputs.as_images`` takes."""
        return label(self.adapted, self.classes, images, calibration=self.calibration)

    def train(self, mode: bool = True) -> Self:
        if mode:
            self.calibration = None
        return super().train(mode)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.backbone.module._apply(fn)  # type: ignore[no-untyped-call]
        return self


def adapt(
    backbone: FrozenNetwork, method: str, *, classes: int | Sequence[str], **settings: Any
) -> AdaptedBackbone:
    """Put a method onto a backbone.

    Args:
        backbone: of images; it stays as it is, and the adapter takes its dtype.
        method: registered name; see ``petiole inspect methods``.
        classes: names, or how many.
        settings: fields of the method that differ from its defaults.

    Raises:
        ConfigError: an unknown method or setting, one that the backbone lacks a role for, fewer than one class, or a
            head that is solved and not trained (kNN, ridge, ...; ``petiole.fit`` trains those).
    """
    if not isinstance(backbone, Backbone):
        raise ConfigError(
            f"petiole.adapt takes a backbone of images, not {type(backbone).__name__}. Load one by petiole.load, or train "
            "language models by petiole.fit."
        )
    names = _names(classes)
    chosen = create(method, settings)
    plan = chosen.plan(backbone, len(names))
    if isinstance(plan.head, SolvedHead):
        raise ConfigError(
            f"The head of {method} is solved, not trained by gradient. Use petiole.fit, or a method with a trained head."
        )
    adapted = AdaptedClassifier(backbone, plan).to(backbone.device, backbone.dtype)
    adapted.name(names)
    return AdaptedBackbone(adapted, method, settings_of(chosen), names)


def _names(classes: int | Sequence[str]) -> tuple[str, ...]:
    if isinstance(classes, Integral) and not isinstance(classes, bool):
        names = tuple(map(str, range(int(classes))))
    elif isinstance(classes, Iterable) and not isinstance(classes, str):
        given = tuple(classes)
        words = all(isinstance(name, str) and name.strip() for name in given)
        names = tuple(map(composed, given)) if words else ()
    else:
        names = ()
    if not names or len(set(names)) < len(names):
        raise ConfigError(
            f"classes must be how many, or a list of at least one name, each once, not {classes!r}."
        )
    return names


def load_adapter(path: str | Path, **options: Any) -> AdaptedBackbone:
    """Open an adapter of images as a module; others are opened by ``petiole.Adapter.load``.

    Args:
        path: adapter folder, the run folder around it, or ``hf:OWNER/NAME@REVISION`` on the Hugging Face Hub.
        options: ``backbone``, ``weights``, ``device``; see ``petiole.Adapter.load``.

    Raises:
        AdapterError: missing, damaged, of another kind, or made for other weights.
    """
    opened = ClassificationAdapter.load(path, **options)
    manifest = opened.manifest
    if not isinstance(opened.adapted, AdaptedClassifier):  # a kind of another package
        raise AdapterError(f"{path} holds no classifier of images.")
    model = AdaptedBackbone(opened.adapted, manifest.method, manifest.settings, manifest.classes)
    model.calibration = opened.calibration
    return model.eval()
