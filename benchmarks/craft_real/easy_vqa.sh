#!/bin/sh
# Pictures and questions that nobody here drew or wrote, in words that petiole/tiny-lvlm knows; docs/craft.md holds what it gave.
#
#   benchmarks/craft_real/easy_vqa.sh DATA OUT
#
# DATA is easy_vqa/data of the unpacked package easy-vqa 1.0.
set -eu
data=$1 out=$2
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
[ -f "$out/images/test.jsonl" ] || python "$(dirname "$0")/easy_vqa.py" "$data" "$out/images"
others="--language-model petiole/tiny-lvlm-gpt2 petiole/tiny-lvlm-lfm2"
# shellcheck disable=SC2086
petiole fit "$out/images" --method lvlm-zero-shot $others --out "$out/zero-shot" --resume --quiet
for seed in 0 1 2; do
    # shellcheck disable=SC2086
    petiole fit "$out/images" --method craft --set steps=200 --set lr=1e-3 --set contrast=1 --set commit=1 \
        --seed "$seed" --precision bf16 $others --out "$out/craft-$seed" --resume --quiet
    for rival in llm-lora projector-ft; do
        petiole fit "$out/images" --method "$rival" --set steps=200 --seed "$seed" --precision bf16 \
            --out "$out/$rival-$seed" --resume --quiet
    done
done
