#!/usr/bin/env bash
# The follow-ups on real images: classes of Caltech-101, with tiny-vit and MiniLM joined by the names of ImageNet's sample photographs.
# Usage: real_images.sh DATA MINILM OUT   (DATA: see real_images.py;  MINILM: folder of all-MiniLM-L6-v2)
set -euo pipefail
here=$(dirname "$0")
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
# Memory is kept: given back and asked for anew, it took 12.6 of 19.7 CPU minutes at test time.
export MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TRIM_THRESHOLD_=10000000000
[ -f "$3/captions.csv" ] || python "$here/real_images.py" "$1" "$3"
[ -d "$3/pair" ] || petiole pair "$3/pair" --text "$2" --image petiole/tiny-vit --captions "$3/captions.csv" --image-projection
novel=$({ ls "$3/forty/train" || true; } | LC_ALL=C sort | tail -n +21 | tr _ ' ' | paste -sd, -)
mkdir -p "$3/tables"
for table in lora carot prompts; do
  names=()
  [ "$table" = prompts ] && names=(--set "unknown_names=$novel")
  cat "$here/$table.toml" <(echo) "$here/tip.toml" > "$3/tables/$table.toml"
  petiole generalise "$3/forty/train" --test "$3/forty/test" --backbone "$3/pair" \
    --table "$3/tables/$table.toml" "${names[@]}" --seeds 3 --resume --quiet --out "$3/$table"
done
python "$here/../contrasts.py" "$3/lora" "sam - clip-lora-twice" "glad - clip-lora-twice" "eflat-exact - clip-lora-twice" "carot - clip-lora-twice" "tip-adapter - clip-lora-twice" --places HM
for score in ece accuracy; do
  python "$here/../contrasts.py" "$3/carot" "carot - contrastive" "carot - contrastive-more" "carot - clip-lora" --score "$score" --places base novel
done
python "$here/../contrasts.py" "$3/prompts" "ogen - coop" "ogen - coop-twice" "ogen-names - coop" "ogen-names - coop-twice" --places novel HM
robust=(python "$here/robust.py" "$3/robust" --backbone "$3/pair" --data "$3/few" --steps 30)
"${robust[@]}" --attacked validation --images 3 --seeds 1 --rows "CLIP-LoRA" --attacks "pgd 0.125/255" "pgd 0.25/255" "pgd 0.5/255"  # which leaves half
"${robust[@]}" --images 3 --attacks "pgd 0.25/255" --rows "CLIP-LoRA" "AdvCLIP-LoRA, shared, 10/255" "CLIP-LoRA, twice the steps"
at_test_time=(python "$here/at_test_time.py" "$3/test-time" --backbone "$3/pair" --data "$3/few" --ways lora-ttt tpt mta --views 32)
"${at_test_time[@]}" --corrupt none --images 10
"${at_test_time[@]}" --corrupt gaussian_noise --images 7
