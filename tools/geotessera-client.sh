#!/usr/bin/env bash
# Install the published geotessera client, which needs Python 3.12 or newer, into a folder of its
# own, for `make test-geotessera`. GEOTESSERA_PYTHON names the Python to use.
#
# usage: tools/geotessera-client.sh FOLDER
# exit 3: there is no such Python, or no package registry.
set -euo pipefail
version=0.11.0
folder=$1

if [ -x "$folder/bin/python" ] && "$folder/bin/python" -c "
import importlib.metadata as m, sys; sys.exit(m.version('geotessera') != '$version')" 2>/dev/null; then
    exit 0
fi
for python in "${GEOTESSERA_PYTHON:-}" python3.14 python3.13 python3.12 python3; do
    if [ -n "$python" ] && "$python" -c "
import sys; sys.exit(sys.version_info < (3, 12))" 2>/dev/null; then
        "$python" -m venv --clear "$folder"
        # The client needs no torch, and nothing of this environment.
        "$folder/bin/python" -m pip --disable-pip-version-check --quiet install \
            "geotessera==$version" && exit 0
        rm -rf "$folder" # made above: without the client, the tests are skipped
        echo "geotessera $version cannot be installed (no package registry?)" >&2
        exit 3
    fi
done
echo "no Python 3.12 or newer for geotessera $version: set GEOTESSERA_PYTHON" >&2
exit 3
