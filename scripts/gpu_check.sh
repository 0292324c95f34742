#!/usr/bin/env bash
# Everything that needs a GPU, in one call of under ten minutes: the tests marked gpu, then the benches. Tables, rows and
# logs go to the folder $OUT (default runs/gpu_check). Runs from the source tree with the Python at hand ($PYTHON), and
# needs torch with CUDA, transformers and pytest; none of the optional dependencies.
#   OUT=/tmp/tables ./scripts/gpu_check.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON="${PYTHON:-python3}"
OUT="${OUT:-runs/gpu_check}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$OUT"
cp docs/benchmarks.md "$OUT/benchmarks.md"

"$PYTHON" -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"; print(torch.cuda.get_device_name())'

failed=()
# Run one step with a time limit in seconds; its output goes to the screen and to a log. A step that fails does not keep
# the others from running, but the script's exit status says so.
step() {
  local name="$1" seconds="$2" since=$SECONDS
  shift 2
  echo "== $name"
  if timeout "$seconds" "$@" 2>&1 | tee "$OUT/$name.log"; then
    echo "== $name: $((SECONDS - since)) s"
  else
    echo "== $name: FAILED after $((SECONDS - since)) s"
    failed+=("$name")
  fi
}

bench() {
  local name="$1" seconds="$2"
  shift 2
  step "bench-$name" "$seconds" "$PYTHON" -m cambrian_gaze.cli.main bench "$name" --device cuda \
    --json "$OUT/$name.json" --page "$OUT/benchmarks.md" "$@"
}

mapfile -t marked < <(grep -rlE "mark\.gpu" tests --include="*.py")
step tests 260 "$PYTHON" -m pytest "${marked[@]}" -m gpu -q -p no:cacheprovider
bench attention 110 --text 256 --visual 576 4608 36864 --repeats 3
bench decode 60
bench train-step 140 --preset 4b --repeats 5 --backend flex

if ((${#failed[@]})); then
  echo "failed: ${failed[*]}"
  exit 1
fi
