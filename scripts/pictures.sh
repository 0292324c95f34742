#!/usr/bin/env bash
# Draws the pictures of the documentation anew that show the viewer, its panes and the demo, into docs/images: in Chromium,
# with the model that ./scripts/quickstart.sh left (CAMBRIAN_GAZE_QUICKSTART names another folder than runs/quickstart).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/venv.sh"

ensure_venv test
cd "$REPO"
exec "$VENV/bin/python" -m tests.demo._pictures
