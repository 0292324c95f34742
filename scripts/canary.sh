#!/usr/bin/env bash
# For maintainers: what will break next month? Installs the newest release of every dependency, whatever the bounds of
# pyproject.toml say, into an environment of its own; prints what differs from requirements/lock.txt; runs the default
# tests and the quickstart's smoke run; and prints which tests fail. Ends with status 0 where nothing fails. The report is
# kept as runs/canary/report.md.
#   ./scripts/canary.sh
#   ./scripts/canary.sh tests/models      only these tests
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/venv.sh"

cd "$REPO"
OUT="$REPO/runs/canary"
VENV="${CAMBRIAN_GAZE_VENV:-$OUT/venv}"
CONSTRAINTS=
mkdir -p "$OUT"
rm -rf "$VENV"
"$(_find_python)" -m venv "$VENV"
"$VENV/bin/python" -m pip install --quiet packaging

# The dependencies by name alone, each with its own extras and markers: pip takes the newest that go together.
"$VENV/bin/python" scripts/lib/dependencies.py names >"$OUT/newest.txt"
echo "Installing the newest of $(wc -l <"$OUT/newest.txt") dependencies into $VENV"
"$VENV/bin/python" -m pip install --upgrade --requirement "$OUT/newest.txt"
"$VENV/bin/python" -m pip install --no-deps --editable .

{
    echo "# The newest of everything, $(date -u +%Y-%m-%d)"
    echo
    "$VENV/bin/python" scripts/lib/dependencies.py compare requirements/lock.txt
} >"$OUT/report.md"

failed=0
# check NAME COMMAND…: its output goes to the screen and a log; what failed goes to the report.
check() {
    local name="$1" status=0
    shift
    "$@" 2>&1 | tee "$OUT/$name.log" || status=$?
    {
        echo
        echo "## $name: $([ "$status" = 0 ] && echo passed || echo "failed, status $status")"
        echo
        grep -E '^(FAILED|ERROR) |^[=0-9].* (passed|failed)|Error:' "$OUT/$name.log" | tail -60 || true
    } >>"$OUT/report.md"
    [ "$status" = 0 ] || failed=1
}
if [ "$#" = 0 ]; then set -- tests; fi
check tests "$VENV/bin/python" -m pytest "${IN_PARALLEL[@]}" -m "not slow and not gpu" "$@"
check quickstart "$VENV/bin/cambrian-gaze" quickstart --smoke --force --output_dir "$OUT/quickstart"

echo
cat "$OUT/report.md"
exit "$failed"
