"""VILA-U (Wu et al., 2024; mit-han-lab/vila-u): checkpoints as that repository saves them.

    config.json                      model_type vila_u_llama
    llm/                             a causal language model of transformers, its tokenizer
    vision_tower/                    rqvaesigliptransformer_model: SigLIP, residual quantiser, decoders of images
    mm_projector/                    v2l_projector

Each folder has a config.json and weights (safetensors or .bin, whole or in shards).

    z = SigLIP's tokens after its last but one block, not normalised      z^ = RQ(z)      P(z^) -> language model

As the public code has it: the layout and names of tensors, the tapped block, K + 1 rows of a table (the last is padding
and dropped), the projector, the conversation "vicuna_v1" and how it is cut at the image. SigLIP's sizes are stated only
by the name of what it started from: two such names are built in, any other must be a folder.

Reconstructed, since the code that trained the tower is not public: the image head of the contrastive loss is what
SigLIP does after z (last block, norm, attention pooling), over z^ (Wu et al., 2024, train the tower with such a loss). Checkpoints come without
SigLIP's tokenizer. Its ids are not the language model's, so there is a contrastive loss only where tokenizer.json or
spiece.model of that SigLIP lies in vision_tower/.

What differs, knowingly: marks of image start and end are set as in training (``mm_use_im_start_end``), while the
repository's own ``generate_content`` leaves them out. One tokenizer serves questions and answers, so that a question's
first word is marked as a word's start after the line break, too. The tower computes in single precision, which can
choose other codes than the repository's half precision where two entries lie equally near; the language model keeps the
type that its configuration states. Images are resized by their shorter side and cropped, not squeezed or padded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from petiole.backbones.codebook_lvlm import causal
from petiole.backbones.codebook_lvlm.codebook import CodebookSpec, digest
from petiole.backbones.codebook_lvlm.model import LVLM, LVLMModule
from petiole.backbones.codebook_lvlm.tower import ContrastHeads, Tower
from petiole.backbones.codebook_lvlm.vila_u_files import (
    VilaUTokenizer,
    one_of,
    read_tower,
    read_weights,
)
from petiole.backbones.dual_encoder.clip import branches, tensor
from petiole.backbones.dual_encoder.tokenizers import FolderTokenizer
from petiole.backbones.preprocessor import read_preprocessor
from petiole.backbones.registry import LoadRequest, folder_loader
from petiole.backbones.vision.transformer import Parts, Transformer, first_cut
from petiole.backbones.weights import load_strictly, read_json
from petiole.data.preprocessing import Preprocessing
from petiole.errors import BackboneError, unknown
from petiole.layers.residual_quantiser import ResidualQuantiser

if TYPE_CHECKING:
    from transformers import SiglipModel

COUNTERS = (".rotary_emb.inv_freq",)
"""Constants that older versions of transformers stored with a language model."""


def _siglip(width: int, mlp: int, blocks: int, size: int, patch: int) -> dict[str, Any]:
    same = {
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": blocks,
        "num_attention_heads": 16,
    }
    return {
        # transformers' defaults for these two lie outside SigLIP's 32,000 words; it has neither.
        "text_config": {**same, "bos_token_id": None, "eos_token_id": None},
        "vision_config": {**same, "image_size": size, "patch_size": patch},
    }


SIGLIP = {
    "google/siglip-large-patch16-256": _siglip(1024, 4096, 24, 256, 16),
    "google/siglip-so400m-patch14-384": _siglip(1152, 4304, 27, 384, 14),
}
"""What VILA-U's two towers started from."""


@folder_loader("vila_u_llama")
def load(request: LoadRequest, config: dict[str, Any], folder: Path | None) -> LVLM:
    """A VILA-U.

    Raises:
        BackboneError: a file is missing or does not fit.
    """
    if folder is None or request.weights:
        raise BackboneError(
            f"{request.name}: a VILA-U is read from its folder, whose parts have weights of their own."
        )
    tower = load_tower(request, folder / "vision_tower")
    home = folder / "llm"
    kind = str(read_json(folder / "mm_projector" / "config.json").get("mm_projector_type"))
    with torch.device("meta" if request.meta else "cpu"):
        language: Any = causal.build(read_json(home / "config.json"))
        projector = causal.projector(kind, tower.spec.width, language.config.hidden_size)
    if not request.meta:
        _fill_language(language, home)
        layers = read_weights(folder / "mm_projector")
        holder = nn.ModuleDict({"layers": projector})
        load_strictly(holder, layers, str(folder / "mm_projector"))
    words = VilaUTokenizer(home, int(language.config.vocab_size))
    prompt = words.prompt(marked=bool(config.get("mm_use_im_start_end", False)))
    return LVLM(
        request.name,
        LVLMModule(tower, projector, language),
        None if request.meta else words,
        prompt,
    )


def load_tower(request: LoadRequest, home: Path) -> Tower:
    """Encoder, quantiser and heads of the contrastive loss.

    Args:
        request: for the name, and whether only the shape is wanted.
        home: the folder vision_tower.

    Raises:
        BackboneError: a file is missing or does not fit.
    """
    from transformers import SiglipConfig, SiglipModel

    stated = _stated(home)
    config = SiglipConfig(**_siglip_config(stated, home))
    size = request.fixed_size(int(config.vision_config.image_size))
    side = size // int(config.vision_config.patch_size)
    entries, depth = _sizes(stated, side, config.vision_config.hidden_size, home)
    shared = bool(stated.get("shared_codebook"))
    with torch.device("meta" if request.meta else "cpu"):
        siglip = SiglipModel(config)
        quantiser = ResidualQuantiser(entries, config.vision_config.hidden_size, depth, shared)
    speaks = True
    if not request.meta:
        stored = read_tower(home)
        speaks = any(name.startswith("siglip_model.text_model.") for name in stored)
        _fill(siglip, quantiser, stored, str(home), speaks=speaks)
    preprocessing = _preprocessing(home, size)
    image_backbone = wrap(f"{request.name}:tower", siglip, preprocessing)
    spec = CodebookSpec(
        entries=entries,
        width=quantiser.width,
        depth=depth,
        shared=shared,
        sha256="" if request.meta else digest(quantiser.codebooks),  # a shape has no values
        tap=image_backbone.depth - 1,
        grid=(side, side),
        preprocessing=preprocessing,
    )
    heads = _heads(siglip, home, meta=request.meta) if speaks else None
    with torch.device("meta" if request.meta else "cpu"):
        return Tower(image_backbone, quantiser, spec, heads)


class Encoder(nn.Module):
    """SigLIP's embeddings and all of its blocks but the last; nothing is normalised."""

    def __init__(self, vision: Any) -> None:
        super().__init__()
        self.embeddings = vision.embeddings
        self.layers = nn.ModuleList(vision.encoder.layers[:-1])
        self.norm = nn.Identity()


class VilaUImageHead(nn.Module):
    """Quantised tokens (B, N, d) -> SigLIP's last block, norm, attention pooling -> (B, d)."""

    def __init__(self, vision: Any) -> None:
        super().__init__()
        self.block = vision.encoder.layers[-1]
        self.norm = vision.post_layernorm
        self.pool = vision.head

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tensor(self.block(tokens, attention_mask=None))
        vector: Tensor = self.pool(self.norm(tokens))
        return vector


class VilaUTextTower(nn.Module):
    """Ids (B, L) and mask -> SigLIP's text tower -> (B, d).

    SigLIP sees all slots, filled up with the end token, and takes the last one; a text that fills them all ends there.
    """

    def __init__(self, text: nn.Module, longest: int, end: int) -> None:
        super().__init__()
        self.text, self.longest, self.end = text, longest, end

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        full = ids.new_full((len(ids), self.longest), self.end)
        kept = ids.masked_fill(~mask, self.end)[:, : self.longest - 1]
        full[:, : kept.shape[1]] = kept
        vector: Tensor = self.text(input_ids=full).pooler_output
        return vector


class Heads(ContrastHeads):
    """SigLIP's heads; its ids are not the language model's."""

    def __init__(
        self, siglip: SiglipModel, end: int, tokenise: Callable[[str], list[int]] | None
    ) -> None:
        longest = int(siglip.config.text_config.max_position_embeddings)
        text = VilaUTextTower(siglip.text_model, longest, end)
        super().__init__(VilaUImageHead(siglip.vision_model), text, end, longest, tokenise)
        self.scale = nn.Parameter(siglip.logit_scale.reshape(()))
        self.bias = nn.Parameter(siglip.logit_bias.reshape(()))


def wrap(name: str, siglip: SiglipModel, preprocessing: Preprocessing) -> Transformer:
    """E of a SigLIP as a backbone whose local tokens are z."""
    vision = siglip.config.vision_config
    module = Encoder(siglip.vision_model)
    parts = Parts(
        tokenise=lambda images: tensor(module.embeddings(images)),
        embed=module.embeddings,
        blocks=[branches(layer, vision.hidden_size) for layer in module.layers],
        norm=module.norm,
        patch=vision.patch_size,
        prefix=0,
        pool=lambda tokens: tokens.mean(dim=1),
        block_prefix="layers.",
        top_prefixes=("norm.",),
        heads=vision.num_attention_heads,
        first_cut=first_cut(len(module.layers)),
        step=lambda layer, tokens: tensor(layer(tokens, attention_mask=None)),
    )
    return Transformer(name, module, preprocessing, vision.hidden_size, parts)


def _stated(home: Path) -> dict[str, Any]:
    """The part of the tower's configuration that states SigLIP and the quantiser."""
    stated = read_json(home / "config.json").get("rqvaesiglip")
    if not isinstance(stated, dict):
        raise BackboneError(
            f"{home}/config.json states no rqvaesiglip, so it is no VILA-U's tower. Copy it again."
        )
    return stated


def _siglip_config(stated: Mapping[str, Any], home: Path) -> dict[str, Any]:
    """SigLIP's configuration, built in or in a folder (absolute, or beside the tower's config.json)."""
    name = str(stated.get("pretrained_model"))
    if name in SIGLIP:
        return SIGLIP[name]
    if not (home / name / "config.json").is_file():
        raise unknown(f"pretrained_model in {home}/config.json", name, SIGLIP, BackboneError)
    return read_json(home / name / "config.json")


def _sizes(stated: Mapping[str, Any], side: int, width: int, home: Path) -> tuple[int, int]:
    """K and D.

    Raises:
        BackboneError: they are not stated, differ between depths, or codes stand for more than one token.
    """
    try:
        count, (rows, columns, depth) = stated["n_embed"], stated["code_shape"]
        latent = [int(n) for n in stated["latent_shape"]]
        each = {int(n) for n in (count if isinstance(count, list) else [count])}
    except (KeyError, TypeError, ValueError) as error:
        raise BackboneError(
            f"{home}/config.json does not state n_embed, code_shape and latent_shape ({error!r}). Copy it again."
        ) from error
    if len(each) > 1 or [rows, columns] != [side, side] or latent != [side, side, width]:
        raise BackboneError(
            f"{home}/config.json states tables of {sorted(each)} entries, latent_shape {latent} and code_shape "
            f"{[rows, columns, depth]}; read are tables of one size with codes for each of {side} x {side} tokens "
            f"of width {width}. Check pretrained_model."
        )
    return each.pop(), int(depth)


def _preprocessing(home: Path, size: int) -> Preprocessing:
    if (home / "preprocessor_config.json").is_file():
        return read_preprocessor(home, size)
    return Preprocessing.symmetric(size)


def _heads(siglip: SiglipModel, home: Path, *, meta: bool) -> Heads | None:
    """The heads of the contrastive loss, where texts can be told to them."""
    if meta:
        return Heads(siglip, int(siglip.config.text_config.pad_token_id), None)
    if not any((home / name).is_file() for name in ("tokenizer.json", "spiece.model")):
        return None
    words = FolderTokenizer(home)
    return Heads(siglip, words.padding, words)


def _fill(
    siglip: SiglipModel,
    quantiser: ResidualQuantiser,
    stored: Mapping[str, Tensor],
    origin: str,
    *,
    speaks: bool,
) -> None:
    """Load a tower, every tensor of it; without text tower only what sees."""
    tensors = dict(stored)
    one_of(tensors, ["siglip_model.logit_scale", "logit_scale"], origin)
    one_of(tensors, ["siglip_model.logit_bias", "logit_bias"], origin)
    tables = [f"quantizer.codebooks.{d}.weight" for d in range(quantiser.depth)]
    if quantiser.shared:
        one_of(tensors, tables, origin)
        tables = tables[:1]
    if not speaks:
        del siglip.text_model, siglip.logit_scale, siglip.logit_bias
        tensors.pop("siglip_model.logit_scale", None)
        tensors.pop("siglip_model.logit_bias", None)
    rows = [nn.Embedding(quantiser.entries + 1, quantiser.width) for _ in tables]
    holder = nn.ModuleDict(
        {
            "siglip_model": siglip,
            "quantizer": nn.ModuleDict({"codebooks": nn.ModuleList(rows)}),
        }
    )
    load_strictly(holder, tensors, origin)
    quantiser.codebooks.copy_(torch.stack([table.weight.detach()[:-1] for table in rows]))


def _fill_language(language: nn.Module, home: Path) -> None:
    """Load a language model; what is tied may be stored once."""
    tensors = {n: t for n, t in read_weights(home).items() if not n.endswith(COUNTERS)}
    own = language.state_dict(keep_vars=True)
    stored = {id(value): name for name, value in own.items() if name in tensors}
    for name, value in own.items():
        if name not in tensors and id(value) in stored:
            tensors[name] = tensors[stored[id(value)]]
    load_strictly(language, tensors, str(home))
