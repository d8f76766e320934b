"""A small English BART, pre-trained on text alone: the language part of a real CLIP-BART where no hub is reachable.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/real_vl/pretrain.py VQA2_TEXT OUT --minutes 10

VQA2_TEXT holds the questions and answers of VQA v2 without their images (vqa_questions_train.gzip, vqa_annotatons_train.gzip; annotations CC-BY-4.0).
Half of the batches restore questions from which a third of the words was cut out in spans (BART's denoising), half say the commonest
answer of a question, blind. OUT becomes a folder that transformers reads: config.json, model.safetensors, tokenizer.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
WORDS, BATCH, CUT = 3000, 96, 0.3


def read(file: Path) -> list[dict]:
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        content = json.load(stream)
    return content.get("questions") or content["annotations"]


def pairs(folder: Path) -> list[tuple[str, str]]:
    """Questions with their commonest answer."""
    answers = {
        a["question_id"]: Counter(x["answer"] for x in a["answers"]).most_common(1)[0][0]
        for a in read(folder / "vqa_annotatons_train.gzip")
    }
    questions = read(folder / "vqa_questions_train.gzip")
    return [
        (q["question"], answers[q["question_id"]]) for q in questions if q["question_id"] in answers
    ]


def tokenizer_of(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-pair encoding over lower-case words."""
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    inner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=WORDS, special_tokens=SPECIAL))
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


def damaged(ids: list[int], rng: np.random.Generator) -> list[int]:
    """Spans of one to three tokens, a third of all, become one mask each."""
    inner, out, i = ids[1:-1], [ids[0]], 0
    while i < len(inner):
        if rng.random() < CUT / 2:
            out.append(4)
            i += int(rng.integers(1, 4))
        else:
            out.append(inner[i])
            i += 1
    return [*out, ids[-1]]


def tensor(rows: list[list[int]], fill: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("texts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=10, help="of processor time")
    options = parser.parse_args()
    data = pairs(options.texts)
    tokenizer = tokenizer_of([text for pair in data for text in pair])
    questions = [tokenizer(q, truncation=True, max_length=30)["input_ids"] for q, _ in data]
    answers = [tokenizer(a, truncation=True, max_length=10)["input_ids"] for _, a in data]
    torch.manual_seed(0)
    model = BartForConditionalGeneration(
        BartConfig(
            vocab_size=len(tokenizer),
            d_model=192,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=6,
            decoder_attention_heads=6,
            encoder_ffn_dim=768,
            decoder_ffn_dim=768,
            max_position_embeddings=128,
            attention_dropout=0.1,
            activation_dropout=0.1,
        )
    )
    adam = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    rng, start, step, total = np.random.default_rng(0), time.process_time(), 0, {}
    log = []
    model.train()
    while (spent := (time.process_time() - start) / 60) < options.minutes:
        for group in adam.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 200) * (1 - spent / options.minutes)
        rows = rng.integers(0, len(data), BATCH).tolist()
        kind = "answer" if step % 2 else "denoise"
        source = [questions[i] if kind == "answer" else damaged(questions[i], rng) for i in rows]
        ids, labels = (
            tensor(source, 1),
            tensor([(answers if kind == "answer" else questions)[i] for i in rows], -100),
        )
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, attention_mask=(ids != 1).long(), labels=labels).loss
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        now = loss.item()
        total[kind] = 0.98 * total.get(kind, now) + 0.02 * now
        step += 1
        if step % 100 == 0:
            log.append(
                {
                    "step": step,
                    "minutes": round(spent, 2),
                    **{k: round(v, 3) for k, v in total.items()},
                }
            )
            print(log[-1], flush=True)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    (options.out / "pretraining.json").write_text(
        json.dumps({"steps": step, "log": log}), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
