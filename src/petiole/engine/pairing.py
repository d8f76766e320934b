"""Make two towers of an image backbone and a sentence encoder: one ridge regression, in seconds.

    P_t = argmin_P  Σ_i |P e_i − w_i|² + λ |P|²,    w = (EᵀE + λI)⁻¹ EᵀW

e_i: unit sentence vector of a text, w_i: what the image tower should say to it. From a classifier, texts are its
class names and w_i its rows; from captions, w_i is the unit image vector of the picture that a caption belongs to.
The logits' scale is a choice; CLIP's own is 100.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from petiole.backbones.base import Backbone
from petiole.backbones.dual_encoder import bert
from petiole.backbones.dual_encoder.pair import PROJECTIONS, PairConfig, join
from petiole.backbones.dual_encoder.tokenizers import FolderTokenizer
from petiole.backbones.dual_encoder.towers import TwoTowers
from petiole.backbones.weights import load_strictly, read_safetensors
from petiole.data.image import load
from petiole.data.preprocessing import evaluate_transform
from petiole.data.readers.table import open_table
from petiole.engine.progress import progress
from petiole.errors import ConfigError
from petiole.files import write_tensors, write_text

CHUNK = 256


def ridge(sources: Tensor, targets: Tensor, penalty: float) -> Tensor:
    """P (d, d_t) of the equation above, from (n, d_t) and (n, d), solved in float64."""
    e, w = sources.double(), targets.double()
    gram = e.T @ e + penalty * torch.eye(e.shape[1], dtype=torch.float64)
    solved: Tensor = torch.linalg.solve(gram, e.T @ w)
    return solved.T.float()


@torch.no_grad()
def sentence_vectors(text: Any, tokenizer: FolderTokenizer, texts: list[str]) -> Tensor:
    """Unit vectors (n, d_t) of sentences."""
    tower = bert.tower(text, nn.Identity(), tokenizer)
    found = []
    for first in range(0, len(texts), CHUNK):
        rows = [
            [tokenizer.start, *tokenizer(t), tokenizer.end] for t in texts[first : first + CHUNK]
        ]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [tokenizer.end] * (longest - len(row)) for row in rows])
        found.append(normalize(tower.encode(ids), dim=-1))
    return torch.cat(found)


@torch.no_grad()
def seen(image: Backbone, captions: Path, *, quiet: bool) -> tuple[list[str], Tensor]:
    """Captions of a table, and the unit vectors (n, d) of their pictures.

    Raises:
        DataError: a bad table or picture.
    """
    data = open_table(captions)
    prepare = evaluate_transform(image.preprocessing)
    texts, found = [], []
    with progress("pictures", len(data), quiet=quiet) as advance:
        for sample in data.samples:
            pixels = prepare(load(sample))[None]
            found.append(image.lower(pixels, (image.vector,))[image.vector])
            texts.append(data.classes[sample.label])
            advance(1)
    return texts, normalize(torch.cat(found), dim=-1)


def make(
    image: Backbone,
    text_folder: Path,
    texts: list[str],
    targets: Tensor,
    *,
    penalty: float,
    scale: float,
    image_projection: bool = False,
) -> tuple[TwoTowers, dict[str, Tensor]]:
    """Two towers whose texts fit their targets, and the tensors of their projections.

    Args:
        texts: n sentences.
        targets: (n, d) in the image tower's space.
        image_projection: give images one too, the identity.

    Raises:
        ConfigError: a number that means nothing, or not as many texts as targets.
        BackboneError: the text folder does not hold a usable encoder.
    """
    if penalty <= 0 or scale <= 0:
        raise ConfigError(f"penalty and scale are positive, not {penalty} and {scale}.")
    if len(texts) != len(targets):
        raise ConfigError(f"{len(texts)} texts, but {len(targets)} targets.")
    text = bert.build(text_folder, meta=False)
    file = text_folder / "model.safetensors"
    load_strictly(text, bert.own_tensors(read_safetensors(file)), str(file))
    text.eval()
    tokenizer = FolderTokenizer(text_folder)
    tensors = {
        "text.weight": ridge(sentence_vectors(text, tokenizer, texts), targets, penalty),
        "logit_scale": torch.tensor(math.log(scale)),
    }
    if image_projection:
        tensors["image.weight"] = torch.eye(image.width)
    return join("pair", image, text, tensors, tokenizer), tensors


def save(
    folder: Path,
    tensors: dict[str, Tensor],
    text_folder: Path,
    *,
    image: str,
    image_weights: Path | None,
    image_size: int | None,
) -> None:
    """Write a pair's folder; the text encoder's files are copied into it."""
    (folder / "text").mkdir(parents=True)
    for file in sorted(text_folder.iterdir()):
        if file.suffix in (".json", ".txt", ".safetensors", ".model"):
            shutil.copy2(file, folder / "text" / file.name)
    stated = PairConfig(
        image=image,
        text="text",
        image_weights=str(Path(image_weights).absolute()) if image_weights else None,
        image_size=image_size,
    )
    write_tensors(folder / PROJECTIONS, tensors)
    write_text(folder / "config.json", json.dumps(stated.model_dump(exclude_none=True), indent=2))
