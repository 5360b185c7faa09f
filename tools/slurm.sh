#!/usr/bin/env bash
# A Slurm cluster of one node on loopback, for tests: no systemd, no cgroups, but with accounting
# (slurmdbd on a MariaDB of its own), as clusters have it. Memory and cores are consumable, memory
# is checked every second, and one GPU is a dummy (a gres on /dev/null).
#
# usage: tools/slurm.sh start|stop FOLDER     (as root)
#        tools/slurm.sh down|up FOLDER        kill or start its controller only
#        tools/slurm.sh accounting-down|accounting-up FOLDER    the same for its accounting
#
# Keys, state and logs are in FOLDER. /etc/slurm/slurm.conf becomes a link into it: the executor
# takes SLURM_CONF from the environment of jobs, so the default path must lead there.
set -Eeuo pipefail
action=${1:-}
folder=$(realpath -m "${2:-slurm}")
here=$(cd "$(dirname "$0")" && pwd)
daemons=(slurmd slurmctld slurmdbd mariadbd munged)
# Clients and slurmdbd use this socket, also on a machine with a database of its own.
export MYSQL_UNIX_PORT=$folder/mariadb.sock

fail() {
    echo "tessera-flow: $*" >&2
    exit "${status:-1}"
}

alive() { # whether the process of a pid file is running
    [ -s "$folder/$1.pid" ] && kill -0 "$(cat "$folder/$1.pid" 2>/dev/null)" 2>/dev/null
}

stop() {
    [ ! -e "$folder/slurm.conf" ] || timeout 10 scancel --full --user=root 2>/dev/null || true
    for daemon in "${daemons[@]}"; do
        alive "$daemon" || continue
        kill "$(cat "$folder/$daemon.pid")"
        for _ in $(seq 50); do
            alive "$daemon" || break
            sleep 0.1
        done
        alive "$daemon" && kill -KILL "$(cat "$folder/$daemon.pid")" || true
    done
    for name in slurm gres; do
        if [ "$(readlink "/etc/slurm/$name.conf")" = "$folder/$name.conf" ]; then
            rm "/etc/slurm/$name.conf"
        fi
    done
}

controller() { # kill it, or start it again with its state
    if [ "$1" = down ]; then
        kill -KILL "$(cat "$folder/slurmctld.pid")"
    else
        slurmctld -f "$folder/slurm.conf"
    fi
}

accounting() { # kill it, or start it again
    if [ "$1" = accounting-down ]; then
        kill -KILL "$(cat "$folder/slurmdbd.pid")"
    else
        SLURM_CONF="$folder/slurm.conf" slurmdbd
    fi
}

start_accounting() {
    chmod 600 "$folder/slurmdbd.conf"
    if [ ! -d "$folder/mariadb/mysql" ]; then
        # As root, like everything here: test folders are closed to other users.
        mariadb-install-db --no-defaults --user=root --datadir="$folder/mariadb" \
            --skip-test-db --auth-root-authentication-method=socket >"$folder/mariadb.log" 2>&1
    fi
    setsid mariadbd --no-defaults --user=root --datadir="$folder/mariadb" --skip-networking \
        --socket="$MYSQL_UNIX_PORT" --pid-file="$folder/mariadbd.pid" \
        --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 \
        >>"$folder/mariadb.log" 2>&1 </dev/null &
    for _ in $(seq 100); do
        mariadb-admin --no-defaults ping >/dev/null 2>&1 && break
        sleep 0.2
    done
    mariadb --no-defaults -e "create database if not exists slurm_acct_db;
        create user if not exists 'slurm'@'localhost' identified by 'toy';
        grant all on slurm_acct_db.* to 'slurm'@'localhost';"
    SLURM_CONF="$folder/slurm.conf" slurmdbd
    for _ in $(seq 50); do
        timeout 5 sacctmgr --noheader show cluster >/dev/null 2>&1 && break
        sleep 0.2
    done
    sacctmgr --immediate add cluster toy >/dev/null 2>&1 || true
    sacctmgr --immediate add account toy description=toy organization=toy >/dev/null 2>&1 || true
    sacctmgr --immediate add user root account=toy >/dev/null 2>&1 || true
}

start() {
    local status=3 # not possible on this machine, nothing is broken
    [ "$(id -u)" = 0 ] || fail "the daemons of Slurm must be started by root"
    for name in slurm gres; do
        [ ! -e "/etc/slurm/$name.conf" ] || [ -L "/etc/slurm/$name.conf" ] ||
            fail "/etc/slurm/$name.conf exists: this machine has a Slurm of its own"
    done
    [ ! -e /run/munge/munge.socket.2 ] || ! pgrep -x munged >/dev/null ||
        fail "a munged is running: stop its cluster first"
    status=1
    trap 'stop; fail "Slurm did not start: see the logs in $folder"' ERR # leave nothing half started
    mkdir -p "$folder"/{state,spool} /etc/slurm /run/munge
    chmod 755 "$folder" /run/munge
    local memory
    memory=$(($(awk '/MemTotal/ { print $2 }' /proc/meminfo) / 1024 - 512))
    for name in slurm gres slurmdbd; do
        sed -e "s|@HOST@|$(hostname -s)|g; s|@RUN@|$folder|g; s|@CPUS@|$(env -u OMP_NUM_THREADS nproc)|g; s|@MEM@|$memory|g" \
            "$here/slurm/$name.conf.in" >"$folder/$name.conf"
        [ "$name" != slurmdbd ] || continue
        ln -sfn "$folder/$name.conf" "/etc/slurm/$name.conf"
    done
    if [ ! -s "$folder/munge.key" ]; then
        (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
    fi
    munged --force --key-file="$folder/munge.key" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
    start_accounting
    slurmctld -c -i -f "$folder/slurm.conf"
    slurmd -f "$folder/slurm.conf"
    for _ in $(seq 100); do
        if timeout 5 sinfo -h -o %T 2>/dev/null | grep -qx idle; then
            echo "Slurm is up: $(sinfo -h -o '%P %c cores, %m MB, %G' | tr '\n' ';')"
            return
        fi
        sleep 0.2
    done
    stop
    fail "Slurm did not start: see $folder/slurmctld.log and $folder/slurmd.log"
}

case $action in
start) start ;;
stop) stop ;;
down | up) controller "$action" ;;
accounting-down | accounting-up) accounting "$action" ;;
*) fail "usage: tools/slurm.sh start|stop|down|up|accounting-down|accounting-up FOLDER" ;;
esac
