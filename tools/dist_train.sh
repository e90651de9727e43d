#!/usr/bin/env bash
# Train on several GPUs, or several CPU processes where there is no GPU.
#   bash tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
# On several nodes, run it on each: NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 bash tools/dist_train.sh ...
# PORT is one of the first node: 29500 where it is not set. On one node it is a free one where it is not set.
# Also read from the environment: PYTHON, OMP_NUM_THREADS.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"
(($# >= 2)) || fail 'usage: bash tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]'
run_distributed train.py "$2" "$1" "${@:3}"
