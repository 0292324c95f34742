#!/usr/bin/env bash
# Everything that needs a GPU, in one call of under ten minutes on one of them: the tests marked gpu (attention backends
# against each other among them), what `backend: auto` takes, whole training steps of the 4B at its real size, decoding
# beside FlashAttention, attention and prefill. Pages, rows and logs go to the folder $OUT (default runs/gpu_check).
# Runs from the source tree with the Python at hand ($PYTHON), and needs torch with CUDA, the project's other
# dependencies and pytest; none of the optional dependencies.
#   OUT=/tmp/tables ./scripts/gpu_check.sh
# The same commands at tiny sizes on a CPU, to see that they run (the tests marked gpu are skipped):
#   DEVICE=cpu OUT=/tmp/tables ./scripts/gpu_check.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON="${PYTHON:-python3}"
OUT="${OUT:-runs/gpu_check}"
DEVICE="${DEVICE:-cuda}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$OUT/benchmarks"
cp docs/benchmarks.md "$OUT/benchmarks.md"
cp docs/benchmarks/* "$OUT/benchmarks/"
# What an earlier run has kept is not what this one finds.
CAMBRIAN_GAZE_CACHE="$(mktemp -d)"
export CAMBRIAN_GAZE_CACHE
trap 'rm -rf "$CAMBRIAN_GAZE_CACHE"' EXIT

case "$DEVICE" in
  cuda)
    "$PYTHON" -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"; print(torch.cuda.get_device_name())'
    choose=(--text 256 --visual 4608 36864 --time_limit 45)
    train=(--preset 4b --repeats 5 --time_limit 100)
    decode=(--tokens 4608 36864 147456 --dtype bf16 --seconds 3)
    batches=(--tokens 36864 --batch 8 32 --dtype bf16 --seconds 2)
    attention=(--text 256 --visual 576 4608 36864 --repeats 3 --time_limit 45)
    prefill=(--time_limit 15)
    ;;
  cpu)
    heads=(--heads 4 --kv_heads 2 --head_dim 16)
    choose=(--text 8 --visual 576 "${heads[@]}")
    train=(--preset tiny --frames 1 --text 8 --repeats 1)
    decode=(--tokens 576 1152 --dtype fp32 --seconds 0)
    batches=(--tokens 576 --batch 2 3 --dtype fp32 --seconds 0)
    attention=(--text 8 --visual 576 --repeats 1 "${heads[@]}" --time_limit 20)
    prefill=(--visual 576 1152 --text 8 --repeats 1 "${heads[@]}")
    ;;
  *)
    echo "DEVICE must be cuda or cpu, got $DEVICE" >&2
    exit 2
    ;;
esac

failed=()
# Run one step; its output goes to the screen and to a log. A step that fails does not keep the others from running, but
# the script's exit status says so.
step() {
  local name="$1" since=$SECONDS
  shift
  echo "== $name"
  if "$@" 2>&1 | tee "$OUT/$name.log"; then
    echo "== $name: $((SECONDS - since)) s"
  else
    echo "== $name: FAILED after $((SECONDS - since)) s"
    failed+=("$name")
  fi
}

# A process per file, side by side, since most of the time goes into compiling kernels; one log after the other.
marked_tests() {
  local logs file process processes=() status=0
  logs="$(mktemp -d)"
  while read -r file; do
    timeout 150 "$PYTHON" -m pytest "$file" -m gpu -q -p no:cacheprovider >"$logs/${file//\//-}" 2>&1 &
    processes+=($!)
  done < <(grep -rlE "mark\.gpu" tests --include="test_*.py" | sort)
  for process in "${processes[@]}"; do
    wait "$process" || status=1
  done
  for file in "$logs"/*; do
    echo "-- ${file##*/}"
    cat "$file"
  done
  rm -r "$logs"
  return "$status"
}

# bench STEP SECONDS NAME OPTIONS: `cambrian-gaze bench NAME`, at most so many seconds.
bench() {
  local step="$1" seconds="$2" name="$3"
  shift 3
  step "bench-$step" timeout "$seconds" "$PYTHON" -m cambrian_gaze.cli.main bench "$name" --device "$DEVICE" \
    --json "$OUT/$step.json" --page "$OUT/benchmarks.md" "$@"
}

# What matters most comes first; the limits add up to less than ten minutes.
step tests marked_tests
bench choose 90 attention --choose "${choose[@]}"
bench train-step 130 train-step "${train[@]}"
bench decode 60 decode "${decode[@]}"
bench attention 60 attention "${attention[@]}"
bench batches 40 decode "${batches[@]}"
bench prefill 30 prefill "${prefill[@]}"

if ((${#failed[@]})); then
  echo "failed: ${failed[*]}"
  exit 1
fi
