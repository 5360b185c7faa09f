#!/usr/bin/env bash
# Resolve the direct pins of pyproject.toml in an environment that holds nothing else; write
# everything they bring to requirements/lock.txt, and what each weighs to docs/dependencies.md.
# `make lock` calls this; `make generate` follows.
#
# usage: tools/lock.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$1" -m venv "$folder/venv"
"$folder/venv/bin/python" - >"$folder/direct.txt" <<'PYTHON'
import tomllib

with open("pyproject.toml", "rb") as handle:
    project = tomllib.load(handle)["project"]
print(*project["dependencies"], *project["optional-dependencies"]["dev"], sep="\n")
PYTHON
pip() {
    "$folder/venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"
}
TORCH=cpu tools/torch.sh "$folder/venv/bin/python" "$(grep -E '^torch==' "$folder/direct.txt")"
pip install --requirement "$folder/direct.txt"
pip freeze --all --exclude pip >"$folder/freeze.txt" # --all: setuptools, which torch needs
if grep -q '^nvidia-' "$folder/freeze.txt"; then
    echo "tessera-flow: the lock file is made with the CPU build of torch, which could not be had" >&2
    exit 1
fi
"$folder/venv/bin/python" tools/dependencies.py lock <"$folder/freeze.txt" >"$folder/lock.txt"
"$folder/venv/bin/python" tools/dependencies.py page >"$folder/page.md"
cp "$folder/lock.txt" requirements/lock.txt
cp "$folder/page.md" docs/dependencies.md
