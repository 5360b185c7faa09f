#!/usr/bin/env bash
# Install the CPU build of torch, if one exists for this system: the default build for Linux brings
# gigabytes of CUDA libraries. tools/install.sh and tools/lock.sh call this first; the plain pin is
# then satisfied.
#
# usage: tools/torch.sh PYTHON torch==VERSION
#
# Tries the configured registry (a mirror may hold the build), then PyTorch's own index.
# TORCH=gpu does nothing, so that the registry's own build comes with the other packages.
# TORCH_INDEX names another index.
set -euo pipefail
index=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
if [ "${TORCH:-cpu}" != cpu ] || [ "$(uname -s)" != Linux ]; then
    exit 0
fi
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
install() { # without torch's own requirements: they are in the lock file
    "$1" -m pip --disable-pip-version-check --quiet --no-input install --no-deps "${@:2}" 2>"$errors"
}
# Few retries: where the index cannot be reached, its name often cannot be resolved either.
install "$1" "$2+cpu" || install "$1" "$2+cpu" --index-url "$index" --retries 1 --timeout 20 || {
    sed 's/^/  pip: /' "$errors"
    echo "tessera-flow: neither your registry nor $index has a CPU build of $2 for this Python." \
        "Taking your registry's own build, which for Linux brings several GB of CUDA libraries." \
        "To avoid that, let this machine reach the index, or set TORCH_INDEX to a mirror."
} >&2
