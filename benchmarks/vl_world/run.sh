#!/usr/bin/env bash
# VL-Adapter on the generated world: benchmarks/vl_world/run.sh OUT
# Image tasks (2,000 training samples each) and two video tasks; three seeds; one core a run. nlvr is not among them unless
# TASKS="vqa gqa nlvr caption" says so: petiole/tiny-vl cannot compare two pictures even in words (docs/tiny-vl.md).
set -euo pipefail
out=${1:?usage: run.sh OUT}
here=$(dirname "$0")
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
terms="--backbone petiole/tiny-vl --seeds 3 --set batch_size=48 --precision bf16 --processes ${PROCESSES:-2} --resume --quiet"

tasks=${TASKS:-vqa gqa caption}
for task in $tasks video-qa video-caption; do
  [ -d "$out/world/$task" ] || petiole synthesize "$out/world/$task" --task "$task" --train 2000 --test 500
done
images=$(for task in $tasks; do echo "$out/world/$task"; done)

petiole multitask $images $terms --set steps=300 --table "$here/rows.toml" --out "$out/table1"
petiole multitask $images $terms --set steps=300 --fraction 0.1 --table "$here/sharing.toml" --out "$out/few"
petiole multitask "$out/world/vqa" $terms --set steps=300 --table "$here/vision.toml" --out "$out/vision"
petiole multitask "$out/world/video-qa" "$out/world/video-caption" $terms --set steps=300 --table "$here/video.toml" --out "$out/video"
