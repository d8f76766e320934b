#!/bin/sh
# Accuracy by rank on three sets; docs/elbow.md holds what it gave.
#
#   benchmarks/inside_blocks/elbow.sh DATA ROOT OUT [BACKBONE]
#
# DATA holds clothing128/ and caltech101_128/, each with train/ and test/; ROOT holds FashionMNIST/raw/ as published.
set -eu
data=$1 root=$2 out=$3 backbone=${4:-petiole/tiny-vit}
here=$(dirname "$0")
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
[ -d "$out/fashion-mnist" ] || python "$here/../fashion_mnist.py" "$root" "$out/fashion-mnist"
for images in "$out/fashion-mnist" "$data/clothing128" "$data/caltech101_128"; do
    petiole sweep rank "$images" --backbone "$backbone" --values 1 8 64 --fractions 0.1 1 --seeds 3 \
        --set steps=300 views=0 batch_size=32 --precision bf16 --resume --quiet --out "$out/$(basename "$backbone")-$(basename "$images")"
done
