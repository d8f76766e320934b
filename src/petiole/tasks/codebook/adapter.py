"""The file of a tuned encoder: what was trained, the codebook's contract, and how often each code occurs.

    adapter.json          method and settings, contract, tower and its fingerprint, golden tokens; the language model, where that was changed
    adapter.safetensors   every trained tensor; frequencies of codes (D, K) in the domain, by the tuned encoder and by the old one

It opens before every language model with the same codebook, and before no other. Where the method changed a language
model or its projector too, it opens before that model alone. Nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from petiole.backbones.codebook_lvlm import LVLM, CodebookSpec
from petiole.backbones.codebook_lvlm.loading import load_lvlm
from petiole.engine.adapter import MANIFEST, TENSORS, TOLERANCE, fill, find
from petiole.errors import AdapterError, BackboneError, ConfigError
from petiole.files import sha256, write_json, write_tensors
from petiole.methods.codebook.base import CodebookMethod
from petiole.methods.registry import create
from petiole.methods.registry import find as registered
from petiole.tasks.codebook.model import AdaptedCodebookModel
from petiole.version import __version__

KIND = "encoder"
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


class CodebookModelCard(BaseModel):
    """A language model with its tower, and how to know it again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    fingerprint: str


class EncoderManifest(BaseModel):
    """The JSON part.

    Attributes:
        codebook: the contract.
        surrogate: the model that it was trained before.
        eye: fingerprint of the encoder that the changes are for.
        whole: all of the encoder's parameters are in the file, so that ``eye`` need not be there.
        language: the projector or the language model was changed too.
        trainable: parameters that training had.
        golden: first numbers of z of a fixed input.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["encoder"] = "encoder"
    format: Literal[1] = 1
    petiole: str
    method: str
    settings: dict[str, Any]
    codebook: CodebookSpec
    surrogate: CodebookModelCard
    eye: str
    whole: bool
    language: bool
    trainable: int
    golden: list[float]
    tensors_sha256: str


@dataclass
class EncoderAdapter:
    """A tuned encoder before a language model, and what its file says."""

    manifest: EncoderManifest
    adapted: AdaptedCodebookModel
    frequencies: Frequencies

    @classmethod
    def load(cls, path: str | Path, *, model: LVLM | str = "", device: str = "cpu") -> Self:
        """Open a file, or the one inside a run folder, before a language model.

        Args:
            path: folder with adapter.json, or a run folder.
            model: the language model, or its name; by default that of the training.
            device: for what is loaded here.

        Raises:
            AdapterError: missing, damaged, of another kind, or for another codebook, encoder or language model.
            BackboneError: there is no such model.
        """
        folder = find(Path(path))
        manifest = read(folder)
        if not isinstance(model, LVLM):
            model = load_lvlm(model or manifest.surrogate.name, device=device)
        _fits(folder, manifest, model)
        try:
            method = method_of(manifest.method, manifest.settings)
            method.check(model)
            adapted = build_model(method, model)
        except ConfigError as error:
            raise AdapterError(
                f"{folder / MANIFEST} asks for what this petiole ({__version__}; the file is from "
                f"{manifest.petiole}) cannot build: {error}"
            ) from error
        shape = (manifest.codebook.depth, manifest.codebook.entries)
        frequencies = Frequencies(torch.zeros(shape), torch.zeros(shape))
        kept = nn.ModuleDict({"adapted": adapted, "frequencies": frequencies})
        fill(folder, manifest.tensors_sha256, kept)
        kept.to(model.device)
        opened = cls(manifest, adapted.eval(), frequencies)
        opened.replay(folder)
        return opened

    def save(self, folder: Path) -> None:
        """Write the file; the manifest comes last, so a folder with one is complete."""
        kept = nn.ModuleDict({"adapted": self.adapted, "frequencies": self.frequencies})
        write_tensors(folder / TENSORS, kept.state_dict())
        digest = sha256(folder / TENSORS)
        self.manifest = self.manifest.model_copy(update={"tensors_sha256": digest})
        write_json(folder / MANIFEST, self.manifest.model_dump(mode="json"))

    def replay(self, folder: Path) -> None:
        """Raise AdapterError unless the golden input gives the golden tokens."""
        got, want = golden(self.adapted), torch.tensor(self.manifest.golden)
        same = got.shape == want.shape
        worst = float(((got - want).abs() / (1 + want.abs())).max()) if same else float("inf")
        if not worst <= TOLERANCE:
            raise AdapterError(
                f"{folder}: the golden input gives tokens that differ by {worst:.2g} (relative; allowed "
                f"{TOLERANCE:g}), so codes would not be those of the training. The encoder, its library or the "
                "arithmetic differs: train again on this one."
            )


def build_model(method: CodebookMethod, model: LVLM) -> AdaptedCodebookModel:
    """A model with a method's fresh changes on it, drawn from torch's generator."""
    return AdaptedCodebookModel(
        model, method.encoder_changes(model), method.language_changes(model)
    ).to(model.device)


def describe(
    adapted: AdaptedCodebookModel,
    method: str,
    settings: Mapping[str, Any],
    frequencies: Frequencies,
) -> EncoderAdapter:
    """Describe a trained viewer as a file."""
    model = adapted.model
    own = {name for name, _ in model.tower.eye.module.named_parameters()}
    manifest = EncoderManifest(
        petiole=__version__,
        method=method,
        settings=dict(settings),
        codebook=model.spec,
        surrogate=CodebookModelCard(name=model.name, fingerprint=model.fingerprint),
        eye=model.tower.eye.fingerprint,
        whole=own == set(adapted.eye.copies) and not list(model.tower.eye.module.buffers()),
        language=adapted.changes_language,
        trainable=sum(p.numel() for p in adapted.parameters() if p.requires_grad),
        golden=golden(adapted).tolist(),
        tensors_sha256="",
    )
    return EncoderAdapter(manifest, adapted, frequencies)


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


def is_encoder(path: Path) -> bool:
    """Whether there is a file of an encoder in this folder, or in the run folder that it is."""
    for folder in (path, path / "adapter"):
        try:
            if json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("kind") == KIND:
                return True
        except (OSError, ValueError, AttributeError):
            continue
    return False


def read(folder: Path) -> EncoderManifest:
    """Read and check adapter.json.

    Raises:
        AdapterError: damaged, of another kind, or written by a newer petiole.
    """
    if not is_encoder(folder):
        raise AdapterError(
            f"{folder} holds no tuned encoder. Make one with petiole fit ... --method craft."
        )
    try:
        return EncoderManifest.model_validate_json((folder / MANIFEST).read_bytes())
    except ValidationError as error:
        raise AdapterError(
            f"{folder / MANIFEST} is damaged or of another version: {str(error).splitlines()[0]}. "
            "Copy the adapter folder again, or update petiole."
        ) from error


def _fits(folder: Path, manifest: EncoderManifest, model: LVLM) -> None:
    try:
        manifest.codebook.check(model.spec, str(folder), model.name)
    except BackboneError as error:
        raise AdapterError(str(error)) from error
    if not manifest.whole and manifest.eye != model.tower.eye.fingerprint:
        raise AdapterError(
            f"{folder} holds layers for an encoder with fingerprint {manifest.eye[:12]}, but that of {model.name} "
            f"has {model.tower.eye.fingerprint[:12]}. Load the original weights, or train with encoder=full."
        )
    if manifest.language and manifest.surrogate.fingerprint != model.fingerprint:
        raise AdapterError(
            f"{manifest.method} in {folder} changed the language side of {manifest.surrogate.name}, so it fits no other "
            f"model, and {model.name} has other weights. Use craft for an encoder that fits all of them."
        )


@torch.no_grad()
def golden(adapted: AdaptedCodebookModel) -> Tensor:
    """First numbers of z for a fixed input, drawn by numpy's PCG64."""
    height, width = adapted.model.spec.preprocessing.size
    drawn = np.random.default_rng(0).standard_normal((1, 3, height, width)).astype(np.float32)
    z = adapted.encode_images(torch.from_numpy(drawn).to(adapted.model.device)).z
    return z.flatten()[:GOLDEN].float().cpu()
