#!/usr/bin/env bash
# OGEN in long training: whether novel accuracy stops falling, on petiole/tiny-lit's species with four shots. Usage: long.sh OUT
set -euo pipefail
here=$(dirname "$0")
export OMP_WAIT_POLICY=PASSIVE
[ -d "$1/species" ] || petiole synthesize "$1/species" --task species --train 32 --test 20
petiole generalise "$1/species" --backbone petiole/tiny-lit --table "$here/long.toml" --shots 4 \
  --seeds 3 --precision bf16 --resume --quiet --out "$1/long"
python "$here/../contrasts.py" "$1/long" "coop-200 - coop-10" "ogen-200 - ogen-10" "ogen-200 - ogen-10 - coop-200 + coop-10" "ogen-200 - coop-200" --places novel
