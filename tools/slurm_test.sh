#!/usr/bin/env bash
# Test on a slurm cluster.
#   [GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5 SRUN_ARGS=...] \
#       bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of tools/test.py]
# Also read from the environment: PYTHON, SRUN (the program to start in place of srun), MASTER_PORT (29500; jobs on one
# node need one each).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"
(($# >= 4)) || fail 'usage: bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of tools/test.py]'
run_slurm test.py "$1" "$2" "$3" "$4" "${@:5}"
