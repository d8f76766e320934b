"""A tiny VILA-U with random weights, its folder written name by name as the repository saves one."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor

D, ENTRIES, DEPTH, BLOCKS, SIDE, PATCH = 16, 20, 3, 3, 4, 8
MLP, WORDS, SLOTS, LANGUAGE, VOCABULARY = 24, 30, 7, 12, 80
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions."
)
TEXT = f"{SYSTEM} USER: \nwhat shape is this ? a red star ASSISTANT: star red"


def write(folder: Path, *, shared: bool = True, text: bool = True, words: bool = True) -> None:
    """Write a checkpoint; tower and language model in safetensors, the language model in two shards."""
    torch.manual_seed(0)
    put(folder / "config.json", {"model_type": "vila_u_llama", "mm_use_im_start_end": True})
    put(folder / "mm_projector/config.json", {"mm_projector_type": "mlp2x_gelu"})
    save(folder / "mm_projector", projector())
    put(folder / "vision_tower/config.json", tower_config(shared))
    put(folder / "vision_tower/siglip/config.json", siglip_config())
    save(folder / "vision_tower", tower(shared, text))
    if words:
        siglip_words(folder / "vision_tower")
    put(folder / "llm/config.json", llama_config())
    language = llama()
    names = sorted(language)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, own in shards.items():
        save_file({name: language[name] for name in own}, folder / "llm" / file)
    index = {name: file for file, own in shards.items() for name in own}
    put(folder / "llm/model.safetensors.index.json", {"weight_map": index})
    language_words(folder / "llm")


def put(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def save(folder: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / "model.safetensors")


def siglip_config() -> dict[str, Any]:
    same = {
        "hidden_size": D,
        "intermediate_size": MLP,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": 2,
    }
    words = {**same, "vocab_size": WORDS, "max_position_embeddings": SLOTS}
    sight = {**same, "image_size": SIDE * PATCH, "patch_size": PATCH}
    return {"model_type": "siglip", "text_config": words, "vision_config": sight}


def tower_config(shared: bool) -> dict[str, Any]:
    return {
        "model_type": "rqvaesigliptransformer_model",
        "hidden_size": D,
        "rqtransformer": {},
        "rqvaesiglip": {
            "embed_dim": D,
            "n_embed": ENTRIES,
            "latent_shape": [SIDE, SIDE, D],
            "code_shape": [SIDE, SIDE, DEPTH],
            "shared_codebook": shared,
            "pretrained_model": "siglip",
        },
    }


def llama_config() -> dict[str, Any]:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": VOCABULARY,
        "hidden_size": LANGUAGE,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
    }


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape) / 2


def linear(name: str, out: int, into: int) -> dict[str, Tensor]:
    return {f"{name}.weight": draw(out, into), f"{name}.bias": draw(out)}


def norm(name: str) -> dict[str, Tensor]:
    return {f"{name}.weight": 1 + draw(D) / 4, f"{name}.bias": draw(D)}


def block(at: str) -> dict[str, Tensor]:
    found = norm(f"{at}.layer_norm1") | norm(f"{at}.layer_norm2")
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        found |= linear(f"{at}.self_attn.{part}", D, D)
    return found | linear(f"{at}.mlp.fc1", MLP, D) | linear(f"{at}.mlp.fc2", D, MLP)


def tower(shared: bool, text: bool) -> dict[str, Tensor]:
    see, tell = "rqvaesiglip.siglip_model.vision_model", "rqvaesiglip.siglip_model.text_model"
    found = {
        f"{see}.embeddings.patch_embedding.weight": draw(D, 3, PATCH, PATCH),
        f"{see}.embeddings.patch_embedding.bias": draw(D),
        f"{see}.embeddings.position_embedding.weight": draw(SIDE * SIDE, D),
        f"{see}.embeddings.position_ids": torch.arange(SIDE * SIDE)[None],
        f"{see}.head.probe": draw(1, 1, D),
        f"{see}.head.attention.in_proj_weight": draw(3 * D, D),
        f"{see}.head.attention.in_proj_bias": draw(3 * D),
    }
    for i in range(BLOCKS):
        found |= block(f"{see}.encoder.layers.{i}")
    found |= norm(f"{see}.post_layernorm") | norm(f"{see}.head.layernorm")
    found |= linear(f"{see}.head.attention.out_proj", D, D)
    found |= linear(f"{see}.head.mlp.fc1", MLP, D) | linear(f"{see}.head.mlp.fc2", D, MLP)
    if text:
        found[f"{tell}.embeddings.token_embedding.weight"] = draw(WORDS, D)
        found[f"{tell}.embeddings.position_embedding.weight"] = draw(SLOTS, D)
        for i in range(BLOCKS):
            found |= block(f"{tell}.encoder.layers.{i}")
        found |= norm(f"{tell}.final_layer_norm") | linear(f"{tell}.head", D, D)
    # Shared with siglip_model, under the name that comes first.
    found |= {"rqvaesiglip.logit_scale": draw(1), "rqvaesiglip.logit_bias": draw(1)}
    for d in range(1 if shared else DEPTH):
        at = f"rqvaesiglip.quantizer.codebooks.{d}"
        found[f"{at}.weight"] = draw(ENTRIES + 1, D)
        found[f"{at}.cluster_size_ema"] = draw(ENTRIES)
        found[f"{at}.embed_ema"] = draw(ENTRIES, D)
    return found | {
        "rqvaesiglip.post_quant_conv.weight": draw(5, D, 1, 1),
        "rqvaesiglip.post_quant_conv.bias": draw(5),
        "rqvaesiglip.decoder.conv_in.weight": draw(5, 5, 3, 3),
        "rqtransformer.pos_emb_d": draw(1, DEPTH, D),
    }


def projector() -> dict[str, Tensor]:
    return linear("layers.0", LANGUAGE, D) | linear("layers.2", LANGUAGE, LANGUAGE)


def llama() -> dict[str, Tensor]:
    w = LANGUAGE
    found = {
        "model.embed_tokens.weight": draw(VOCABULARY, w),
        "lm_head.weight": draw(VOCABULARY, w),
    }
    for i in range(2):
        at = f"model.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            found[f"{at}.self_attn.{part}.weight"] = draw(w, w)
        found |= {
            f"{at}.mlp.gate_proj.weight": draw(20, w),
            f"{at}.mlp.up_proj.weight": draw(20, w),
            f"{at}.mlp.down_proj.weight": draw(w, 20),
            f"{at}.input_layernorm.weight": 1 + draw(w) / 4,
            f"{at}.post_attention_layernorm.weight": 1 + draw(w) / 4,
            f"{at}.self_attn.rotary_emb.inv_freq": draw(3),
        }
    return found | {"model.norm.weight": 1 + draw(w) / 4}


def language_words(folder: Path) -> None:
    """Words by their spaces, as sentencepiece marks them; a line break is a token of its own."""
    cut = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("\n"), "isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="first"),
        ]
    )
    pieces = {piece for piece, _ in cut.pre_tokenize_str(TEXT)} | {"▁what", "what", "▁", "\n"}
    specials = ["<unk>", "<s>", "</s>", "<im_start>", "<im_end>"]
    words = [*specials, *sorted(pieces - set(specials))]
    inner = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    inner.pre_tokenizer = cut
    inner.add_special_tokens([AddedToken(word, normalized=False) for word in specials])
    inner.save(str(folder / "tokenizer.json"))
    named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    put(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **named})


def siglip_words(folder: Path) -> None:
    words = ["<unk>", "</s>", "a", "red", "star", "photo", "of"]
    inner = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(words[:2])
    inner.save(str(folder / "tokenizer.json"))
    named = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "</s>"}
    put(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **named})
