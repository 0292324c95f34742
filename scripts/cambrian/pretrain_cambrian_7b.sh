#!/usr/bin/env bash
# Stage 1 of Cambrian-7B. Environment: see scripts/launch.sh.
#   scripts/cambrian/pretrain_cambrian_7b.sh [ROW] [--key value ...]
# ROW: dense, compressed, compressed_dense, 512; without one: gaze
set -euo pipefail
row=""
if [[ $# -gt 0 && $1 != -* ]]; then
  row="$1"
  shift
fi
exec "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" "train/configs/pretrain_cambrian_7b${row:+_$row}.yaml" "$@"
