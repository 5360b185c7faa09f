#!/usr/bin/env bash
# Resolve the requirements of pyproject.toml in a new environment and write every package in it, with
# the hashes of its files, to requirements/run.txt, slurm.txt, lock.txt and cuda.txt. `make lock` calls
# this; run `make generate` after it. uv only looks up hashes.
#
# usage: tools/lock.sh PYTHON [TORCH_VERSION]
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$1" -m venv "$folder/venv"
python=$folder/venv/bin/python
torch=${2:-$(grep -oE '^torch==[0-9.]+' requirements/cuda.txt | cut -d= -f3)}
TORCH=cpu tools/torch.sh "$python" "torch==$torch"
"$python" -m pip --disable-pip-version-check --quiet install ".[dev,slurm]"
# --all: setuptools, which torch needs
"$python" -m pip freeze --all --exclude pip --exclude tessera-flow >"$folder/freeze.txt"
"$1" -m venv "$folder/uv"
"$folder/uv/bin/python" -m pip --disable-pip-version-check --quiet install uv==0.13.9
"$python" tools/environments.py "$folder/uv/bin/uv" "$torch" <"$folder/freeze.txt"
