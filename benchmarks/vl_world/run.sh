#!/usr/bin/env bash
# VL-Adapter on the generated world: benchmarks/vl_world/run.sh OUT
# First the rows that its claims name, 20 passes over few samples with rates by validation; PASSES=only ends there.
#
# Image tasks (2,000 training samples each) and two video tasks; three seeds, and eleven in passes; one core a run. nlvr is not among them unless
# TASKS="vqa gqa nlvr caption" says so: petiole/tiny-vl cannot compare two pictures even in words (docs/tiny-vl.md).
set -euo pipefail
out=${1:?usage: run.sh OUT}
here=$(dirname "$0")
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
common="--backbone petiole/tiny-vl --precision bf16 --processes ${PROCESSES:-2} --resume --quiet"
terms="$common --seeds 3 --set batch_size=48"

few=$out/few_samples
for task in vqa gqa; do
  [ -d "$few/$task" ] || petiole synthesize "$few/$task" --task "$task" --train 96 --test 300
done
[ -d "$few/caption" ] || petiole synthesize "$few/caption" --task caption --train 32 --test 100  # of 5 captions each
petiole multitask "$few/vqa" "$few/gqa" "$few/caption" $common --seeds 11 --visual-tokens 9 --set epochs=20 --set batch_size=32 \
  --table "$here/passes.toml" --out "$out/passes"
[ "${PASSES:-}" = only ] && exit

tasks=${TASKS:-vqa gqa caption}
for task in $tasks video-qa video-caption; do
  [ -d "$out/world/$task" ] || petiole synthesize "$out/world/$task" --task "$task" --train 2000 --test 500
done
images=$(for task in $tasks; do echo "$out/world/$task"; done)

petiole multitask $images $terms --set steps=300 --table "$here/rows.toml" --out "$out/table1"
petiole multitask $images $terms --set steps=300 --fraction 0.1 --table "$here/sharing.toml" --out "$out/few"
petiole multitask "$out/world/vqa" $terms --set steps=300 --table "$here/vision.toml" --out "$out/vision"
petiole multitask "$out/world/video-qa" "$out/world/video-caption" $terms --set steps=300 --table "$here/video.toml" --out "$out/video"
