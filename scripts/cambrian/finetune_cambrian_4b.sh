#!/usr/bin/env bash
# Stage 2 of Cambrian-4B on images. Environment: see scripts/launch.sh.
#   scripts/cambrian/finetune_cambrian_4b.sh [ROW] [--key value ...]
# ROW: dense, gaze_288, gaze_144, gaze_72 (default), compressed_dense, compressed_gaze_54, compressed_gaze_36, 512_gaze_128
set -euo pipefail
row=gaze_72
if [[ $# -gt 0 && $1 != -* ]]; then
  row="$1"
  shift
fi
exec "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" "train/configs/finetune_cambrian_4b${row:+_$row}.yaml" "$@"
