"""The adapter of a tuned encoder: what was trained, the codebook's contract, and how often each code occurs.

It opens before every language model with the same codebook, and before no other. Where the method changed a language
model or its projector too, it opens before that model alone. Its golden values are first numbers of z of a fixed input.
The tensors hold, beside what was trained, frequencies of codes (D, K) in the domain, by the tuned encoder and by the old one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from petiole.backbones.codebook_lvlm import LVLM, CodebookSpec
from petiole.backbones.codebook_lvlm.loading import load_lvlm
from petiole.engine.adapted_model import evaluating
from petiole.engine.adapter import Adapter, Manifest, building
from petiole.engine.model_card import FrozenModel, ModelCard
from petiole.engine.task import register
from petiole.errors import AdapterError, BackboneError, ConfigError
from petiole.ledger import Ledger, count
from petiole.methods.base import Changes, Plan
from petiole.methods.codebook.base import CodebookMethod
from petiole.methods.registry import create
from petiole.methods.registry import find as registered
from petiole.tasks.codebook.model import AdaptedCodebookModel

GOLDEN = 64
"""Numbers of the golden tokens that are kept."""


class Frequencies(nn.Module):
    """How often each code occurs in the images of the domain, (D, K) each, add-one smoothed.

    Attributes:
        tuned: by the tuned encoder; what pruning calls rare.
        original: by the encoder as it was; what routing knows the domain by.
    """

    tuned: Tensor
    original: Tensor

    def __init__(self, tuned: Tensor, original: Tensor) -> None:
        super().__init__()
        self.register_buffer("tuned", tuned)
        self.register_buffer("original", original)


class CodebookDetails(FrozenModel):
    """What a manifest says of this kind.

    Attributes:
        codebook: the contract.
        encoder: fingerprint of the encoder that the changes are for.
        whole: all of the encoder's parameters are in the file, so that ``encoder`` need not be there.
        language: the projector or the language model was changed too.
    """

    codebook: CodebookSpec
    encoder: str
    whole: bool
    language: bool


@register("codebook")
class CodebookAdapter(Adapter):
    """A tuned encoder before a language model, and what its file says."""

    kind: ClassVar[str] = "codebook"
    options: ClassVar[frozenset[str]] = frozenset({"backbone", "device"})
    adapted: AdaptedCodebookModel

    def __init__(
        self, manifest: Manifest, adapted: AdaptedCodebookModel, frequencies: Frequencies
    ) -> None:
        super().__init__(manifest, adapted)
        self.frequencies = frequencies

    @property
    def details(self) -> CodebookDetails:
        """See ``CodebookDetails``."""
        return CodebookDetails.model_validate(self.manifest.details)

    @classmethod
    def open(
        cls,
        folder: Path,
        manifest: Manifest,
        *,
        backbone: LVLM | str = "",
        device: str = "cpu",
    ) -> CodebookAdapter:
        """See ``Adapter.load``; ``backbone`` is a language model or its name, by default that of the training."""
        details = CodebookDetails.model_validate(manifest.details)
        if not isinstance(backbone, LVLM):
            backbone = load_lvlm(backbone or manifest.backbone.name, device=device)
        _fits(folder, manifest, details, backbone)
        with building(folder, manifest):
            method = method_of(manifest.method, manifest.settings)
            method.check(backbone)
            adapted = build_model(method, backbone)
        shape = (details.codebook.depth, details.codebook.entries)
        frequencies = Frequencies(torch.zeros(shape), torch.zeros(shape))
        adapter = cls(manifest, adapted, frequencies.to(backbone.device))
        adapter.fill(folder)
        adapted.eval()
        return adapter

    @classmethod
    def of(
        cls,
        adapted: AdaptedCodebookModel,
        frequencies: Frequencies,
        *,
        method: str,
        settings: Mapping[str, Any],
    ) -> CodebookAdapter:
        """Describe a trained model, with its golden tokens."""
        model = adapted.model
        encoder = model.tower.image_backbone
        own = {name for name, _ in encoder.module.named_parameters()}
        details = CodebookDetails(
            codebook=model.spec,
            encoder=encoder.fingerprint,
            whole=own == set(adapted.encoder.copies) and not list(encoder.module.buffers()),
            language=adapted.changes_language,
        )
        manifest = Manifest(
            kind=cls.kind,
            method=method,
            settings=dict(settings),
            backbone=ModelCard.of(model),
            ledger=_ledger(adapted),
            details=details.model_dump(mode="json"),
            golden=golden_tokens(adapted).tolist(),
        )
        return cls(manifest, adapted, frequencies)

    @property
    def frozen(self) -> dict[str, Any]:
        return {"backbone": self.adapted.model}

    def golden_values(self) -> Tensor:
        return golden_tokens(self.adapted)

    def contents(self) -> nn.Module:
        return nn.ModuleDict({"model": self.adapted, "frequencies": self.frequencies})


def build_model(method: CodebookMethod, model: LVLM) -> AdaptedCodebookModel:
    """A model with a method's fresh changes on it, drawn from torch's generator."""
    return AdaptedCodebookModel(
        model, method.encoder_changes(model), method.language_changes(model)
    ).to(model.device)


def method_of(name: str, settings: Mapping[str, Any]) -> CodebookMethod:
    """A method for vision-language models over a codebook, by name.

    Raises:
        ConfigError: no such method, or one for other models.
    """
    method = create(name, settings) if is_lvlm_method(name) else None
    if not isinstance(method, CodebookMethod):
        raise ConfigError(
            f"{name} adapts no vision-language model over a codebook. Use craft, vision-ft, ldifs, projector-ft, "
            "llm-lora or lvlm-zero-shot."
        )
    return method


def is_lvlm_method(name: str) -> bool:
    """Whether a registered method is for vision-language models over a codebook."""
    return issubclass(registered(name).cls, CodebookMethod)


def _fits(folder: Path, manifest: Manifest, details: CodebookDetails, model: LVLM) -> None:
    try:
        details.codebook.check(model.spec, str(folder), model.name)
    except BackboneError as error:
        raise AdapterError(str(error)) from error
    encoder = model.tower.image_backbone.fingerprint
    if not details.whole and details.encoder != encoder:
        raise AdapterError(
            f"{folder} holds layers for an encoder with fingerprint {details.encoder[:12]}, but that of {model.name} "
            f"has {encoder[:12]}. Load the original weights, or train with encoder=full."
        )
    if details.language and manifest.backbone.fingerprint != model.fingerprint:
        raise AdapterError(
            f"{manifest.method} in {folder} changed the language side of {manifest.backbone.name}, so it fits no other "
            f"model, and {model.name} has other weights. Use craft for an encoder that fits all of them."
        )


def golden_tokens(adapted: AdaptedCodebookModel) -> Tensor:
    """First numbers of z for a fixed input, drawn by numpy's PCG64."""
    height, width = adapted.model.spec.preprocessing.size
    drawn = np.random.default_rng(0).standard_normal((1, 3, height, width)).astype(np.float32)
    with evaluating(adapted):
        z = adapted.encode_images(torch.from_numpy(drawn).to(adapted.model.device)).z
    return z.flatten()[:GOLDEN].float().cpu()


def _ledger(adapted: AdaptedCodebookModel) -> Ledger:
    """What is stored, on the model that it was trained before."""
    language = adapted.language.changes
    own = {f.name: getattr(language, f.name) for f in fields(Changes)}
    return count(adapted.model, Plan(**own, encoder=adapted.encoder.changes))
