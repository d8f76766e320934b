#!/bin/sh
# Head only, full fine-tuning, LoRA and AdapterTune on real images: three draws of ten images a
# class, learning rates by validation. docs/adaptertune.md holds what it gave.
#
#   benchmarks/inside_blocks/run.sh DATA VIT_S.safetensors OUT [ROOT]
#
# DATA holds clothing128/ and caltech101_128/, each with train/ and test/; ROOT, if it is given, FashionMNIST/raw/ as published.
set -eu
data=$1 weights=$2 out=$3 root=${4:-}
here=$(dirname "$0")
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE

run() { # name, images, steps, methods, options of the backbone
    name=$1 images=$2 steps=$3 methods=$4
    shift 4
    # shellcheck disable=SC2086
    petiole compare "$images" --out "$out/$name" --resume --methods $methods --tune \
        --shots 10 --split-seeds 3 --set batch_size=32 --set steps="$steps" --set views=0 \
        --precision bf16 "$@"
}

all="adaptertune lora-qkv full head-only"
vit_s="--backbone timm/vit_small_patch14_dinov2.lvd142m --image-size 98"
run tiny-vit-clothing "$data/clothing128" 300 "$all" --backbone petiole/tiny-vit
run tiny-vit-caltech "$data/caltech101_128" 60 "$all" --backbone petiole/tiny-vit
run tiny-vit-caltech-long "$data/caltech101_128" 900 "adaptertune lora-qkv head-only" \
    --backbone petiole/tiny-vit
# shellcheck disable=SC2086
run vit-s-clothing "$data/clothing128" 60 "$all" $vit_s --weights "$weights"
# shellcheck disable=SC2086
run vit-s-caltech "$data/caltech101_128" 60 "$all" $vit_s --weights "$weights"
if [ -n "$root" ]; then
    [ -d "$out/fashion-mnist" ] || python "$here/../fashion_mnist.py" "$root" "$out/fashion-mnist"
    run tiny-vit-fashion "$out/fashion-mnist" 300 "adaptertune lora-qkv head-only" \
        --backbone petiole/tiny-vit
fi
