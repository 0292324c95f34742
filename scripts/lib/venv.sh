# Sourced by the scripts: `ensure_venv EXTRA` leaves a virtual environment at $VENV that has this project with its
# optional dependencies EXTRA, and does nothing when it is up to date. The folder is .venv in the repository, or
# $CAMBRIAN_GAZE_VENV; PYTHON names the interpreter to make it with.

REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
VENV="${CAMBRIAN_GAZE_VENV:-$REPO/.venv}"

# What is installed: exactly the versions that the tests passed with (scripts/lock.sh renews the file). $CONSTRAINTS names
# another file of this kind; empty, the newest of everything that pyproject.toml takes.
CONSTRAINTS="${CONSTRAINTS-$REPO/requirements/lock.txt}"

# Arguments for pytest: a file of tests on each core at a time.
IN_PARALLEL=(-n auto --maxprocesses 8 --dist loadfile)

_find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3.10; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "Python 3.10 or newer is needed; name it like this: PYTHON=/path/to/python3 $0" >&2
    return 1
}

_has_nvidia_gpu() {
    command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1
}

# What an installation depends on: its declarations and versions, what it compiles, the extra, the place of the
# repository, a GPU or none.
_fingerprint() {
    local gpu=none
    if _has_nvidia_gpu; then gpu=nvidia; fi
    cat "$REPO/pyproject.toml" "$REPO/setup.py" "$REPO"/cambrian_gaze/attention/native/*.{cpp,h} \
        "${CONSTRAINTS:-/dev/null}" | cksum
    echo "$1 $gpu $REPO"
}

_is_installed() {
    local stamp="$VENV/.cambrian-gaze-$1"
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(_fingerprint "$1")" ] && "$VENV/bin/python" -c 'import sys' 2>/dev/null
}

# _pip ARGUMENT…: pip under the constraints, which hold for the packages that are needed to build others, too.
_pip() {
    local file="$CONSTRAINTS"
    if [ -z "$file" ]; then
        "$VENV/bin/python" -m pip install "$@"
        return
    fi
    # As a URL: pip takes a blank in these variables for the end of a name.
    file="file://$(realpath "$file" | sed 's/ /%20/g')"
    PIP_CONSTRAINT="$file" PIP_BUILD_CONSTRAINT="$file" "$VENV/bin/python" -m pip install "$@"
}

ensure_venv() {
    local extra="$1" python torch
    # "test" holds everything that the other scripts need.
    if _is_installed "$extra" || _is_installed test; then
        return
    fi
    if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        python="$(_find_python)"
        echo "Making a virtual environment in $VENV"
        if ! "$python" -m venv "$VENV"; then
            echo "'$python -m venv' failed; on Debian and Ubuntu: sudo apt install python3-venv" >&2
            return 1
        fi
    fi
    # Without a GPU torch is asked for by itself and by its version, so that pip takes the CPU build where the index or a
    # folder of wheels has one (on Linux, name PyTorch's CPU index in PIP_EXTRA_INDEX_URL to be spared gigabytes of CUDA
    # libraries).
    if ! _has_nvidia_gpu && torch="$(grep -m1 '^torch==' "${CONSTRAINTS:-/dev/null}")"; then
        echo "No NVIDIA GPU is visible: installing $torch"
        _pip "$torch"
    fi
    echo "Installing cambrian-gaze[$extra] into $VENV"
    (cd "$REPO" && _pip --editable ".[$extra]")
    _fingerprint "$extra" >"$VENV/.cambrian-gaze-$extra"
}
