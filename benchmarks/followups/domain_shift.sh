#!/usr/bin/env bash
# SAM and ASAM under a domain shift, on petiole/tiny-vit: ten photographs a class beside many sketches. Usage: domain_shift.sh SKETCH PHOTO OUT
# The folders have a folder for each class (PACS: sketch and photo).
set -euo pipefail
export OMP_WAIT_POLICY=PASSIVE
petiole compare "$2" --source "$1" --backbone petiole/tiny-vit --shots 10 --split-seeds 3 \
  --table "$(dirname "$0")/domain_shift.toml" --set views=0 --resume --quiet --out "$3/domain-shift"
differences=()
for host in residual adaptertune; do
  for rule in sam asam; do
    differences+=("$host-$rule - $host" "$host-$rule - $host-twice")
  done
done
python "$(dirname "$0")/../contrasts.py" "$3/domain-shift" "${differences[@]}"
