#!/usr/bin/env bash
# Everything that needs a GPU, in one call of under ten minutes: the tests marked gpu, then the benches. Pages, rows and
# logs go to the folder $OUT (default runs/gpu_check). Runs from the source tree with the Python at hand ($PYTHON), and
# needs torch with CUDA, the project's other dependencies and pytest; none of the optional dependencies.
#   OUT=/tmp/tables ./scripts/gpu_check.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON="${PYTHON:-python3}"
OUT="${OUT:-runs/gpu_check}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$OUT/benchmarks"
cp docs/benchmarks.md "$OUT/benchmarks.md"
cp docs/benchmarks/* "$OUT/benchmarks/"

"$PYTHON" -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"; print(torch.cuda.get_device_name())'

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
    timeout 210 "$PYTHON" -m pytest "$file" -m gpu -q -p no:cacheprovider >"$logs/${file//\//-}" 2>&1 &
    processes+=($!)
  done < <(grep -rlE "mark\.gpu" tests --include="*.py" | sort)
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

bench() {
  local name="$1" seconds="$2"
  shift 2
  step "bench-$name" timeout "$seconds" "$PYTHON" -m cambrian_gaze.cli.main bench "$name" --device cuda \
    --json "$OUT/$name.json" --page "$OUT/benchmarks.md" "$@"
}

step tests marked_tests
bench attention 130 --text 256 --visual 576 4608 36864 --repeats 3 --time_limit 100
bench decode 70
bench train-step 150 --preset 4b --repeats 5 --backend flex --time_limit 110

if ((${#failed[@]})); then
  echo "failed: ${failed[*]}"
  exit 1
fi
