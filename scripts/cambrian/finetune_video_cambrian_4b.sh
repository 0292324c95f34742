#!/usr/bin/env bash
# Stage 2 of Cambrian-4B on videos. Environment: see scripts/launch.sh.
#   scripts/cambrian/finetune_video_cambrian_4b.sh [ROW] [--key value ...]
# ROW: dense, dense_4k, gaze_4k (default), gaze_2k
set -euo pipefail
row=gaze_4k
if [[ $# -gt 0 && $1 != -* ]]; then
  row="$1"
  shift
fi
exec "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" "train/configs/finetune_video_cambrian_4b${row:+_$row}.yaml" "$@"
