# mmcv with its compiled operators, from a wheel at hand or from source; sourced by setup_env.sh.
# shellcheck shell=bash disable=SC2034,SC2153

OPS_CHECK='
import torch
from mmcv.ops import RoIAlign, nms
boxes = torch.tensor([[0., 0., 10., 10.], [1., 1., 10., 10.]])
_, keep = nms(boxes, torch.tensor([0.9, 0.8]), 0.5)
if keep.tolist() != [0]:
    raise SystemExit("nms keeps %s of two overlapping boxes" % keep.tolist())
RoIAlign(2)(torch.ones(1, 1, 8, 8), torch.tensor([[0., 0., 0., 4., 4.]]))
'

# Reads the environment once: the wheel key and whether the operators are compiled for CUDA. They are
# compiled for the CPU where no GPU is visible, and where no nvcc of torch's CUDA version is.
describe_build() {
    local nvcc cuda python_tag torch_version
    read -r python_tag torch_version cuda < <("$PY" -c '
import os, sys, torch
gpu = torch.cuda.is_available() or os.getenv("FORCE_CUDA") == "1"
print("py%d%d" % sys.version_info[:2], torch.__version__.split("+")[0],
      torch.version.cuda if gpu and torch.version.cuda else "cpu")' 2>>"$LOG") ||
        die "torch does not import in this environment: see $LOG."
    [[ ${MMAFAN_CPU_OPS:-} != 1 ]] || cuda=cpu
    OPS_NOTE=''
    if [[ $cuda != cpu ]]; then
        nvcc=${CUDA_HOME:+$CUDA_HOME/bin/}nvcc
        if ! "$nvcc" --version 2>/dev/null | grep -q "release ${cuda%%.*}\."; then
            OPS_NOTE="no nvcc of CUDA ${cuda%%.*} was found, so mmcv's operators run on the CPU only: install the CUDA toolkit for detection and segmentation on this GPU, then pip uninstall mmcv and run this again."
            cuda=cpu
        fi
    fi
    ON_CUDA=0
    if [[ $cuda == cpu ]]; then CUDA_TAG=cpu; else CUDA_TAG=cu${cuda//./} ON_CUDA=1; fi
    MMCV=$(pin "$MMCV_NAME")
    KEY=$python_tag-torch$torch_version-$CUDA_TAG-$MMCV_NAME$MMCV
}

ops_work() { (cd / && "$PY" -c "$OPS_CHECK") >>"$LOG" 2>&1; }
# has_operators: whether the mmcv that is there was built with them.
has_operators() {
    if [[ $SET == onedl ]]; then ops_work; else [[ -n $(installed_version mmcv) ]]; fi
}
keyed_wheel() { find "$WHEELS/$KEY" -name '*mmcv-*.whl' 2>/dev/null | head -n 1 || true; }

# wheel_works WHEEL: installs it apart from the environment and runs an operator. A wheel's name does
# not tell the torch it was compiled for, so nothing short of this does.
wheel_works() {
    local probe=$TEMPORARY/probe
    rm -rf "$probe"
    try 'testing a wheel' pip install --no-deps --no-index --target "$probe" "$1" &&
        (cd / && PYTHONPATH=$probe "$PY" -c "$OPS_CHECK") >>"$LOG" 2>&1
}

# mmcv and mmcv-lite own the same files: whatever is there goes before the other one comes, because
# the uninstall would take the newcomer's files along.
replace_mmcv() {
    local names=(mmcv mmcv-lite)
    [[ $SET != onedl ]] || names=("$MMCV_NAME")
    try 'removing mmcv' pip uninstall -y "${names[@]}" || true
    must 'installing mmcv' pip install --no-deps "$1"
}

# find_wheel: sets WHEEL to one that works, from the keyed folder, from --wheels itself or from pip's
# find-links, or to nothing.
find_wheel() {
    local links=()
    WHEEL=$(keyed_wheel)
    if [[ -n $WHEEL ]] && wheel_works "$WHEEL"; then return; fi
    [[ ! -d $WHEELS ]] || links=(--find-links "$WHEELS")
    rm -rf "$TEMPORARY/found"
    if try 'looking for a wheel' pip download --no-index --only-binary :all: --no-deps \
        "${links[@]}" -d "$TEMPORARY/found" "$MMCV_NAME==$MMCV"; then
        WHEEL=$(find "$TEMPORARY/found" -name '*mmcv-*.whl' | head -n 1)
        if wheel_works "$WHEEL"; then return; fi
        say "a wheel of mmcv $MMCV is at hand, but it was not compiled for this torch"
    fi
    WHEEL=''
}

install_mmcv() {
    local full lite
    full=$(installed_version "$MMCV_NAME") lite=$(installed_version mmcv-lite)
    if [[ -n $full && -z $lite ]] && ops_work; then
        say "mmcv $full is there and its operators work"
        return
    fi
    find_wheel
    if [[ -n $WHEEL ]]; then
        say "a fitting wheel is at hand: $WHEEL"
        replace_mmcv "$WHEEL"
    elif ((LITE)); then
        if [[ $SET == onedl ]]; then
            # There is no lite package of the fork: built apart from torch, it has no operators.
            if [[ $full != "$MMCV" ]]; then replace_mmcv "$MMCV_NAME==$MMCV"; fi
            lite="$MMCV_NAME $MMCV without operators"
        else
            if [[ $lite != "$MMCV" || -n $full ]]; then replace_mmcv "mmcv-lite==$MMCV"; fi
            lite="mmcv-lite $MMCV"
        fi
        say "$lite, enough for classification; without --lite the operators are compiled"
    else
        build_mmcv
        replace_mmcv "$WHEEL"
    fi
}

job_count() {
    local cores memory_gb
    cores=$(nproc)
    # One compiler takes up to 2 GB.
    memory_gb=$(awk '/MemAvailable/ {print int($2 / 1048576)}' /proc/meminfo)
    echo $((memory_gb / 2 < cores ? (memory_gb > 1 ? memory_gb / 2 : 1) : cores))
}

# 77 files take 35 core minutes without CUDA on a plain server core.
compile_estimate() {
    local minutes=$((35 / $1 + 2))
    if ((${ON_CUDA:-0})); then echo "well over $minutes minutes, with CUDA"; else echo "$minutes to $((minutes * 3 / 2)) minutes"; fi
}

compile_progress() {
    local ninja done_now total
    ninja=$(find "$SOURCE/build" -name build.ninja 2>/dev/null | head -n 1)
    if [[ -z $ninja ]]; then echo 'preparing'; return; fi
    done_now=$(find "$SOURCE/build" -name '*.o' | wc -l)
    total=$(grep -c '^build .*: *\(cuda_\)\?compile' "$ninja")
    if ((done_now < total)); then
        printf '%d of %d objects' "$done_now" "$total"
        if ((done_now > OBJECTS_AT_START + 1)); then
            printf ', about %s left' \
                "$(elapsed $(($1 * (total - done_now) / (done_now - OBJECTS_AT_START))))"
        fi
    else
        printf '%d of %d objects, linking' "$done_now" "$total"
    fi
}

check_compiler() {
    local name found=''
    for name in ${CXX:+"$CXX"} c++ g++; do
        if command -v "${name%% *}" >/dev/null; then found=$name; break; fi
    done
    [[ -n $found ]] ||
        die 'mmcv has to be compiled and no C++ compiler was found: install g++ (on Debian and Ubuntu: apt install g++), or point --wheels to a folder with a fitting wheel.'
    "$PY" -c '
import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' ||
        die "mmcv has to be compiled and Python's header files are missing: install them (on Debian and Ubuntu: apt install python$(python_version "$PY")-dev)."
}

# Compiles in a folder beside the keyed one, which keeps what is compiled when it is interrupted, and
# moves the finished wheel into place in one step.
build_mmcv() {
    local work=$WHEELS/.build-$KEY jobs
    check_compiler
    mkdir -p "$work" 2>/dev/null || die "$WHEELS cannot be written: name another folder with --wheels."
    check_disk "$WHEELS" 3
    exec 8>"$WHEELS/.build-$KEY.lock"
    if command -v flock >/dev/null && ! flock -n 8; then
        say 'another setup is compiling the same wheel; waiting for it'
        flock 8
        WHEEL=$(keyed_wheel)
        if [[ -n $WHEEL ]] && wheel_works "$WHEEL"; then return; fi
        mkdir -p "$work"
    fi
    jobs=${MAX_JOBS:-$(job_count)}
    say "compiling mmcv's operators with $jobs jobs: $(compile_estimate "$jobs")"
    say "safe to interrupt; the wheel stays in $WHEELS for other environments"
    SOURCE=$work/source
    if [[ ! -f $SOURCE/setup.py ]]; then
        rm -rf "${work:?}"/*
        must 'downloading the source of mmcv' pip download --no-deps --no-build-isolation \
            --no-binary "$MMCV_NAME" -d "$work" "$MMCV_NAME==$MMCV"
        mkdir "$work/unpacked"
        must 'unpacking mmcv' tar -xzf "$work"/*mmcv-*.tar.gz -C "$work/unpacked" --strip-components 1
        mv "$work/unpacked" "$SOURCE"
    fi
    OBJECTS_AT_START=$(find "$SOURCE" -name '*.o' | wc -l)
    rm -rf "$work/wheel"
    ((ON_CUDA)) || export CUDA_VISIBLE_DEVICES='' FORCE_CUDA=0
    MMCV_WITH_OPS=1 MAX_JOBS=$jobs PROGRESS=compile_progress must 'compiling mmcv' \
        pip wheel --no-cache-dir --no-build-isolation --no-deps -w "$work/wheel" "$SOURCE"
    wheel_works "$(find "$work/wheel" -name '*mmcv-*.whl')" ||
        die "mmcv was compiled, but its operators do not import: see $LOG."
    rm -rf "${WHEELS:?}/$KEY"
    mv -T "$work/wheel" "$WHEELS/$KEY"
    rm -rf "$work"
    exec 8>&-
    WHEEL=$(keyed_wheel)
}
