#!/usr/bin/env bash
# Real photographs, pictures and sentences: benchmarks/real_vl/run.sh DATA OUT
# DATA holds nlvr/ (github.com/lil-lab/nlvr, permutation 0), daquar160/ (DAQUAR's photographs and pairs), coco_mini256/ and vqa2_text/.
set -euo pipefail
data=${1:?usage: run.sh DATA OUT} out=${2:?usage: run.sh DATA OUT}
here=$(dirname "$0")
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
[ -d "$out/english" ] || python "$here/pretrain.py" "$data/vqa2_text" "$out/english" --minutes 8
python "$here/tasks.py" "$data" "$out/tasks"
petiole multitask "$out/tasks/nlvr" "$out/tasks/daquar" "$out/tasks/caption" \
  --backbone "$out/english" --vision-backbone petiole/efficientnet-lite0 --table "$here/rows.toml" --seeds 3 \
  --set steps=400 --set batch_size=48 --precision bf16 --processes "${PROCESSES:-2}" --resume --out "$out/table"
