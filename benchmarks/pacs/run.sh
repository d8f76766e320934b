#!/usr/bin/env bash
# Tables 1-3 of CLS-Residual LoRA on PACS, sketch as source and photo as target: docs/cls-residual-lora.md.
# About an hour and a half on a busy machine with two cores; finished runs are kept, so it can be interrupted and repeated.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_WAIT_POLICY=PASSIVE
pacs=../shared/data/pacs_sketch_photo
vit="--backbone timm/vit_small_patch14_dinov2 --image-size 98
     --weights ../shared/weights/vit_small_patch14_focus/model.safetensors"
compare() {
  .venv/bin/petiole compare "$pacs/photo" --source "$pacs/sketch" --split-seeds 5 --precision bf16 \
    --resume --quiet --set steps=500 "$@"
}
compare --set views=2 --table cls-residual-lora/table1 --out runs/pacs/lite0-table1
compare --set views=2 --table benchmarks/pacs/contrastive.toml --out runs/pacs/lite0-contrastive
# shellcheck disable=SC2086  # $vit is several options
{
  compare $vit --set views=2 --table cls-residual-lora/table1 --out runs/pacs/vit-table1
  compare $vit --set views=2 --table benchmarks/pacs/table2.toml --out runs/pacs/vit-table2
  compare $vit --set views=0 --table cls-residual-lora/table3 --out runs/pacs/vit-table3
  compare $vit --set views=2 --table benchmarks/pacs/training.toml --out runs/pacs/vit-training
  compare $vit --set views=2 --table cls-residual-lora/factorial --out runs/pacs/vit-factorial
}
