#!/usr/bin/env bash
# Prompt learners on petiole/tiny-lit under a change of style: benchmarks/tiny_clip/styles.sh OUT
# A quarter of an hour of one core for CoOp, and another for MaPLe; docs/tiny-lit.md.
set -euo pipefail
out=${1:?usage: styles.sh OUT}
here=$(dirname "$0")
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
others=""
[ -d "$out/species" ] || petiole synthesize "$out/species" --task species --train 32 --test 20
for style in busy sketch blurred dark pixelated tinted noisy; do
  [ -d "$out/$style" ] || petiole synthesize "$out/$style" --task species --style "$style" --train 1 --test 10
  others="$others $out/$style"
done
# shellcheck disable=SC2086  # several folders
petiole generalise "$out/species" --to $others --backbone petiole/tiny-lit --table "$here/styles.toml" --seeds 8 \
  --set views=0 --precision bf16 --resume --quiet --out "$out/styles"
python "$here/../contrasts.py" "$out/styles" "coop+textrefiner - coop" --places average --skip 3  # three had been looked at
# shellcheck disable=SC2086
petiole generalise "$out/species" --to $others --backbone petiole/tiny-lit --table "$here/styles_maple.toml" --shots 4 --seeds 5 \
  --set views=0 --precision bf16 --resume --quiet --out "$out/styles_maple"
python "$here/../contrasts.py" "$out/styles_maple" "maple+textrefiner - maple" --places average
