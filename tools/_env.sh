# Shared by the scripts in this folder; to be sourced, not run.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# die SENTENCE: ends the script with one sentence that says what is wrong and what to do.
die() {
    printf 'error: %s\n' "$1" >&2
    exit 2
}

# active_python: prints the interpreter of the active virtual or conda environment.
active_python() {
    local candidate
    for candidate in "${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/python}" \
        "${CONDA_PREFIX:+$CONDA_PREFIX/bin/python}"; do
        if [[ -n $candidate && -x $candidate ]]; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    candidate=$(command -v python || true)
    if [[ -n $candidate ]] &&
        "$candidate" -c 'import sys; sys.exit(sys.prefix == sys.base_prefix)' 2>/dev/null; then
        printf '%s\n' "$candidate"
        return
    fi
    die 'no environment is active: activate a virtual or conda environment first, or leave --active out to use .venv.'
}

# environment_python [--active]: prints the interpreter that setup_env.sh has prepared.
environment_python() {
    if [[ ${1:-} == --active ]]; then active_python; else printf '%s\n' "$ROOT/.venv/bin/python"; fi
}
