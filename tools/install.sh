#!/usr/bin/env bash
# Make .venv with the pinned packages and the project itself. `make install` calls this.
#
# usage: tools/install.sh PYTHON VENV
#
# Only python3 (3.11 or newer, with venv) and a package registry are needed. pip's own
# configuration (index, mirrors, proxy) is honoured.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
venv=$2

fail() {
    echo "tessera-flow: $*" >&2
    exit 1
}

case "$PWD" in
*[[:space:]]* | *[\'\"\\\$\`\&\;\|\<\>\(\)\{\}\*\?\!\#\~]*) fail "Snakemake cannot start a Python in $PWD: the path has a space or a special character. Move this folder to another path." ;;
esac
command -v "$python" >/dev/null ||
    fail "$python was not found: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old: Python 3.11 or newer is needed. Name one: make PYTHON=/path/to/python3"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "this Python cannot make virtual environments: install its venv module (Debian, Ubuntu: apt install python3-venv)"

# `python -m venv` keeps an existing environment, even a broken one.
if [ -e "$venv/bin/python" ] || [ -L "$venv/bin/python" ]; then
    version='import sys; print(sys.version_info[:2])'
    [ "$("$venv/bin/python" -c "$version" 2>/dev/null)" = "$("$python" -c "$version")" ] ||
        fail "$venv was made by another Python than $("$python" --version), or by one that no longer exists: remove it (rm -r $venv) and run again."
fi

echo "Installing into $venv (about 2.2 GB, a few minutes)."
"$python" -m venv "$venv"
pip() {
    "$venv/bin/python" -m pip --disable-pip-version-check --quiet --no-input "$@"
}

# For a GPU: make install TORCH=gpu
pin=$(grep -oE '^torch==[0-9.]+' requirements/cuda.txt)
tools/torch.sh "$venv/bin/python" "$pin"
same='import sys; from importlib.metadata import version; sys.exit(version("torch").split("+")[0] != sys.argv[1])'
"$venv/bin/python" -c "$same" "${pin#*==}" 2>/dev/null || pip install --no-deps --requirement requirements/cuda.txt
echo "Now $(cat requirements/run.txt requirements/lock.txt | grep -c '==') packages, checked by their hashes."
# The file is complete, and `pip check` would see a gap; pip's resolver reads files without hashes.
pip install --use-pep517 --no-deps --requirement requirements/lock.txt
pip install --no-deps --no-build-isolation --editable .
pip check
