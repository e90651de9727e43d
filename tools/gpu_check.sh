#!/usr/bin/env bash
# What only a GPU can show, within nine minutes: the tests marked gpu, what a step costs, and a study.
#   bash tools/gpu_check.sh [--out DIR] [--parts tests,cost,study] [--minutes N]
# --help lists the options. The results are a few small files in DIR; called again, it goes on with what is missing.
# Also read from the environment: PYTHON.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"
python=$(find_python) || exit 2
export PYTHONUNBUFFERED=1 MPLBACKEND=${MPLBACKEND:-Agg}
exec "$python" "$TOOLS/analysis_tools/gpu_check.py" "$@"
