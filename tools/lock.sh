#!/usr/bin/env bash
# Resolve the direct pins of pyproject.toml and write everything they bring to
# requirements/lock.txt, from an environment that holds nothing else. `make lock` calls this.
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
torch=$(grep -E '^torch==' "$folder/direct.txt")
pip install "$torch+cpu" 2>/dev/null ||
    pip install "$torch+cpu" --index-url https://download.pytorch.org/whl/cpu
pip install --requirement "$folder/direct.txt"
{
    echo "# Every package of a working environment, pinned; written by \`make lock\`, not by hand."
    echo "# tools/install.sh chooses the CPU build of torch before it reads this file."
    pip freeze | sed 's/+cpu$//'
} >"$folder/lock.txt"
cp "$folder/lock.txt" requirements/lock.txt
