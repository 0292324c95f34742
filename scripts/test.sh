#!/usr/bin/env bash
# Style, import floors and the default tests, in .venv. Arguments go to pytest:
#   ./scripts/test.sh -k layout
#   ./scripts/test.sh -m slow       another selection of tests
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/venv.sh"

ensure_venv test
cd "$REPO"
"$VENV/bin/python" -m ruff check .
"$VENV/bin/lint-imports" --no-cache
"$VENV/bin/python" -m pytest -m "not slow and not gpu" "$@"
