#!/usr/bin/env bash
# Stage 1 of Cambrian-4B. Environment: see scripts/launch.sh.
#   scripts/cambrian/pretrain_cambrian_4b.sh [ROW] [--key value ...]
# ROW: dense, compressed, compressed_dense, 512; without one: gaze
set -euo pipefail
row=""
if [[ $# -gt 0 && $1 != -* ]]; then
  row="$1"
  shift
fi
exec "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" "train/configs/pretrain_cambrian_4b${row:+_$row}.yaml" "$@"
