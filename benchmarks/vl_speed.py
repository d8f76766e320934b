"""A training step on BART-base (random weights): single adapter against full fine-tuning, and against the library `adapters`.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/vl_speed.py --repeats 5 --adapters-python ENV/bin/python

ENV is an environment of its own: `python -m venv ENV; ENV/bin/pip install torch==2.14.1 adapters==1.3.0` (it needs transformers 4.57).
Every measurement is a fresh process; kinds take turns, so that a drift of the machine hits all. Seconds are the processor's, of one thread. With images: 20 text tokens and 36 visual ones;
against `adapters`, which takes no images, 56 text tokens for both. 10 target tokens, fp32, AdamW, dropout off.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

BATCH, TEXT, SEEN, TARGET, STEPS, WARM = 16, 20, 36, 10, 6, 2
BASE = {
    "d_model": 768,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_attention_heads": 12,
    "decoder_attention_heads": 12,
    "encoder_ffn_dim": 3072,
    "decoder_ffn_dim": 3072,
}
KINDS = {"adapter": "vl-adapter", "full": "vl-full", "adapter-text": "vl-adapter"}


def ours(kind: str) -> dict[str, float]:
    import torch

    from petiole.backbones.encoder_decoder import Inputs
    from petiole.backbones.encoder_decoder.loading import architecture, with_visual
    from petiole.tasks.text.adapter import method_of
    from petiole.tasks.text.model import AdaptedTextModel, GenerationBatch, GenerationLoss

    language, family = architecture({"model_type": "bart", **BASE})
    has_images = kind != "adapter-text"
    model = with_visual(kind, language, family, None, vision_width=2048 if has_images else 0)
    method = method_of(KINDS[kind], {"tasks": 1})
    loss_module = GenerationLoss(AdaptedTextModel(model, method.plan(model)))
    trained = [p for p in loss_module.parameters() if p.requires_grad]
    words = TEXT if has_images else TEXT + SEEN
    ids = torch.randint(3, 50000, (BATCH, words))
    visual = torch.randn(BATCH, SEEN, 2048) if has_images else None
    batch = GenerationBatch(
        Inputs(ids, torch.ones_like(ids, dtype=torch.bool), visual),
        torch.randint(3, 50000, (BATCH, TARGET)),
        torch.full((BATCH,), 1 / BATCH / TARGET),
        (0,) * BATCH,
    )
    return timed(trained, lambda: loss_module(batch))


def theirs() -> dict[str, float]:
    import adapters
    import torch
    from adapters import DoubleSeqBnConfig
    from transformers import BartConfig, BartForConditionalGeneration

    model = BartForConditionalGeneration(BartConfig(dropout=0.0, **BASE))
    adapters.init(model)
    model.add_adapter(
        "task", DoubleSeqBnConfig(cross_adapter=True, reduction_factor=8, non_linearity="gelu_new")
    )
    model.train_adapter("task")
    for name, parameter in model.named_parameters():  # as ours: norms too
        if "layer_norm" in name or "layernorm" in name:
            parameter.requires_grad_(True)
    model.train()
    ids = torch.randint(3, 50000, (BATCH, TEXT + SEEN))
    labels = torch.randint(3, 50000, (BATCH, TARGET))
    trained = [p for p in model.parameters() if p.requires_grad]
    mask = torch.ones_like(ids)
    return timed(trained, lambda: model(input_ids=ids, attention_mask=mask, labels=labels).loss)


def timed(trained: list, loss) -> dict[str, float]:
    """Median processor seconds of a step, trained numbers, and peak resident memory, in MB."""
    import resource

    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    adam, times = torch.optim.AdamW(trained, lr=1e-4), []
    for _ in range(WARM + STEPS):
        start = time.process_time()
        torch.autograd.backward(loss())
        adam.step()
        adam.zero_grad()
        times.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "seconds": median(times[WARM:]),
        "megabytes": peak,
        "trained": sum(p.numel() for p in trained),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--adapters-python", type=Path)
    parser.add_argument("--kinds", nargs="+", help="those alone, e.g. adapter-text adapters")
    parser.add_argument("--one", choices=(*KINDS, "adapters"))
    options = parser.parse_args()
    if options.one:
        print(json.dumps(theirs() if options.one == "adapters" else ours(options.one)))
        return
    pythons = dict.fromkeys(KINDS, Path(sys.executable))
    if options.adapters_python:
        pythons["adapters"] = options.adapters_python
    pythons = {kind: pythons[kind] for kind in options.kinds or pythons}
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in pythons}
    for _ in range(options.repeats):
        for kind, python in pythons.items():
            command = [str(python), __file__, "--one", kind]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[kind].append(json.loads(done.stdout.strip().splitlines()[-1]))
    for kind, rows in found.items():
        print(
            f"{kind:14} {rows[0]['trained']:>12,} trained  "
            f"{median(r['seconds'] for r in rows):.3f} CPU s a step  {median(r['megabytes'] for r in rows):,.0f} MB"
        )
    pairs = [("full", "adapter"), ("adapters", "adapter-text")]
    for slow, fast in (pair for pair in pairs if set(pair) <= found.keys()):
        for what in ("seconds", "megabytes"):
            ratios = [a[what] / b[what] for a, b in zip(found[slow], found[fast], strict=True)]
            print(
                f"{slow} over {fast}, {what}: {median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            )


if __name__ == "__main__":
    main()
