#!/usr/bin/env bash
# Install Slurm, munge and MariaDB from Debian or Ubuntu packages, for `make test-slurm` (as root,
# about a minute, 300 MB). Nothing is started: tools/slurm.sh does that.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
needed=(slurmctld slurmd slurmdbd sbatch munged mariadbd)

missing() {
    for name in "${needed[@]}"; do
        command -v "$name" >/dev/null || echo "$name"
    done
}
fail() {
    echo "tessera-flow: $*" >&2
    exit 1
}

if [ -n "$(missing)" ]; then
    command -v apt-get >/dev/null || fail "there is no apt-get here: install $(missing | xargs) by other means"
    [ "$(id -u)" = 0 ] || fail "packages can be installed only by root"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # With systemd, packages would start their services, and their munged would conflict with that
    # of the tests.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    apt-get install -y -qq --no-install-recommends \
        slurmctld slurmd slurmdbd slurm-client munge mariadb-server >/dev/null
fi
echo "Installed: $(slurmctld -V), $(mariadbd --version | cut -d' ' -f1-4)"
