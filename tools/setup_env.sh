#!/usr/bin/env bash
# Makes the environment that mmafan is tested in. Safe to interrupt and to run again.
set -euo pipefail
# shellcheck source=tools/_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
# shellcheck source=tools/_progress.sh
source "$ROOT/tools/_progress.sh"
# shellcheck source=tools/_mmcv.sh
source "$ROOT/tools/_mmcv.sh"

usage() {
    cat <<'EOF'
Usage: bash tools/setup_env.sh [options]

Makes .venv in the repository root, installs a pinned and tested set of packages in it together
with mmafan itself, and ends with a check that runs one of mmcv's compiled operators.
A torch that the environment already holds is kept. A second run takes a few seconds.

  --set default|classic|onedl
                         default: torch 2.12 and numpy 2, Python 3.10 to 3.12
                         classic: torch 2.1 and numpy 1, Python 3.8 to 3.11
                         onedl: as default, with the maintained fork of OpenMMLab's packages
  --active               use the active virtual or conda environment in place of .venv
  --lite                 do not wait for mmcv's compile: take mmcv-lite where no fitting wheel is
                         at hand (enough for classification; a later run without --lite completes it)
  --python PYTHON        interpreter that .venv is made with
  --wheels DIR           folder of mmcv wheels, one folder per Python, torch, CUDA and mmcv version
                         (default: $MMAFAN_WHEEL_DIR or ~/.cache/mmafan/wheels)
  --help                 this text

Environment: PIP_FIND_LINKS and PIP_INDEX_URL as pip knows them; MAX_JOBS for the compile;
MMAFAN_CPU_OPS=1 compiles mmcv's operators for the CPU although a GPU is there;
MMAFAN_MIN_DISK_GB is the free disk space asked for.
EOF
}

NETWORK_HELP='connect to the network, set PIP_INDEX_URL to a mirror, or point PIP_FIND_LINKS to a folder with wheels of the packages (and --wheels to one with mmcv).'
STEPS=6
ACTIVE=0 LITE=0 SET='' PYTHON='' WHEELS=${MMAFAN_WHEEL_DIR:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/mmafan/wheels}
PY='' STATE='' LOG='' CHILD='' TEMPORARY=''
MMCV_NAME=mmcv OPENMMLAB='mmengine|mmdet|mmsegmentation|mmpretrain'

# ---------------------------------------------------------------- options and preconditions

parse_options() {
    while (($#)); do
        case $1 in
            --active) ACTIVE=1 ;;
            --lite) LITE=1 ;;
            --set | --python | --wheels)
                (($# > 1)) || die "$1 needs a value; see bash tools/setup_env.sh --help."
                case $1 in
                    --set) SET=$2 ;;
                    --python) PYTHON=$2 ;;
                    --wheels) WHEELS=$2 ;;
                esac
                shift ;;
            --set=*) SET=${1#*=} ;;
            --python=*) PYTHON=${1#*=} ;;
            --wheels=*) WHEELS=${1#*=} ;;
            -h | --help) usage; exit 0 ;;
            *) die "unknown option '$1'; see bash tools/setup_env.sh --help." ;;
        esac
        shift
    done
    case $SET in
        '' | default | classic | onedl) ;;
        *) die "unknown set '$SET': choose default, classic or onedl." ;;
    esac
    if ((ACTIVE)) && [[ -n $PYTHON ]]; then
        die '--python makes a new environment and --active uses the active one: give only one of them.'
    fi
    [[ $WHEELS == /* ]] || WHEELS=$PWD/$WHEELS
}

python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }

fits_set() {
    case $SET:$1 in
        default:3.10 | default:3.11 | default:3.12) ;;
        onedl:3.10 | onedl:3.11 | onedl:3.12) ;;
        classic:3.8 | classic:3.9 | classic:3.10 | classic:3.11) ;;
        *) return 1 ;;
    esac
}

wanted_pythons() {
    if [[ $SET == classic ]]; then echo '3.8, 3.9, 3.10 or 3.11'; else echo '3.10, 3.11 or 3.12'; fi
}

# Sets PY to the interpreter of an environment that is there already, or BASE_PYTHON to the one that
# .venv is to be made with.
choose_python() {
    local version candidate names
    if ((ACTIVE)); then
        PY=$(active_python)
    elif [[ -x $ROOT/.venv/bin/python ]]; then
        PY=$ROOT/.venv/bin/python
        version=$(python_version "$PY")
        [[ -n $version ]] || die "$PY does not start: remove $ROOT/.venv and run this again."
        if [[ -n $PYTHON && $(python_version "$PYTHON") != "$version" ]]; then
            die "$ROOT/.venv holds Python $version, which is not what --python asks for: remove it and run this again."
        fi
    fi
    choose_set
    if [[ -n $PY ]]; then
        version=$(python_version "$PY")
        fits_set "$version" ||
            die "the $SET set needs Python $(wanted_pythons), and $PY is Python ${version:-unknown}: use another environment or another --set."
        return
    fi
    names=(python3 python3.11 python3.12 python3.10)
    [[ $SET != classic ]] || names=(python3 python3.11 python3.10 python3.9 python3.8)
    [[ -z $PYTHON ]] || names=("$PYTHON")
    for candidate in "${names[@]}"; do
        version=$(python_version "$candidate")
        if [[ -n $version ]] && fits_set "$version"; then
            BASE_PYTHON=$candidate
            return
        fi
    done
    version=$(python_version "${names[0]}")
    die "the $SET set needs Python $(wanted_pythons), and ${names[0]} is ${version:-not found}: install one of them or name it with --python."
}

# Without --set, an environment keeps the set it was made with, and a torch that was compiled against
# numpy 1 gets the classic one.
choose_set() {
    local torch=''
    if [[ -n $PY ]]; then
        STATE=$("$PY" -c 'import sys; print(sys.prefix)')/.mmafan
        torch=$(installed_version torch)
        if [[ -z $SET && -f $STATE/set ]]; then SET=$(<"$STATE/set"); fi
    fi
    if [[ -n $torch ]]; then
        if version_at_least "$torch" 2.14; then
            die "torch $torch is in this environment, and mmcv does not compile against torch 2.14 or newer: use an environment with torch 2.13 or older."
        fi
        if ! version_at_least "$torch" 2.3; then
            [[ -z $SET || $SET == classic ]] ||
                die "torch $torch is in this environment and needs numpy 1, which the $SET set does not have: use --set classic or another environment."
            SET=classic
        fi
    fi
    SET=${SET:-default}
    REQUIREMENTS=$ROOT/requirements/$SET.txt
    [[ $SET != onedl ]] || MMCV_NAME=onedl-mmcv OPENMMLAB='onedl-mm(engine|detection|segmentation|pretrain)'
}

# version_at_least 2.12.1+cu130 2.14: compares major and minor.
version_at_least() {
    local have_major have_minor want_major want_minor
    IFS=. read -r have_major have_minor _ <<<"${1%%+*}"
    IFS=. read -r want_major want_minor _ <<<"$2"
    have_minor=${have_minor%%[!0-9]*}
    ((have_major > want_major || (have_major == want_major && have_minor >= want_minor)))
}

# installed_version NAME: prints a distribution's version, or nothing.
installed_version() {
    "$PY" -c '
import sys
from importlib.metadata import PackageNotFoundError, version
try:
    print(version(sys.argv[1]))
except PackageNotFoundError:
    pass' "$1" 2>/dev/null || true
}

# check_disk FOLDER GIGABYTES: FOLDER or its nearest existing parent.
check_disk() {
    local folder=$1 need=${MMAFAN_MIN_DISK_GB:-$2} free
    while [[ ! -d $folder ]]; do folder=$(dirname "$folder"); done
    free=$(df -Pk "$folder" | awk 'NR == 2 {print int($4 / 1048576)}')
    ((free >= need)) ||
        die "$folder has $free GB of free disk space and about $need GB are needed: free some, or set MMAFAN_MIN_DISK_GB if you know better."
    FREE_GB=$free
}

# ---------------------------------------------------------------- the steps

take_lock() {
    mkdir -p "$STATE" 2>/dev/null || die "$STATE cannot be written: use an environment of your own."
    exec 9>"$STATE/lock"
    if command -v flock >/dev/null && ! flock -n 9; then
        say 'another setup is working on this environment; waiting for it'
        flock 9
        # What it left is looked at from the beginning.
        exec bash "${BASH_SOURCE[0]}" "$@"
    fi
    LOG=$STATE/setup.log
    TEMPORARY=$STATE/tmp
    rm -rf "$TEMPORARY"
    mkdir -p "$TEMPORARY"
    # pip unpacks gigabytes of wheels here, and /tmp is often small.
    export TMPDIR=$TEMPORARY
}

make_environment() {
    if [[ -n $PY ]]; then
        pip --version >/dev/null 2>&1 || "$PY" -m ensurepip >>"$LOG" 2>&1 ||
            die "$PY has no pip: install pip in that environment and run this again."
        return
    fi
    "$BASE_PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$BASE_PYTHON has no venv module: install it (on Debian and Ubuntu: apt install python$(python_version "$BASE_PYTHON")-venv)."
    must 'making .venv' "$BASE_PYTHON" -m venv "$ROOT/.venv"
    PY=$ROOT/.venv/bin/python
}

# pins PATTERN: the lines of the set's requirements whose name matches.
pins() { grep -E "^($1)==" "$REQUIREMENTS"; }
pin() { pins "$1" | sed 's/.*==//'; }

BUILD_TOOLS='setuptools|wheel|ninja|packaging|psutil'
OPENCV='opencv-python-headless'

install_build_tools() {
    local lines
    mapfile -t lines < <(pins "$BUILD_TOOLS")
    must 'installing the build tools' pip install "${lines[@]}"
}

install_torch() {
    local torch torchvision
    torch=$(installed_version torch)
    grep -vE '^(torch|torchvision)==' "$REQUIREMENTS" >"$STATE/constraints.txt"
    if [[ -z $torch ]]; then
        must 'installing torch' pip install -c "$STATE/constraints.txt" \
            "torch==$(pin torch)" "torchvision==$(pin torchvision)"
        return
    fi
    torchvision=$(installed_version torchvision)
    if [[ -z $torchvision ]]; then
        install_torchvision "$torch"
    else
        say "keeping torch $torch and torchvision $torchvision"
    fi
}

# torchvision 0.(n + 15) belongs to torch 2.n and is compiled for the same CUDA or for the CPU, which
# the part of the version after the plus sign tells.
install_torchvision() {
    local torch=$1 public=${1%%+*} minor patch wanted extra=()
    IFS=. read -r _ minor patch <<<"$public"
    case $public in
        2.0.[01]) wanted=0.15.$((patch + 1)) ;;
        2.*) wanted=0.$((minor + 15)).${patch:-0} ;;
        *) die "torch $torch is in this environment without torchvision, and no torchvision is known to match it: install one that does, then run this again." ;;
    esac
    if [[ $torch == *+* ]]; then
        extra=(--extra-index-url "https://download.pytorch.org/whl/${torch#*+}")
    fi
    say "keeping torch $torch, adding torchvision $wanted"
    try 'installing torchvision' pip install --no-deps "torchvision==$wanted" "${extra[@]}" &&
        "$PY" -c 'import torchvision' >>"$LOG" 2>&1 && return
    try 'removing torchvision' pip uninstall -y torchvision || true
    die "torch $torch is in this environment without torchvision, and torchvision $wanted could not be installed beside it: install a matching one, then run this again (details in $LOG)."
}

install_libraries() {
    local openmmlab skip="torch|torchvision|$MMCV_NAME|$BUILD_TOOLS|$OPENMMLAB"
    if has_foreign_opencv; then
        say 'keeping the OpenCV that is there'
        skip+="|$OPENCV"
    fi
    grep -vE "^($skip)==" "$REQUIREMENTS" >"$STATE/libraries.txt"
    must 'installing the libraries' pip install -c "$STATE/constraints.txt" \
        -r "$STATE/libraries.txt" -r "$ROOT/requirements/test.txt"
    mapfile -t openmmlab < <(pins "$OPENMMLAB")
    # The fork's packages come as sources, which import torch when they are built.
    [[ $SET != onedl ]] || openmmlab+=(--no-build-isolation)
    must 'installing the OpenMMLab packages' pip install --no-deps "${openmmlab[@]}"
    must 'installing the libraries of the robustness analysis' pip install --no-deps -r "$ROOT/requirements/robustness.txt"
}

has_foreign_opencv() {
    local name
    for name in opencv-python opencv-contrib-python opencv-contrib-python-headless; do
        [[ -z $(installed_version "$name") ]] || return 0
    done
    return 1
}

# ---------------------------------------------------------------- mmafan itself and the check

# Development mode by a .pth line, with the metadata in the repository. `pip install -e` puts the
# metadata into site-packages, where mmengine's get_installed_path then looks for the package.
install_mmafan() {
    local site
    site=$("$PY" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    if compgen -G "$site/mmafan-*.dist-info" >/dev/null; then
        try 'removing an installed mmafan' pip uninstall -y mmafan || true
    fi
    printf '%s\n' "$ROOT" >"$site/mmafan-dev.pth"
    (cd "$ROOT" && must 'registering mmafan' "$PY" setup.py -q egg_info)
    # What pip makes of console_scripts, which development mode has not.
    "$PY" - <<'SCRIPT'
import os
import sys
path = os.path.join(os.path.dirname(sys.executable), 'mmafan')
with open(path, 'w') as file:
    file.write(f'#!{sys.executable}\nfrom mmafan.cli.main import main\nmain()\n')
os.chmod(path, 0o755)
SCRIPT
}

# check_environment [--quick]: imports what was installed and prints the versions.
check_environment() {
    local packages='mmengine mmcv mmpretrain mmafan' modules='' code=''
    if [[ $MODE == full ]]; then
        packages='mmengine mmcv mmpretrain mmdet mmseg mmafan'
        code=$OPS_CHECK
    fi
    [[ ${1:-} == --quick ]] || modules=$packages
    (cd / && "$PY" -W ignore -c "$code
import sys
from importlib import import_module
from importlib.metadata import version
for name in sys.argv[1].split():
    import_module(name)
import mmcv, torch
from mmengine.utils import get_installed_path
get_installed_path('mmafan')
names = ['torch', 'torchvision', 'numpy', *sys.argv[3].split()]
print('      ' + ', '.join('%s %s' % (name, version(name)) for name in names))
if sys.argv[2] == 'full':
    from mmcv.ops import get_compiling_cuda_version
    cuda = get_compiling_cuda_version()
    kind = 'CPU only' if cuda == 'not available' else 'CUDA ' + cuda
    print('      mmcv %s: the operators import and run (%s)' % (mmcv.__version__, kind))
else:
    print('      mmcv %s without operators: classification only' % mmcv.__version__)
" "$modules" "$MODE" "$(pins "$OPENMMLAB" | sed 's/=.*//' | tr '\n' ' ')" 2>>"$LOG")
}

# The stamp tells that everything below was done with these very files, Python and torch.
stamp() {
    {
        cat "$REQUIREMENTS" "$ROOT"/requirements/{test,robustness}.txt "$ROOT/setup.cfg" \
            "$ROOT"/tools/{setup_env,_env,_mmcv}.sh
        echo "$ROOT" "$SET" "$(python_version "$PY")" "$(installed_version torch)"
    } | cksum
}

finished_before() {
    [[ -n $PY && -f $STATE/stamp ]] || return 1
    MODE=$(<"$STATE/mode")
    [[ $(<"$STATE/stamp") == "$(stamp)" ]] || return 1
    if [[ $MODE == lite ]]; then
        ((LITE)) || return 1
        describe_build
        [[ -z $(keyed_wheel) ]] || return 1
    fi
}

main() {
    parse_options "$@"
    choose_python
    STATE=${STATE:-$ROOT/.venv/.mmafan}
    printf 'mmafan environment: %s (%s set)\n' "$(dirname "$STATE")" "$SET"
    trap interrupted INT TERM HUP
    trap leave EXIT
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0 PYTHONNOUSERSITE=1
    if [[ -n $PY ]]; then
        take_lock "$@"
        if finished_before && check_environment --quick; then
            say 'nothing to do: this environment is complete'
            return
        fi
        refuse_forks
    fi
    if [[ -n $PY && -n $(installed_version torch) ]]; then
        check_disk "$(dirname "$STATE")" 3
        : >"$LOG"
        step 1 "Python $(python_version "$PY"), $FREE_GB GB of disk space free"
        say "a few minutes; $(compile_estimate "$(job_count)") more if mmcv has to be compiled"
    else
        check_disk "$(dirname "$STATE")" 12
        [[ -n $PY ]] || take_lock "$@"
        : >"$LOG"
        step 1 "Python $(python_version "${PY:-$BASE_PYTHON}"), $FREE_GB GB of disk space free"
        say "3 to 15 minutes for about 3 GB of downloads; $(compile_estimate "$(job_count)") more if mmcv has to be compiled"
    fi
    rm -f "$STATE/stamp"
    make_environment
    echo "$SET" >"$STATE/set"
    step 2 'build tools'
    install_build_tools
    step 3 'torch and torchvision'
    install_torch
    step 4 'libraries, OpenMMLab packages, test tools'
    install_libraries
    step 5 "$MMCV_NAME $(pin "$MMCV_NAME")"
    describe_build
    install_mmcv
    step 6 'mmafan in development mode, and the check'
    install_mmafan
    MODE=lite
    if has_operators; then MODE=full; fi
    check_environment ||
        explain_failure 'the import check of the finished environment'
    [[ -z $OPS_NOTE ]] || say "note: $OPS_NOTE"
    echo "$MODE" >"$STATE/mode"
    stamp >"$STATE/stamp"
    printf 'Done in %s. The interpreter: %s\n' "$(elapsed $SECONDS)" "$PY"
}

refuse_forks() {
    local forks
    forks=$("$PY" -c '
import sys
from importlib.metadata import distributions
names = {(dist.metadata["Name"] or "").lower() for dist in distributions()}
upstream = {"mmengine", "mmcv", "mmcv-lite", "mmdet", "mmsegmentation", "mmpretrain"}
print(", ".join(sorted(name for name in names if (name in upstream if sys.argv[1] == "onedl" else name.startswith("onedl-")))))' "$SET")
    [[ -z $forks ]] ||
        die "this environment holds $forks, which must not stand beside the packages of the same import names that the $SET set has: use another environment or another --set."
}

main "$@"
