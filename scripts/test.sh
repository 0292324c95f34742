#!/usr/bin/env bash
# Style, import floors and the default tests, in .venv, a file of tests on each core at a time. Arguments go to pytest:
#   ./scripts/test.sh -k layout
#   ./scripts/test.sh -m slow       another selection of tests
#   ./scripts/test.sh -n 0          one test after the other, in pytest's own process
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/venv.sh"

ensure_venv test
cd "$REPO"
"$VENV/bin/python" -m ruff check .
"$VENV/bin/python" -m ruff format --check .
"$VENV/bin/lint-imports" --no-cache
if ! command -v chromium chromium-browser google-chrome chrome >/dev/null; then
    echo "No Chromium here: the pages of the viewer and the demo are not opened (apt-get install chromium)."
fi
"$VENV/bin/python" -m pytest "${IN_PARALLEL[@]}" -m "not slow and not gpu" "$@"
