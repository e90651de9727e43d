#!/usr/bin/env bash
# Sets everything up and runs the tests.
set -euo pipefail
# shellcheck source=tools/_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"

usage() {
    cat <<'EOF'
Usage: bash tools/run_tests.sh [--active] [--slow] [pytest arguments]

Sets the environment up (tools/setup_env.sh, with mmcv's operators) and runs the tests.

  --active  use the active virtual or conda environment in place of .venv
  --slow    also run the tests marked slow, and try ten times as many drawn examples
  --help    this text

Everything else goes to pytest; with -m among it, that selection stands in place of the default one. A process for each
core, four at the most, runs the tests; -n 0 keeps them in one.
EOF
}

active=() arguments=() slow=0 selected=0 parallel=1
for argument in "$@"; do
    case $argument in
        --active) active=(--active) ;;
        --slow) slow=1 ;;
        -h | --help) usage; exit 0 ;;
        *)
            arguments+=("$argument")
            if [[ $argument == -m* ]]; then selected=1; fi
            if [[ $argument == -n* || $argument == --pdb || $argument == --trace ]]; then parallel=0; fi ;;
    esac
done

bash "$ROOT/tools/setup_env.sh" "${active[@]}"
python=$(environment_python "${active[@]}")
export MPLBACKEND=${MPLBACKEND:-Agg}

# Tests that need a GPU are left out where there is none, and slow ones unless asked for.
left_out=()
if ((slow)); then arguments+=(--hypothesis-profile=slow); else left_out+=(slow); fi
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || left_out+=(gpu)
if ((!selected && ${#left_out[@]})); then
    selection="not ${left_out[0]}${left_out[1]:+ and not ${left_out[1]}}"
    arguments=(-m "$selection" "${arguments[@]}")
fi

if ((parallel)); then
    cores=$(env -u OMP_NUM_THREADS nproc)  # which obeys that variable
    # What a file prepares once is prepared in one process; each of them computes on one core.
    arguments=(-n "$((cores < 4 ? cores : 4))" --dist loadfile "${arguments[@]}")
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
fi

cd "$ROOT"
status=0
"$python" -m pytest -rs "${arguments[@]}" || status=$?
for mark in "${left_out[@]}"; do
    ((!selected)) || break
    case $mark in
        slow) echo 'Deselected: tests marked slow; bash tools/run_tests.sh --slow runs them too.' ;;
        gpu) echo 'Deselected: tests marked gpu, because no CUDA device is visible.' ;;
    esac
done
exit "$status"
