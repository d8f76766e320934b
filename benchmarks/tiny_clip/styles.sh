#!/usr/bin/env bash
# Prompt learners on petiole/tiny-lit under a change of style: benchmarks/tiny_clip/styles.sh OUT
# An hour of one core: a quarter for CoOp, another for MaPLe, the rest for CoCoOp; docs/tiny-lit.md.
set -euo pipefail
out=${1:?usage: styles.sh OUT}
here=$(dirname "$0")
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
drawn() { [ -d "$1" ] || petiole synthesize "$1" --task species "${@:2}"; }

drawn "$out/species" --train 32 --test 20
# The table, its host, shots a class, seeds, how many of them had been looked at before, test pictures a class and style, and where those of the own style lie.
while read -r table host shots seeds seen pictures own; do
  others=()
  for style in busy sketch blurred dark pixelated tinted noisy; do
    drawn "$out/$pictures/$style" --style "$style" --train 1 --test "$pictures"
    others+=("$out/$pictures/$style")
  done
  drawn "$out/$pictures/clear" --train 1 --test "$pictures"
  petiole generalise "$out/species" --test "$out/$own/test" --to "${others[@]}" --backbone petiole/tiny-lit --table "$here/$table.toml" \
    --shots "$shots" --seeds "$seeds" --set views=0 --precision bf16 --resume --quiet --out "$out/$table" < /dev/null
  python "$here/../contrasts.py" "$out/$table" "$host+textrefiner - $host" --places average --skip "$seen"
done <<'TABLES'
styles coop 16 8 3 10 species
styles_maple maple 4 5 0 10 species
styles_cocoop cocoop 4 3 0 2 2/clear
TABLES
