#!/usr/bin/env bash
# Install the CPU build of torch, where there is one for this system: the default build for Linux
# brings gigabytes of CUDA libraries. tools/install.sh and tools/lock.sh call this before all else
# is installed; a torch that is there already satisfies the plain pin.
#
# usage: tools/torch.sh PYTHON torch==VERSION
#
# First the configured registry is asked (a mirror may hold the build), then PyTorch's own index.
# TORCH=gpu does nothing, so that the registry's own build comes with the rest.
# TORCH_INDEX names another index.
set -euo pipefail
python=$1
torch=$2
index=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}

if [ "${TORCH:-cpu}" != cpu ] || [ "$(uname -s)" != Linux ]; then
    exit 0
fi
said=$(mktemp)
trap 'rm -f "$said"' EXIT
pip() {
    "$python" -m pip --disable-pip-version-check --quiet --no-input "$@" 2>"$said"
}
# What torch needs comes with the lock file, from the configured registry.
if pip install --no-deps "$torch+cpu"; then
    exit 0
fi
# Few retries: where the index cannot be reached, its name is often not even known.
if pip install --no-deps "$torch+cpu" --index-url "$index" --retries 1 --timeout 20; then
    exit 0
fi
sed 's/^/  pip: /' "$said" >&2
echo "tessera-flow: there is no CPU build of $torch for this Python in your registry, and none could" \
    "be had from $index. Taking your registry's own build, which for Linux brings several GB of" \
    "CUDA libraries. To avoid that, let this machine reach the index, or set TORCH_INDEX to a mirror." >&2
