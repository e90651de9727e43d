#!/usr/bin/env bash
# Build the documentation site; a warning is an error.
#
#     bash tools/build_docs.sh [FOLDER]     (default: build/docs; open FOLDER/index.html)
#
# sphinx and what it needs (requirements/docs.txt) go to build/docs_packages, beside no other package.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

out=${1:-build/docs} source=build/docs_source packages=build/docs_packages
python=.venv/bin/python
[[ -x $python ]] || python=python3
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "error: the documentation needs Python 3.10 or newer, this is $("$python" --version)" >&2
    exit 2
fi
if ! cmp --silent requirements/docs.txt "$packages/installed.txt"; then
    rm -rf "$packages"
    if ! "$python" -m pip install --quiet --retries 1 --timeout 20 --target "$packages" -r requirements/docs.txt; then
        rm -rf "$packages"
        echo "error: pip cannot install requirements/docs.txt here, which the documentation is built with" >&2
        exit 75
    fi
    cp requirements/docs.txt "$packages/installed.txt"
fi
"$python" tools/write_docs.py --check
rm -rf "$source" "$out"
mkdir -p build
cp -r docs "$source"
"$python" tools/write_docs.py --api "$source/api.md"
PYTHONPATH=$packages "$python" -m sphinx -b html -W --keep-going -q "$source" "$out"
echo "$out/index.html"
