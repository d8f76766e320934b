#!/bin/sh
# Real photographs of clothes as questions, in two wordings: by their own names, which the language models of
# petiole/tiny-lvlm can only spell, and by words that they know. DATA is the folder clothing128; results go to OUT.
#
#   OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE benchmarks/craft_real/run.sh DATA OUT
set -e
data=$(realpath "$1")
mkdir -p "$2" && cd "$2"
for wording in names words; do
  mkdir -p $wording
  for part in train validation test; do ln -sfn "$data/$part" $wording/$part; done
done
cat > words/classes.json <<'JSON'
{"question": "what shape is it ?", "caption": "a {class} .",
 "names": {"dress": "circle", "hat": "square", "longsleeve": "triangle", "outwear": "cross", "pants": "ring",
           "shirt": "diamond", "shoes": "star", "shorts": "bar", "skirt": "red", "t-shirt": "blue"}}
JSON
others="--language-model petiole/tiny-lvlm-gpt2 petiole/tiny-lvlm-lfm2"
for wording in words names; do
  seeds="0 1 2"; [ $wording = names ] && seeds=0
  petiole fit $wording --method lvlm-zero-shot $others --out $wording-zero --resume --quiet
  for seed in $seeds; do
    petiole fit $wording --method craft --set steps=200 --set lr=1e-3 --set contrast=1 --set commit=1 \
      --seed $seed --precision bf16 $others --out $wording-craft$seed --resume --quiet
  done
done
petiole fit "$data/train" --test "$data/test" --method linear-probe --backbone petiole/tiny-lvlm-tower --all-images \
  --out probe --resume --quiet
