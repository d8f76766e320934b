#!/usr/bin/env bash
# Base to novel on petiole/tiny-clip: GLAD, EFlat-LoRA, Flat-LoRA, OGEN and CaRot beside their hosts. Usage: base_to_novel.sh OUT
# The held-out compositions of the synthetic scenes, 40 classes; the names of the novel 20 go to the row that says so.
set -euo pipefail
here=$(dirname "$0")
export OMP_WAIT_POLICY=PASSIVE
[ -d "$1/compositions" ] || petiole synthesize "$1/compositions" --task compositions --train 16 --test 20
novel=$({ ls "$1/compositions/train" || true; } | sort | tail -n +21 | paste -sd, -)
for table in prompts lora; do
  names=()
  [ "$table" = lora ] || names=(--set "unknown_names=$novel")
  petiole generalise "$1/compositions/train" --test "$1/compositions/test" --backbone petiole/tiny-clip \
    --table "$here/$table.toml" "${names[@]}" --seeds 3 --resume --quiet --out "$1/$table"
done
