"""Tiny vision-language models over one codebook, with random weights, and a board to ask them about."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from petiole.backbones.bundled import tiny_lvlm
from petiole.backbones.bundled.word_list import WordList
from petiole.backbones.codebook_lvlm import LVLM, CodebookSpec, PromptTemplate, Tower, causal
from petiole.backbones.codebook_lvlm.bundle import (
    END,
    IMAGE,
    IMAGE_END,
    OTHER,
    PAD,
    PROMPT,
    SPECIALS,
    START,
    save_language,
    save_tower,
)
from petiole.backbones.codebook_lvlm.model import LVLMModule
from petiole.data.preprocessing import evaluate_transform
from petiole.data.readers.jsonl import open_plain
from petiole.data.synthetic import boards
from petiole.data.text_dataset import TextDataset
from petiole.engine.run import RunSpec
from petiole.layers.residual_quantiser import ResidualQuantiser
from petiole.tasks.codebook.workspace import CodebookQuestions, CodebookWorkspace

Family = Literal["llama", "gpt2", "lfm2"]
FAMILIES: tuple[Family, ...] = ("llama", "gpt2", "lfm2")
D, ENTRIES, DEPTH, WIDTH, GRID = 16, 32, 2, 32, (4, 4)
TOKENS = GRID[0] * GRID[1]
ENCODER: dict[str, Any] = {
    "size": 24,
    "patch": 6,
    "width": 32,
    "blocks": 2,
    "d": D,
    "space": 8,
    "text_width": 16,
    "longest": 24,
}
SAME = {"bos_token_id": START, "eos_token_id": END, "pad_token_id": PAD}
LANGUAGES: dict[Family, dict[str, Any]] = {
    "llama": {
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        **SAME,
    },
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": WIDTH,
        "n_layer": 1,
        "n_head": 4,
        "n_positions": 128,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        **SAME,
    },
    "lfm2": {
        "model_type": "lfm2",
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "block_auto_adjust_ff_dim": False,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "layer_types": ["conv", "full_attention"],
        "max_position_embeddings": 128,
        **SAME,
    },
}
PROJECTORS: dict[Family, str] = {"llama": "mlp2x_gelu", "gpt2": "linear", "lfm2": "linear"}
LONG_PROMPT = PromptTemplate((START, IMAGE), (IMAGE_END, OTHER), (OTHER, START), END, PAD)
"""With something at every place, unlike that of the bundles."""


def words() -> WordList:
    """Of the board."""
    return WordList(boards.words(), SPECIALS, OTHER)


def tower(seed: int = 0, *, contrast: bool = True) -> Tower:
    """Random weights, the same at every call; entries scattered as z is."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        image_backbone = tiny_lvlm.encoder("tiny:tower", ENCODER)
        quantiser = ResidualQuantiser(ENTRIES, D, DEPTH)
        seen = {"images": pictures(12, seed=11, domain="base")}
        z = image_backbone.upper(seen, (image_backbone.patches,))[image_backbone.patches].flatten(
            0, 1
        )
        chosen = z[torch.randperm(len(z))[: ENTRIES // 2]]
        rest = 0.3 * z.std(0) * torch.randn(ENTRIES // 2, D)  # of use at the second depth
        quantiser.codebooks.copy_(torch.cat([chosen, rest])[None])
        heads = tiny_lvlm.contrast(ENCODER, words(), PAD) if contrast else None
        spec = CodebookSpec.of(
            quantiser.codebooks, DEPTH, tap=2, grid=GRID, preprocessing=image_backbone.preprocessing
        )
        made = Tower(image_backbone, quantiser, spec, heads)
        made.frequencies.copy_(torch.rand(ENTRIES) + 0.1)
        made.frequencies /= made.frequencies.sum()
    return made


def model(
    family: Family = "llama",
    over: Tower | None = None,
    *,
    seed: int = 1,
    discrete: bool = True,
    prompt: PromptTemplate = PROMPT,
) -> LVLM:
    """A language model whose large random weights give every image an answer of its own."""
    over = over or tower()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        projector = causal.projector(PROJECTORS[family], D, WIDTH)
        language = causal.build({**LANGUAGES[family], "vocab_size": len(words())})
        with torch.no_grad():
            words_at = language.get_input_embeddings().weight  # type: ignore[operator]
            for parameter in (*language.parameters(), *projector.parameters()):
                if parameter.ndim > 1:  # strong blocks, or tied words repeat themselves
                    parameter.mul_(4.0 if parameter is words_at else 8.0)
    return LVLM(
        f"tiny-{family}", LVLMModule(over, projector, language), words(), prompt, discrete=discrete
    )


def pictures(count: int = 3, seed: int = 3, domain: str = "tail") -> Tensor:
    """Preprocessed images of the board."""
    drawn = boards.batch(domain, "test", range(count), seed)
    transform = evaluate_transform(tiny_lvlm.preprocessing(ENCODER["size"]))
    return torch.stack([transform(Image.fromarray(one.image)) for one in drawn])


def data(folder: Path, domain: str = "sketch", train: int = 12, test: int = 6) -> TextDataset:
    """Questions of a domain of the board."""
    return open_plain(boards.write(folder, domain, train=train, val=2, test=test))


def save(folder: Path, over: Tower | None = None) -> dict[Family, Path]:
    """Bundles over one tower, by family."""
    over = over or tower()
    save_tower(over, ENCODER, words(), folder / "tower")
    for family in FAMILIES:
        made = model(family, over)
        save_language(made, LANGUAGES[family], PROJECTORS[family], folder / family)
    return {family: folder / family for family in FAMILIES}


def hashes(lvlm: LVLM, *parts: str) -> dict[str, bytes]:
    """Bytes of every tensor below these parts of the model; of all without any."""
    return {
        name: value.numpy().tobytes()
        for name, value in lvlm.module.state_dict().items()
        if not parts or name.startswith(parts)
    }


def codebook_run(
    folder: Path,
    over: LVLM,
    questions: TextDataset,
    method: str = "craft",
    settings: Mapping[str, Any] | None = None,
    *,
    others: tuple[LVLM, ...] = (),
    general: TextDataset | None = None,
    **changes: Any,
) -> tuple[RunSpec, CodebookWorkspace]:
    """A run on opened models and questions; ``changes`` are of its ``RunSpec``."""
    task = CodebookQuestions(over.name, questions.root, quiet=True)
    spec = RunSpec(task, method, folder, settings or {}, checkpoint_seconds=0, **changes)
    return spec, CodebookWorkspace(task, over, questions, others, general)
