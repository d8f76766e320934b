#!/bin/sh
# Base to novel on real images with a real pair that is not CLIP. Usage: run.sh IMAGES MINILM OUT
#   IMAGES  Caltech-101 with train/<class>/ and test/<class>/;  MINILM  folder of all-MiniLM-L6-v2
set -e
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
here=$(dirname "$0")
[ -d "$3/caltech-101" ] || python "$here/layout.py" "$1" "$3/caltech-101"
[ -d "$3/pair" ] || petiole pair "$3/pair" --text "$2"
petiole generalise "$3/caltech-101" --backbone "$3/pair" --table "$here/rows.toml" --seeds 3 --precision bf16 \
    --processes 2 --out "$3/table" --resume
