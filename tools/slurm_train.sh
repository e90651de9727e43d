#!/usr/bin/env bash
# Train on a slurm cluster.
#   [GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5 SRUN_ARGS=...] \
#       bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of tools/train.py]
# Also read from the environment: PYTHON, SRUN (the program to start in place of srun), MASTER_PORT (29500; jobs on one
# node need one each).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"
(($# >= 4)) || fail 'usage: bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of tools/train.py]'
run_slurm train.py "$1" "$2" "$3" --work-dir "$4" "${@:5}"
