#!/usr/bin/env bash
# VL-Adapter on the generated world: benchmarks/vl_world/run.sh OUT
# Four image tasks (2,000 training samples each) and two video tasks; three seeds; one core a run.
set -euo pipefail
out=${1:?usage: run.sh OUT}
here=$(dirname "$0")
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
terms="--backbone petiole/tiny-vl --seeds 3 --set batch_size=48 --precision bf16 --processes ${PROCESSES:-2} --resume --quiet"

for task in vqa gqa nlvr caption video-qa video-caption; do
  [ -d "$out/world/$task" ] || petiole synthesize "$out/world/$task" --task "$task" --train 2000 --test 500
done
images="$out/world/vqa $out/world/gqa $out/world/nlvr $out/world/caption"

petiole multitask $images $terms --set steps=300 --table "$here/rows.toml" --out "$out/table1"
petiole multitask $images $terms --set steps=300 --fraction 0.1 --table "$here/sharing.toml" --out "$out/few"
petiole multitask "$out/world/vqa" $terms --set steps=300 --table "$here/vision.toml" --out "$out/vision"
petiole multitask "$out/world/video-qa" "$out/world/video-caption" $terms --set steps=300 --table "$here/video.toml" --out "$out/video"
