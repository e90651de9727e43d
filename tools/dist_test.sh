#!/usr/bin/env bash
# Test on several GPUs, or several CPU processes where there is no GPU.
#   bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]
# The environment variables are those of dist_train.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"
(($# >= 3)) || fail 'usage: bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]'
run_distributed test.py "$3" "$1" "$2" "${@:4}"
