#!/usr/bin/env bash
# Ten classes of photographs in five tasks of two, learned one after the other on petiole/tiny-vit. Usage: continual.sh PHOTOS OUT
# PHOTOS has train/ and test/ with a folder for each class.
set -euo pipefail
export OMP_WAIT_POLICY=PASSIVE
tasks=("$2"/tasks/task{1..5})
number=0
{ ls "$1/train" || true; } | head -n 10 | paste -d ' ' - - | while read -r first second; do
  for part in train test; do
    mkdir -p "${tasks[number]}/$part"
    cp -rn "$1/$part/$first" "$1/$part/$second" "${tasks[number]}/$part/"
  done
  number=$((number + 1))
done
petiole continual "${tasks[@]}" --method averaged-ridge --backbone petiole/tiny-vit --shots 10 --resume --quiet --out "$2/ridge"
petiole continual "${tasks[@]}" --method cls-residual-lora --backbone petiole/tiny-vit --shots 10 --set steps=200 --set views=0 \
  --resume --quiet --out "$2/residual"
