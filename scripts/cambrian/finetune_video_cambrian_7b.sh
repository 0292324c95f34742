#!/usr/bin/env bash
# Stage 2 of Cambrian-7B on videos. Environment: see scripts/launch.sh.
#   scripts/cambrian/finetune_video_cambrian_7b.sh [ROW] [--key value ...]
# ROW: dense, gaze_1500 (default), dense_4k, gaze_4k
set -euo pipefail
row=gaze_1500
if [[ $# -gt 0 && $1 != -* ]]; then
  row="$1"
  shift
fi
exec "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" "train/configs/finetune_video_cambrian_7b${row:+_$row}.yaml" "$@"
