"""Which codes an encoder picks: how often each, and how far from the encoder as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from petiole.backbones.codebook_lvlm import VisionOutput
from petiole.data.text_sample import TextSample
from petiole.engine.adapted_model import evaluating
from petiole.layers.residual_quantiser import frequencies, perplexity
from petiole.methods.base import Changes
from petiole.tasks.codebook.adapter import Frequencies
from petiole.tasks.codebook.images import ImageFolder
from petiole.tasks.codebook.model import AdaptedCodebookModel

ONE_CODE = 1.5
"""Perplexity of first codes below which all images look alike."""
LEFT = 10.0
"""Times the start's residual from which an encoder has left its codebook (its tokens then mean nothing)."""
IMAGES = 64
"""Of a probe."""


class CodeProbe:
    """How far an encoder has moved, by the codes of the same images each time."""

    def __init__(
        self,
        adapted: AdaptedCodebookModel,
        image_folder: ImageFolder,
        samples: Sequence[TextSample],
    ) -> None:
        names = list(dict.fromkeys(sample.images[0] for sample in samples))[:IMAGES]
        self.adapted, self.pictures = adapted, image_folder(names)
        with torch.no_grad():
            self.before = adapted.model.tower.encode_images(self.pictures)

    def diagnosis(self) -> dict[str, float]:
        """Share of codes that differ from the start's, perplexity of first codes, mean residual."""
        with evaluating(self.adapted):  # dropout would count as movement
            vision_output = self.adapted.encode_images(self.pictures)
        return {
            "flip_rate": float((vision_output.codes != self.before.codes).float().mean()),
            "perplexity": perplexity(vision_output.codes[..., 0], self.adapted.model.spec.entries),
            "residual": float(vision_output.residual.mean()),
        }


def collapse(now: Mapping[str, float], start: Mapping[str, float]) -> str:
    """What a diagnosis says of an encoder that no language model can read; empty where nothing is amiss."""
    if now["perplexity"] < ONE_CODE:
        return (
            f"the codes have collapsed: the images differ in {now['perplexity']:.2f} first codes (perplexity), so the language "
            "model sees one picture in all of them. Lower lr, raise commit, or give captions, which pull the codes apart."
        )
    if now["residual"] > LEFT * start["residual"]:
        return (
            f"the encoder has left the codebook: its tokens lie {now['residual'] / start['residual']:.0f} times as far from "
            "their entries as at the start. Raise commit, or lower lr."
        )
    return ""


def counts(
    adapted: AdaptedCodebookModel,
    image_folder: ImageFolder,
    samples: Sequence[TextSample],
    *,
    quiet: bool = True,
) -> Frequencies:
    """Frequencies of codes in the samples' images, each image once."""
    names = sorted({sample.images[0] for sample in samples})
    tuned = image_folder.vision_outputs(adapted, names, quiet=quiet)
    original = tuned
    if adapted.changes_encoder:
        bare = AdaptedCodebookModel(adapted.model, Changes(), Changes())
        original = image_folder.vision_outputs(bare, names, quiet=quiet)
    entries = adapted.model.spec.entries
    both = (code_frequencies(vision_outputs.all, entries) for vision_outputs in (tuned, original))
    return Frequencies(*both)


def code_frequencies(vision_output: VisionOutput, entries: int) -> Tensor:
    """(D, K), add-one smoothed."""
    depths = vision_output.codes.unbind(dim=-1)
    return torch.stack([frequencies(codes, entries) for codes in depths]).float()
