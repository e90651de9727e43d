#!/usr/bin/env bash
# Run the model tests of a codebase on stock models and on A-FAN models that are off, and compare what becomes of each.
#   bash tools/upstream_tests.sh CHECKOUT [TESTS]     # TESTS: folders or files, by their path in the checkout
# CHECKOUT is one of mmpretrain, mmdetection or mmsegmentation, in the version that is installed.
# Also read from the environment: PYTHON, PYTEST_ADDOPTS.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"
(($# >= 1)) || fail 'usage: bash tools/upstream_tests.sh CHECKOUT [TESTS]'
[[ -d $1/tests ]] || fail "$1 has no folder tests: name a checkout of a codebase, as packages come without their tests."
python=$(find_python) || exit 2
checkout=$1 out=$(mktemp -d)
shift
trap 'rm -rf "$out"' EXIT
if (($# == 0)); then
    for part in test_models/test_detectors test_models/test_segmentors test_models; do
        [[ ! -d $checkout/tests/$part ]] || break
    done
    set -- "tests/$part"
fi
run() { # run NAME [arguments]: the tests, whose failures are compared below
    (cd "$checkout" && "$python" -m pytest -q -p no:cacheprovider --junitxml "$out/$1.xml" "${@:2}") || (($? == 1))
}
run stock "$@"
run twins -p mmafan.conformance.upstream "$@"
"$python" -m mmafan.conformance.upstream "$out/stock.xml" "$out/twins.xml"
