#!/bin/sh
# Whether petiole computes the same on an accelerator as on a processor, and how fast: a table, and OUT/device.jsonl.
#
#   benchmarks/device/run.sh OUT            on CUDA, at most eight minutes on one H100
#   benchmarks/device/run.sh OUT --dry      the same on the processor with tiny sizes: whether the script works
#
# It needs torch, timm, transformers, peft and what petiole itself needs, and no network: all weights are random. PYTHON names the
# interpreter, if it is not python.
set -eu
cd "$(dirname "$0")/../.."
out=$1
shift
export PYTHONPATH="$PWD/src:$PWD/benchmarks:$PWD/benchmarks/inside_blocks${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE
"${PYTHON:-python}" benchmarks/device/checks.py "$out" "$@"
"${PYTHON:-python}" benchmarks/device/speed.py "$out" "$@"
"${PYTHON:-python}" benchmarks/device/rows.py "$out"
