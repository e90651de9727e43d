#!/usr/bin/env bash
# Sets everything up and runs a demo that needs no download of data or weights.
set -euo pipefail
# shellcheck source=tools/_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"

usage() {
    cat <<'EOF'
Usage: bash tools/quickstart.sh [--active] [classification | detection | segmentation]
                                [arguments of tools/quickstart.py]

Sets the environment up (tools/setup_env.sh) and trains a small model with and without A-FAN, in less than ten
minutes on two cores, for classification in less than six and with controls. detection and segmentation need
mmcv's operators, which are compiled once, in tens of minutes. The report is written to work_dirs/quickstart/report.md, work_dirs/quickstart_detection/report.md or
work_dirs/quickstart_segmentation/report.md.

  --active  use the active virtual or conda environment in place of .venv
  --help    this text
EOF
}

task=classification active=() arguments=()
for argument in "$@"; do
    case $argument in
        --active) active=(--active) ;;
        -h | --help) usage; exit 0 ;;
        *) arguments+=("$argument") ;;
    esac
done
if ((${#arguments[@]})) && [[ ${arguments[0]} != -* ]]; then
    task=${arguments[0]}
    arguments=("${arguments[@]:1}")
fi

# Classification needs none of mmcv's operators, so it does not wait for their compile. mmseg imports them for every
# model, also where it uses none.
case $task in
    classification) setup=(--lite) ;;
    detection | segmentation) setup=() ;;
    *) die "unknown demo '$task': the demos are classification, detection and segmentation." ;;
esac

bash "$ROOT/tools/setup_env.sh" "${setup[@]}" "${active[@]}"
python=$(environment_python "${active[@]}")
export MPLBACKEND=${MPLBACKEND:-Agg}
exec "$python" "$ROOT/tools/quickstart.py" "$task" "${arguments[@]}"
