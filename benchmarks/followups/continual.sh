#!/usr/bin/env bash
# Ten classes of photographs in five tasks of two, learned one after the other on petiole/tiny-vit. Usage: continual.sh PHOTOS OUT
# PHOTOS has train/ and test/ with a folder for each class.
set -euo pipefail
export OMP_WAIT_POLICY=PASSIVE
mapfile -t classes < <(ls "$1/train")
tasks=()
for i in 0 1 2 3 4; do
  tasks+=("$2/tasks/task$((i + 1))")
  for part in train test; do
    mkdir -p "${tasks[i]}/$part"
    cp -rn "$1/$part/${classes[2 * i]}" "$1/$part/${classes[2 * i + 1]}" "${tasks[i]}/$part/"
  done
done
petiole continual "${tasks[@]}" --method averaged-ridge --backbone petiole/tiny-vit --shots 10 --resume --quiet --out "$2/ridge"
petiole continual "${tasks[@]}" --method cls-residual-lora --backbone petiole/tiny-vit --shots 10 --set steps=200 --set views=0 \
  --resume --quiet --out "$2/residual"
