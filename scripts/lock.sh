#!/usr/bin/env bash
# Renews requirements/: lock.txt, what the scripts install; oldest.txt, the same at the lower ends of pyproject.toml's
# ranges for torch and transformers; lmms.txt, with lmms-eval, which holds others back. All are for every system and every
# Python that the project supports. torch keeps its version, since the wheels for CPUs and GPUs come from different places;
# name another one like this:
#   ./scripts/lock.sh
#   TORCH=2.15.0 ./scripts/lock.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

workplace="$(mktemp -d)"
trap 'rm -rf "$workplace"' EXIT
"${PYTHON:-python3}" -m venv "$workplace/venv"
"$workplace/venv/bin/python" -m pip install --quiet uv
uv="$workplace/venv/bin/uv"

# floor NAME: the lowest version that pyproject.toml takes.
floor() {
    sed -n "s/^ *\"$1>=\([0-9.]*\).*/\1/p" pyproject.toml | head -1
}

# lock FILE EXTRA PIN…: the project with one of its extras, resolved under some pins.
lock() {
    local file="requirements/$1" extra="$2"
    shift 2
    printf '%s\n' "$@" >"$workplace/pins.txt"
    "$uv" pip compile pyproject.toml --quiet --universal --python-version 3.10 --no-strip-extras --no-annotate --upgrade \
        --extra "$extra" --constraints "$workplace/pins.txt" \
        --custom-compile-command "./scripts/lock.sh" --output-file "$workplace/lock.txt"
    # Constraints may not name extras ("uvicorn[standard]"), and the project itself is no constraint.
    sed -E 's/\[[^]]*\]==/==/; /^cambrian-gaze/d' "$workplace/lock.txt" >"$file.partial"
    mv "$file.partial" "$file"
    echo "$file: $(grep -c '==' "$file") packages;" $(grep -E '^(torch|transformers|pillow)==' "$file")
}

held="$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' requirements/lock.txt 2>/dev/null || true)"
lock lock.txt all "torch==${TORCH:-${held:-2.13.0}}"
lock lmms.txt lmms "$(grep -E '^(torch|transformers|pillow)==' requirements/lock.txt)"
lock oldest.txt all "torch==$(floor torch).*" "transformers==$(floor transformers).*"
