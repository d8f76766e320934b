"""The adapter file of a language model: everything trained, the V->L block with its codes, and the tasks.

    adapter.json          method and settings, tasks in the order of their numbers, model and its fingerprint, what its
                          images were seen with, the golden scores
    adapter.safetensors   every tensor that prediction needs

Opening compares the fingerprint and replays the golden input, as for images. Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from petiole.backbones.base import Backbone
from petiole.backbones.encoder_decoder import Inputs, Seq2Seq
from petiole.backbones.registry import LoadRequest, load, load_any
from petiole.engine.adapter import MANIFEST, TENSORS, TOLERANCE, fill, find
from petiole.errors import AdapterError, ConfigError
from petiole.files import sha256, write_json, write_tensors
from petiole.layers.answer_head import AnswerHead
from petiole.methods.registry import create
from petiole.methods.registry import find as registered
from petiole.methods.text import TextMethod, encoder_decoder_of
from petiole.tasks.text import fold
from petiole.tasks.text.model import AdaptedTextModel
from petiole.tasks.text.visual import BackboneVisuals, PixelSource, VisualSource, open_vision_tower
from petiole.version import __version__

WORDS, PLACES, SCORES = 8, 4, 64
"""Of the golden input: ids, visual features, scores that are kept."""


class LanguageModelCard(BaseModel):
    """What is needed to find the language model again, and to know that it is the same.

    Attributes:
        name: as it was loaded.
        vision_width: of the features that it sees; 0 for none.
        options: of its V->L block.
        eyes: name of the image backbone that makes the features; empty where they were given.
        eyes_fingerprint: of its weights.
        places: features of an image after pooling.
        prefixes: whether tasks put their hard prompts before texts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    fingerprint: str
    vision_width: int
    options: dict[str, Any]
    eyes: str = ""
    eyes_fingerprint: str = ""
    places: int = 36
    prefixes: bool = True


class TaskName(BaseModel):
    """One task of an adapter: its name there, and which of ``tasks.registry`` it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: str


class TextManifest(BaseModel):
    """The JSON part.

    Attributes:
        trainable: parameters that training had.
        answers: list of the head that chooses among them; empty where answers are written.
        folded: the tensors are those of ``fold_language``'s layers in place of the method's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["language"] = "language"
    format: Literal[1] = 1
    petiole: str
    method: str
    settings: dict[str, Any]
    tasks: list[TaskName]
    model: LanguageModelCard
    trainable: int
    answers: list[str] = []
    folded: bool = False
    golden: list[float]
    tensors_sha256: str


class TextAdapter:
    """A trained speaker and what its file says.

    Attributes:
        manifest: the JSON part.
        adapted: the model that it makes of the frozen one.
    """

    def __init__(self, manifest: TextManifest, adapted: AdaptedTextModel) -> None:
        self.manifest, self.adapted = manifest, adapted

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        model: Seq2Seq | None = None,
        eyes: Backbone | None = None,
        device: str = "cpu",
    ) -> Self:
        """Open an adapter file, or the one inside a run folder.

        Args:
            path: folder with adapter.json, or a run folder.
            model, eyes: already loaded ones, to share them; ``eyes`` is needed where they were trained.
            device: for what is loaded here.

        Raises:
            AdapterError: missing, damaged, of an image model, or made for other weights.
        """
        folder = find(Path(path))
        manifest = read(folder)
        card = manifest.model
        if model is None:
            request = LoadRequest(card.name, vision_width=card.vision_width, options=card.options)
            model = encoder_decoder_of(load_any(request, device=device))
        if model.fingerprint != card.fingerprint:
            raise AdapterError(
                f"{folder} was trained on {card.name} with fingerprint {card.fingerprint[:12]}, but "
                f"{model.name} has {model.fingerprint[:12]}. Load the original weights or train a new "
                "adapter."
            )
        try:
            method = method_of(manifest.method, manifest.settings)
            seeing = None
            if method.vision != "frozen":
                seeing = open_vision_tower(_eyes(card, eyes, device), card.places, method.vision)
            answers = manifest.answers
            with torch.random.fork_rng():
                head = AnswerHead(model.width, answers) if answers else None
                adapted = AdaptedTextModel(model, method.plan(model), eyes=seeing, head=head)
        except ConfigError as error:
            raise AdapterError(
                f"{folder / MANIFEST} asks for what this petiole ({__version__}; the file is from "
                f"{manifest.petiole}) cannot build: {error}"
            ) from error
        adapted.to(model.device).eval()
        if manifest.folded:
            adapted = fold.static(adapted)
        fill(folder, manifest.tensors_sha256, adapted)
        adapter = cls(manifest, adapted)
        adapter.replay(folder)
        return adapter

    def save(self, folder: Path) -> None:
        """Write the file; the manifest comes last, so a folder with one is complete."""
        write_tensors(folder / TENSORS, self.adapted.state_dict())
        digest = sha256(folder / TENSORS)
        self.manifest = self.manifest.model_copy(update={"tensors_sha256": digest})
        write_json(folder / MANIFEST, self.manifest.model_dump(mode="json"))

    def fold(self) -> Self:
        """The same scores from static weights, for serving; see ``fold_language``.

        Raises:
            AdapterError: its weights are static already, or the scores would change.
        """
        folded, manifest = fold.fold(self.adapted), self.manifest
        if folded.state_dict().keys() == self.adapted.state_dict().keys():
            raise AdapterError(
                f"Nothing of this {manifest.method} can be folded{' again' * manifest.folded}: its weights are "
                "static, or belong to one task of several. Use the adapter as it is."
            )
        known = {"folded": True, "golden": golden_scores(folded).tolist()}
        return type(self)(manifest.model_copy(update=known), folded)

    def sight(self, root: Path) -> VisualSource:
        """How pictures below a folder were shown to the model in training.

        Raises:
            AdapterError: it saw none, or given features, or its eyes have other weights now.
        """
        card, seeing = self.manifest.model, self.adapted.eyes
        if not card.vision_width:
            raise AdapterError(
                f"This {self.manifest.method} was trained on text alone, so it sees no pictures. Ask without one."
            )
        if not card.eyes:
            raise AdapterError(
                f"This {self.manifest.method} was trained on given features, so it does not say how pictures are "
                "seen. Ask it in Python, with features of the same kind (petiole.tasks.text.training.answers)."
            )
        if seeing is not None:
            return PixelSource(root, seeing.backbone, card.places)
        eyes = _eyes(card, None, str(self.adapted.model.device))
        return BackboneVisuals(root, eyes, None, card.places)

    def replay(self, folder: Path) -> None:
        """Raise AdapterError unless the golden input gives the golden scores."""
        got, want = golden_scores(self.adapted), torch.tensor(self.manifest.golden)
        same = got.shape == want.shape
        worst = float(((got - want).abs() / (1 + want.abs())).max()) if same else float("inf")
        if not worst <= TOLERANCE:
            raise AdapterError(
                f"{folder}: the golden input gives scores that differ by {worst:.2g} (relative; allowed "
                f"{TOLERANCE:g}), so answers would not be those of the training. The model, its library "
                "or the arithmetic differs: train again on this one."
            )


def _eyes(card: LanguageModelCard, given: Backbone | None, device: str) -> Backbone:
    """The image backbone of the training.

    Raises:
        AdapterError: it has other weights.
    """
    eyes = given or load(card.eyes, device=device)
    if card.eyes_fingerprint not in ("", eyes.fingerprint):
        raise AdapterError(
            f"The training saw through {card.eyes} with fingerprint {card.eyes_fingerprint[:12]}, but "
            f"{eyes.name} has {eyes.fingerprint[:12]}. Load the original weights or train a new adapter."
        )
    return eyes


def describe(
    adapted: AdaptedTextModel,
    method: str,
    settings: Mapping[str, Any],
    tasks: Sequence[TaskName],
    **facts: Any,
) -> TextAdapter:
    """Describe a trained speaker as an adapter, with its golden scores.

    Args:
        facts: further fields of ``LanguageModelCard``.
    """
    model = adapted.model
    card = LanguageModelCard(
        name=model.name, fingerprint=model.fingerprint, vision_width=model.vision_width, **facts
    )
    manifest = TextManifest(
        petiole=__version__,
        method=method,
        settings=dict(settings),
        tasks=list(tasks),
        model=card,
        trainable=sum(p.numel() for p in adapted.parameters() if p.requires_grad),
        answers=list(adapted.head.answers) if adapted.head else [],
        golden=golden_scores(adapted).tolist(),
        tensors_sha256="",
    )
    return TextAdapter(manifest, adapted)


def method_of(name: str, settings: Mapping[str, Any]) -> TextMethod:
    """A method for language models by name.

    Raises:
        ConfigError: no such method, or one for images.
    """
    adapts = registered(name).cls.adapts
    if adapts != "language":
        what = "image backbones" if adapts == "images" else "models over a codebook (petiole fit)"
        raise ConfigError(
            f"{name} adapts {what}. For a language model use one of the vl- methods "
            "(petiole inspect methods)."
        )
    method = create(name, settings)
    assert isinstance(method, TextMethod)
    return method


def is_language(path: Path) -> bool:
    """Whether there is an adapter of a language model in this folder, or in the run folder that it is."""
    files = (folder / MANIFEST for folder in (path, path / "adapter"))
    texts = (f.read_text(encoding="utf-8", errors="replace") for f in files if f.is_file())
    return any('"kind": "language"' in text for text in texts)


def read(folder: Path) -> TextManifest:
    """Read and check adapter.json.

    Raises:
        AdapterError: damaged, of an image model, or written by a newer petiole.
    """
    if not is_language(folder):
        raise AdapterError(f"{folder} holds an adapter for images. Use petiole predict.")
    try:
        return TextManifest.model_validate_json((folder / MANIFEST).read_bytes())
    except ValidationError as error:
        raise AdapterError(
            f"{folder / MANIFEST} is damaged or of another version: {str(error).splitlines()[0]}. "
            "Copy the adapter folder again, or update petiole."
        ) from error


@torch.no_grad()
def golden_scores(adapted: AdaptedTextModel) -> Tensor:
    """Scores of the first tokens, or answers, for a fixed input, drawn by numpy's PCG64, as the first task."""
    model = adapted.model
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(rng.integers(0, model.config.vocab_size, (2, WORDS)))
    seen = rng.standard_normal((1, PLACES, max(1, model.vision_width))).astype(np.float32)
    visual = torch.from_numpy(seen) if model.vision_width and adapted.eyes is None else None
    inputs = Inputs(ids[:1], torch.ones(1, WORDS, dtype=torch.bool), visual).to(model.device)
    training = adapted.training
    adapted.eval()
    labels = ids[1:, :2].to(model.device)
    scores = adapted.judge(inputs, (0,)) if adapted.head else adapted(inputs, labels, (0,))[:, -1]
    adapted.train(training)
    return scores[0, :SCORES].float().cpu()
