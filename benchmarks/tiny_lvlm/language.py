"""Train a language model of petiole/tiny-lvlm over a finished tower, which stays as it is.

    L = CE(answer tokens | image tokens, question)        trained: projector and language model

Every model has an architecture, a seed and an order of data of its own, and sees the base domain alone. One step in twenty learns
sentences without a picture, the only place where the words of the domain ``novel`` occur. With ``--continuous`` it reads
z instead of z^: the twin that the claim about codes is held against.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/tiny_lvlm/language.py OUT --seed 0 --language llama
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pool import Pool, drawn, pictures
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from petiole.backbones.bundled.word_list import WordList
from petiole.backbones.codebook_lvlm import causal
from petiole.backbones.codebook_lvlm.bundle import (
    END,
    PAD,
    PROMPT,
    START,
    load_tower,
    save_language,
)
from petiole.backbones.codebook_lvlm.model import IGNORED, LVLM, LVLMModule
from petiole.backbones.codebook_lvlm.tower import Tower
from petiole.data.synthetic.boards import text_only_sentences

COMMON: dict[str, Any] = {
    "bos_token_id": START,
    "eos_token_id": END,
    "pad_token_id": PAD,
    "attn_implementation": "eager",  # faster than sdpa for so few tokens
}
LLAMA = {
    "model_type": "llama",
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
LANGUAGES: dict[str, tuple[dict[str, Any], str]] = {
    # RMSNorm, rotary positions, SwiGLU, grouped queries
    "llama": (
        LLAMA
        | {
            "hidden_size": 128,
            "intermediate_size": 344,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
        },
        "mlp2x_gelu",
    ),
    # the surrogate that costs little
    "small": (
        LLAMA
        | {
            "hidden_size": 64,
            "intermediate_size": 172,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
        "mlp2x_gelu",
    ),
    # LayerNorm, learned positions, GELU, tied words
    "gpt2": (
        {
            "model_type": "gpt2",
            "n_embd": 128,
            "n_layer": 4,
            "n_head": 4,
            "n_positions": 256,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        },
        "linear",
    ),
    # gated short convolutions with attention in every second block
    "lfm2": (
        {
            "model_type": "lfm2",
            "hidden_size": 128,
            "intermediate_size": 344,
            "block_auto_adjust_ff_dim": False,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "layer_types": ["conv", "full_attention", "conv", "full_attention"],
            "max_position_embeddings": 256,
        },
        "linear",
    ),
}


def looked(tower: Tower, pool: Pool, file: Path) -> tuple[Tensor, Tensor]:
    """z (n, N, d) in half precision and codes (n, N, D) of the whole pool, computed once."""
    if not file.exists():
        zs, codes = [], []
        with torch.no_grad():
            for start in range(0, len(pool), 500):
                vision_output = tower.encode_images(pictures(pool.images[start : start + 500]))
                zs.append(vision_output.z.half().numpy())
                codes.append(vision_output.codes.to(torch.int16).numpy())
        part = file.with_suffix(".part.npz")
        np.savez(part, z=np.concatenate(zs), codes=np.concatenate(codes))
        part.replace(file)
    with np.load(file) as kept:
        return torch.from_numpy(kept["z"]), torch.from_numpy(kept["codes"])


def train(
    model: LVLM, pool: Pool, seen: Tensor, chosen: argparse.Namespace
) -> list[dict[str, float]]:
    """Train projector and language model in place."""
    parts = (model.module.projector, model.module.language)
    parameters = [p for part in parts for p in part.parameters()]
    for p in parameters:
        p.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=chosen.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, chosen.lr, chosen.steps, pct_start=0.1
    )
    words = model.tokenizer
    assert words is not None
    turns_of = [[(words.split(q), words.split(a)) for q, a in row] for row in pool.turns]
    name = sorted(LANGUAGES).index(chosen.language)
    rng = np.random.default_rng([chosen.seed, 2, name, int(chosen.continuous)])
    log, begun = [], time.time()
    model.module.language.train()
    for step in range(chosen.steps):
        if step % 20 == 19:
            texts = [str(rng.choice(text_only_sentences(rng))) for _ in range(chosen.batch)]
            nothing = torch.zeros(chosen.batch, 0, model.spec.width)
            turns = model.turns(nothing, [[]] * chosen.batch, [words.split(s) for s in texts])
        else:
            rows = rng.integers(len(pool), size=chosen.batch)
            pairs = [turns_of[i][rng.integers(len(turns_of[i]))] for i in rows]
            own = seen[rows]
            given = (
                own.float() if model.discrete is False else model.tower.quantiser.embed(own.long())
            )
            turns = model.turns(given, [q for q, _ in pairs], [a for _, a in pairs])
        with torch.autocast("cpu", torch.bfloat16, enabled=chosen.bf16):
            logits = model.logits(turns).float()
        loss = cross_entropy(logits.flatten(0, 1), turns.labels.flatten(), ignore_index=IGNORED)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0 or step == chosen.steps - 1:
            line = {
                "step": step,
                "loss": round(float(loss.detach()), 4),
                "seconds": round(time.time() - begun),
            }
            log.append(line)
            print(json.dumps(line), flush=True)
    model.module.requires_grad_(False).eval()
    return log


def fresh(tower: Tower, words: WordList, chosen: argparse.Namespace) -> LVLM:
    """A model with random projector and language model."""
    name = sorted(LANGUAGES).index(chosen.language)
    torch.manual_seed(1000 * chosen.seed + 10 * name + int(chosen.continuous))
    config, kind = LANGUAGES[chosen.language]
    language = causal.build(config | COMMON | {"vocab_size": len(words)})
    width = language.get_input_embeddings().embedding_dim
    projector = causal.projector(kind, tower.spec.width, width)
    return LVLM(
        chosen.language,
        LVLMModule(tower, projector, language),
        words,
        PROMPT,
        discrete=not chosen.continuous,
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("out", type=Path)
    options.add_argument("--language", choices=sorted(LANGUAGES), required=True)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--continuous", action="store_true")
    options.add_argument("--pictures", type=int, default=40000)
    options.add_argument("--steps", type=int, default=2000)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--lr", type=float, default=2.5e-3)
    options.add_argument("--bf16", action="store_true", help="in mixed precision")
    chosen = options.parse_args()
    pool = drawn(chosen.out, chosen.pictures, chosen.seed)
    home = chosen.out / f"base{chosen.seed}"
    tower, words = load_tower(f"base{chosen.seed}", home / "tower")
    z, codes = looked(tower, pool, home / "looked.npz")
    model = fresh(tower, words, chosen)
    log = train(model, pool, z if chosen.continuous else codes, chosen)
    config, kind = LANGUAGES[chosen.language]
    folder = home / (chosen.language + "-continuous" * chosen.continuous)
    save_language(model, config | COMMON, kind, folder)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))


if __name__ == "__main__":
    main()
