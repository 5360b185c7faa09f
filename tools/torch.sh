#!/usr/bin/env bash
# Install the CPU build of torch, if one exists for this system: the default build for Linux brings
# gigabytes of CUDA libraries. Tries the configured registry, then PyTorch's index or TORCH_INDEX;
# TORCH=gpu does nothing. Usage: tools/torch.sh PYTHON torch==VERSION
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
