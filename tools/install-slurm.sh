#!/usr/bin/env bash
# Install Slurm and munge from Debian or Ubuntu packages, for `make test-slurm` (as root, about
# half a minute, 60 MB). Nothing is started: tools/slurm.sh does that.
set -euo pipefail
if command -v slurmctld slurmd sbatch munged >/dev/null; then
    echo "Slurm is installed: $(sbatch --version)"
    exit 0
fi
fail() {
    echo "tessera-flow: $*" >&2
    exit 1
}
command -v apt-get >/dev/null || fail "there is no apt-get here: install slurmctld, slurmd, slurm-client and munge by other means"
[ "$(id -u)" = 0 ] || fail "packages can be installed only by root"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge >/dev/null
echo "Installed $(sbatch --version)"
