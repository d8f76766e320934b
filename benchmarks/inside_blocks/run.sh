#!/bin/sh
# Head only, full fine-tuning, LoRA and AdapterTune on real images: three draws of ten images a
# class, learning rates by validation. docs/adaptertune.md holds what it gave.
#
#   benchmarks/inside_blocks/run.sh DATA VIT_S.safetensors OUT
#
# DATA holds clothing128/ and caltech101_128/, each with train/ and test/.
set -eu
data=$1 weights=$2 out=$3
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE

run() { # name, steps, options of the backbone
    name=$1 steps=$2
    shift 2
    for images in clothing128 caltech101_128; do
        petiole compare "$data/$images" --out "$out/$name-$images" --resume \
            --methods adaptertune lora-qkv full head-only --tune --shots 10 --draws 3 \
            --set batch_size=32 --set steps="$steps" --set views=0 --precision bf16 "$@"
        steps=$((3 * steps)) # ten times the classes
    done
}

case ${4:-all} in
tiny-vit | all) run tiny-vit 100 --backbone petiole/tiny-vit ;;
esac
case ${4:-all} in
vit-s | all)
    run vit-s 100 --backbone timm/vit_small_patch14_dinov2.lvd142m --weights "$weights" --image-size 98
    ;;
esac
