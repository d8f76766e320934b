#!/usr/bin/env bash
# Calibration of CaRot where it is trained and under a change of style, on petiole/tiny-clip. Usage: calibrated.sh OUT
set -euo pipefail
here=$(dirname "$0")
export OMP_WAIT_POLICY=PASSIVE
[ -d "$1/compositions" ] || petiole synthesize "$1/compositions" --task compositions --train 16 --test 20
for style in clear pixelated tinted; do
  [ -d "$1/$style" ] || petiole synthesize "$1/$style" --task compositions --style "$style" --train 1 --test 20
done
petiole generalise "$1/compositions/train" --test "$1/compositions/test" --to "$1"/{clear,pixelated,tinted} \
  --backbone petiole/tiny-clip --table "$here/carot.toml" --seeds 3 --resume --quiet --out "$1/carot"
for score in ece accuracy; do
  python "$here/../contrasts.py" "$1/carot" "carot - contrastive" "carot - contrastive-more" "carot - clip-lora" --score "$score" --places source average
done
