"""CLIP (Radford et al., 2021) as transformers builds it: a folder, a hub name, or only its shape.

    hf/openai/clip-vit-base-patch16        from the hub's cache or, with a network, the hub itself
    <folder>                               config.json, model.safetensors, the preprocessor's and tokenizer's files

Shapes of the well-known models are built in (clip.toml), so that counting asks nobody.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone, Site
from petiole.backbones.preprocessor import CLIP_COLOURS, read_preprocessor
from petiole.backbones.registry import Request, folder_loader, loader
from petiole.backbones.towers import TextParts, TwoTowers
from petiole.backbones.transformer import Branches, Parts, first_cut, whole_patches
from petiole.backbones.weights import load_strictly, read_json, read_safetensors
from petiole.data.preprocessing import Preprocessing
from petiole.errors import BackboneError, unknown

if TYPE_CHECKING:
    from transformers import CLIPConfig, CLIPModel

FILES = [
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "*token*",
    "*.txt",
    "*merges*",
    "vocab*",
]


@loader("hf")
def from_hub(request: Request) -> Backbone:
    """A CLIP by its hub name.

    Raises:
        BackboneError: the name is not known and the hub cannot be reached, or weights do not fit.
    """
    name = request.name.removeprefix("hf/")
    if request.meta:
        shapes = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
        if name not in shapes:
            raise unknown("CLIP shape", name, shapes, BackboneError)
        return _build(request, _config(shapes[name]), None)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(name, allow_patterns=FILES)
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise BackboneError(
            f"{request.name} is neither in the hub's cache nor to be had ({type(error).__name__}). "
            "Give a folder with its files instead of the name."
        ) from error
    return _from_folder(request, Path(folder))


@folder_loader("clip")
def from_folder(request: Request) -> Backbone:
    """A folder with a ``CLIPModel``.

    Raises:
        BackboneError: a file is missing or does not fit.
    """
    return _from_folder(request, Path(request.name))


def _from_folder(request: Request, folder: Path) -> Backbone:
    return _build(request, _config(read_json(folder / "config.json")), folder)


def _config(stated: dict[str, Any]) -> CLIPConfig:
    from transformers import CLIPConfig

    return CLIPConfig(**stated)


def _build(request: Request, config: CLIPConfig, folder: Path | None) -> TwoTowers:
    from transformers import CLIPModel

    with torch.device("meta" if request.meta else "cpu"):
        module = CLIPModel(config)
    vision = config.vision_config
    size = whole_patches(request.name, request.image_size or vision.image_size, vision.patch_size)
    if size != vision.image_size:
        raise BackboneError(
            f"{request.name} has positions for {vision.image_size} px only; leave image_size out."
        )
    if folder is None:
        stated = Preprocessing(size=(size, size), crop=1.0, interpolation="bicubic", **CLIP_COLOURS)
        return wrap(request.name, module, stated, None)
    if not request.meta:
        file = request.weights or folder / "model.safetensors"
        tensors = read_safetensors(file)
        # Counters that older versions of transformers stored.
        kept = {k: v for k, v in tensors.items() if not k.endswith("position_ids")}
        load_strictly(module, kept, str(file))
    return wrap(request.name, module, read_preprocessor(folder, size), HubTokenizer(folder))


class HubTokenizer:
    """The folder's own tokenizer.

    Raises:
        BackboneError: its files are missing.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import CLIPTokenizer

        names = {file.name for file in folder.iterdir()}
        # Without these files transformers makes an empty tokenizer and says nothing.
        if not ({"tokenizer.json"} <= names or {"vocab.json", "merges.txt"} <= names):
            raise BackboneError(
                f"{folder} has no CLIP tokenizer (tokenizer.json, or vocab.json and merges.txt). Copy "
                "it from where the model came from."
            )
        self._tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
        self.start: int = self._tokenizer.bos_token_id
        self.end: int = self._tokenizer.eos_token_id

    def __call__(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


class Projected(nn.Module):
    """Normalise every token, then project it into the joint space."""

    def __init__(self, norm: nn.Module, project: nn.Module) -> None:
        super().__init__()
        self.norm, self.project = norm, project

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.project(self.norm(tokens))
        return out


def wrap(
    name: str, module: CLIPModel, preprocessing: Preprocessing, tokenizer: Any | None
) -> TwoTowers:
    """Turn a ``CLIPModel`` into a backbone."""
    vision, text = module.vision_model, module.text_model
    width = module.config.vision_config.hidden_size

    def tokenise(images: Tensor) -> Tensor:
        tokens: Tensor = vision.pre_layrnorm(vision.embeddings(images))
        return tokens

    parts = Parts(
        tokenise=tokenise,
        embed=vision.embeddings,
        blocks=[_branches(layer, width) for layer in vision.encoder.layers],
        norm=Projected(vision.post_layernorm, module.visual_projection),
        prefix=1,
        pool=None,
        block_prefix="vision_model.encoder.layers.",
        top_prefixes=("vision_model.post_layernorm.", "visual_projection."),
        first_cut=first_cut(len(vision.encoder.layers)),
        step=lambda layer, tokens: _tensor(layer(tokens, attention_mask=None)),
    )
    t = module.config.text_config.hidden_size
    texts = TextParts(
        embed=text.embeddings.token_embedding,
        positions=text.embeddings.position_embedding,
        blocks=[_branches(layer, t) for layer in text.encoder.layers],
        step=lambda layer, tokens: _tensor(layer(tokens, attention_mask=_causal(tokens))),
        norm=text.final_layer_norm,
        project=module.text_projection,
        width=t,
        tokenizer=tokenizer,
    )
    return TwoTowers(
        name,
        module,
        preprocessing,
        module.config.projection_dim,
        parts,
        texts,
        stream=width,
        heads=module.config.vision_config.num_attention_heads,
        patch_count=vision.embeddings.num_patches,
        scale=module.logit_scale,
        text_prefixes=("text_model.", "text_projection.", "logit_scale"),
    )


def _branches(layer: Any, width: int) -> Branches:
    a = layer.self_attn
    q, k, v = (Site(linear, "out", width) for linear in (a.q_proj, a.k_proj, a.v_proj))
    return Branches(
        block=layer,
        attn_in=Site(layer.layer_norm1, "out", width),
        q=q,
        k=k,
        v=v,
        attn_out=a.out_proj,
        norm2=layer.layer_norm2,
        mlp=layer.mlp,
        hidden=layer.mlp.fc1,
        mlp_out=layer.mlp.fc2,
    )


def _tensor(out: Any) -> Tensor:
    """Layers gave tuples before transformers 5."""
    first: Tensor = out[0] if isinstance(out, tuple) else out
    return first


def _causal(tokens: Tensor) -> Tensor:
    """An additive mask (1, 1, T, T): a token sees itself and those before it."""
    count = tokens.shape[1]
    hidden = torch.full((count, count), torch.finfo(tokens.dtype).min, device=tokens.device)
    return hidden.triu(1).to(tokens.dtype)[None, None]
