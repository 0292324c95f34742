#!/usr/bin/env bash
# From a fresh clone to a trained, evaluated and pictured gaze model: makes .venv, installs, runs the quickstart.
#   ./scripts/quickstart.sh            the real thing
#   ./scripts/quickstart.sh --smoke    the same way in under two minutes; claims nothing
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/venv.sh"

ensure_venv quickstart
exec "$VENV/bin/cambrian-gaze" quickstart "$@"
