#!/usr/bin/env bash
# Resolve the pins of pyproject.toml in a new environment and write every package in it to
# requirements/lock.txt. `make lock` calls this; run `make generate` after it.
#
# usage: tools/lock.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$1" -m venv "$folder/venv"
python=$folder/venv/bin/python
TORCH=cpu tools/torch.sh "$python" "$(grep -oE '^ *"torch==[0-9.]+' pyproject.toml | tr -d ' "')"
"$python" -m pip --disable-pip-version-check --quiet install ".[dev]"
# --all: setuptools, which torch needs
"$python" -m pip freeze --all --exclude pip --exclude tessera-flow >"$folder/freeze.txt"
"$python" tools/environments.py <"$folder/freeze.txt" >"$folder/lock.txt"
cp "$folder/lock.txt" requirements/lock.txt
