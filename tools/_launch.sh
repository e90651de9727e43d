# Shared by dist_train.sh, dist_test.sh, slurm_train.sh and slurm_test.sh; to be sourced, not run.
# shellcheck shell=bash

TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
export PYTHONPATH="$(dirname "$TOOLS")${PYTHONPATH:+:$PYTHONPATH}"

# fail SENTENCE: ends the script with one sentence that says what is wrong and what to do.
fail() {
    printf 'error: %s\n' "$1" >&2
    exit 2
}

# find_python: prints the interpreter: PYTHON where set, the active environment's, then the clone's own .venv.
find_python() {
    local own
    own=$(dirname "$TOOLS")/.venv/bin/python
    if [[ -n ${PYTHON:-} ]]; then
        command -v "$PYTHON" || fail "PYTHON=$PYTHON is no program: name the interpreter of your environment."
    elif [[ -z ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} && -x $own ]]; then
        printf '%s\n' "$own"
    else
        command -v python || command -v python3 || fail 'no python is on the PATH: activate an environment or set PYTHON.'
    fi
}

# check_count NAME VALUE: fails unless VALUE is a whole number above 0.
check_count() {
    [[ $2 =~ ^[1-9][0-9]*$ ]] || fail "$1 must be a whole number above 0, got '$2'."
}

# run_distributed SCRIPT GPUS ARG...: starts GPUS processes of SCRIPT on this node through torchrun.
run_distributed() {
    local script=$1 gpus=$2
    shift 2
    local nnodes=${NNODES:-1} node_rank=${NODE_RANK:-0} port=${PORT:-} address=${MASTER_ADDR:-} python
    check_count GPUS "$gpus"
    check_count NNODES "$nnodes"
    [[ $node_rank =~ ^[0-9]+$ && $node_rank -lt $nnodes ]] ||
        fail "NODE_RANK must be a number from 0 to $((nnodes - 1)) (NNODES=$nnodes), got '$node_rank'."
    if ((nnodes > 1)); then
        [[ -n $address ]] || fail "NNODES=$nnodes needs MASTER_ADDR, the address of the node with NODE_RANK=0."
        port=${port:-29500} # the same on every node, so not a free one of this node
    fi
    python=$(find_python) || exit 2
    if [[ -n $port ]]; then
        check_count PORT "$port"
        ((port < 65536)) || fail "PORT must be below 65536, got '$port'."
    else
        port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    fi
    # Without a limit every process would start one thread per core.
    if [[ -z ${OMP_NUM_THREADS:-} ]]; then
        local cores
        cores=$(nproc 2>/dev/null || echo 1)
        export OMP_NUM_THREADS=$((cores / gpus > 0 ? cores / gpus : 1))
    fi
    exec "$python" -m mmafan.lab.launch --nnodes="$nnodes" --node_rank="$node_rank" \
        --master_addr="${address:-127.0.0.1}" --master_port="$port" --nproc_per_node="$gpus" \
        "$TOOLS/$script" "$@" --launcher pytorch
}

# run_slurm SCRIPT PARTITION JOB_NAME ARG...: starts GPUS processes of SCRIPT through srun.
run_slurm() {
    local script=$1 partition=$2 job_name=$3
    shift 3
    local gpus=${GPUS:-8} per_node cpus=${CPUS_PER_TASK:-5} srun=${SRUN:-srun} python
    check_count GPUS "$gpus"
    per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
    check_count GPUS_PER_NODE "$per_node"
    check_count CPUS_PER_TASK "$cpus"
    command -v "$srun" >/dev/null || fail "$srun is no program: run this on a node of the cluster, or set SRUN."
    python=$(find_python) || exit 2
    local extra=()
    read -r -a extra <<<"${SRUN_ARGS:-}"
    exec "$srun" -p "$partition" --job-name="$job_name" --gres="gpu:$per_node" --ntasks="$gpus" \
        --ntasks-per-node="$per_node" --cpus-per-task="$cpus" --kill-on-bad-exit=1 ${extra[@]+"${extra[@]}"} \
        "$python" -u "$TOOLS/$script" "$@" --launcher slurm
}
