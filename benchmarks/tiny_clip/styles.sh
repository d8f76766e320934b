#!/usr/bin/env bash
# Prompt learners on petiole/tiny-lit under a change of style: benchmarks/tiny_clip/styles.sh OUT
# Forty minutes of one core, most of them MaPLe's; docs/tiny-lit.md.
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

# Seeds, table, folder, and the contrast of its rows.
measured() {
  # shellcheck disable=SC2086  # several folders
  petiole generalise "$out/species" --to $others --backbone petiole/tiny-lit --table "$here/$2" --seeds "$1" \
    --set views=0 --precision bf16 --resume --quiet --out "$out/$3"
  python "$here/../contrasts.py" "$out/$3" "$4" --places average
}

measured 8 styles.toml styles "coop+textrefiner - coop"
measured 3 styles_maple.toml styles-maple "maple+textrefiner - maple"
