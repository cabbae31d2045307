#!/usr/bin/env bash
# A genuine one-machine SLURM for tests, and for anyone without a cluster: slurmctld, slurmd, and slurmdbd on MariaDB
# (so sacct answers as on a cluster), all of Debian's own packages, on loopback only, without systemd and cgroups.
#
#   scripts/slurm_local.sh install --allow-root    the packages (apt-get), nothing else
#   scripts/slurm_local.sh start --allow-root      …and the daemons; nothing happens if they run already
#   eval "$(scripts/slurm_local.sh env)"           now sbatch, squeue, dora grid… of this shell mean this SLURM
#   scripts/slurm_local.sh status                  is it up?
#   scripts/slurm_local.sh stop [--wipe]           ends jobs and daemons; --wipe also deletes the folder
#
# Only for machines that may be thrown away: it runs as root, which --allow-root agrees to, and any local user may open
# its database. Everything lies in one folder; no file of the system is changed (packages stay installed).
#   SLURM_LAB       that folder                            SLURM_LAB_PORT    first of three ports (16817)
#   SLURM_LAB_CPUS, SLURM_LAB_MEM_MB, SLURM_LAB_GPUS       what the node claims to have (80, 1000000, 2): it may be
#     more than there is, so that a cluster's settings are accepted as they are. GPUs are handed out but fake.
#   SLURM_LAB_PARTITIONS, SLURM_LAB_FEATURES               names that the grids ask for (main learnlab devlab, volta32gb)
# A folder's settings are those of its first start; SLURM's own logs are in its log/.
set -euo pipefail
LAB=$(realpath -m "${SLURM_LAB:-${TMPDIR:-/tmp}/bm_slurm}")
PORT=${SLURM_LAB_PORT:-16817}
PACKAGES=(slurmctld slurmd slurm-client slurmdbd slurm-wlm-mysql-plugin mariadb-server-core munge)
DAEMONS=(munged mariadbd slurmdbd slurmctld slurmd)
export PATH=$PATH:/usr/sbin SLURM_CONF=$LAB/slurm.conf MYSQL_UNIX_PORT=$LAB/run/mysql.sock

say() { echo "slurm_local: $*" >&2; }
die() { say "$*"; exit 1; }

started() {  # when process $1 was started, in clock ticks; fails for a zombie or none
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  read -ra stat <<< "${stat##*) }"
  [ "${stat[0]}" != Z ] && echo "${stat[19]}"
}

alive() {  # is daemon $1 running, and the one that was started here (a pid may be used again)?
  local pid time
  read -r pid time 2>/dev/null < "$LAB/run/$1.proc" && [ "$(started "$pid")" = "$time" ]
}

launch() {  # launch NAME SECONDS READY -- COMMAND…: runs a daemon in its own session until READY succeeds
  local name=$1 seconds=$2 ready=$3
  shift 4
  if ! alive "$name"; then
    setsid "$@" >> "$LAB/log/$name.log" 2>&1 < /dev/null &
    disown
    echo "$! $(started $!)" > "$LAB/run/$name.proc"
  fi
  for _ in $(seq "$((seconds * 10))"); do
    "$ready" > /dev/null 2>&1 && return
    alive "$name" || break
    sleep 0.1
  done
  tail -n 5 "$LAB/log/$name.log" >&2
  die "$name did not come up; its log is $LAB/log/$name.log"
}

listens() { (exec 3<> "/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
munge_ready() { munge -S "$LAB/run/munge.socket" -n | unmunge -S "$LAB/run/munge.socket"; }
mariadb_ready() { [ -S "$MYSQL_UNIX_PORT" ]; }
slurmdbd_ready() { listens "$((PORT + 1))"; }
# sacct forgets jobs that are submitted before slurmctld has registered
slurmctld_ready() { scontrol ping | grep -q UP && [ "$(sacctmgr -nP show cluster lab format=ControlPort)" = "$PORT" ]; }
slurmd_ready() { sinfo -h -o %T | grep -qxE 'idle|mixed|allocated'; }

installed() { command -v slurmctld slurmd sbatch slurmdbd mariadbd munged > /dev/null; }

install() {
  installed && return
  command -v apt-get > /dev/null || die "this machine has no apt-get: install SLURM, MariaDB and munge yourself"
  say "apt-get install ${PACKAGES[*]}"
  # packages must not start their services
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
  fi
  export DEBIAN_FRONTEND=noninteractive
  mkdir -p "$LAB"
  apt-get -qq -o DPkg::Lock::Timeout=300 update
  apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install -y --no-install-recommends "${PACKAGES[@]}" > "$LAB/apt.log" 2>&1 ||
    { tail -n 20 "$LAB/apt.log" >&2; die "apt-get failed"; }
  installed || die "apt-get installed the packages, but slurmctld, slurmd, slurmdbd, mariadbd or munged is missing"
}

configure() {
  [ -s "$SLURM_CONF" ] && return
  local host gpus=${SLURM_LAB_GPUS:-2}
  host=$(hostname -s)
  for port in "$PORT" "$((PORT + 1))" "$((PORT + 2))"; do
    listens "$port" && die "port $port is taken (another SLURM here?): set SLURM_LAB_PORT"
  done
  (umask 077; head -c 128 /dev/urandom > "$LAB/munge.key")
  for i in $(seq 0 $((gpus - 1))); do mknod "$LAB/dev/gpu$i" c 1 3; done
  echo "NodeName=localhost Name=gpu File=$LAB/dev/gpu[0-$((gpus - 1))]" > "$LAB/gres.conf"
  (umask 077; cat > "$LAB/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$LAB/run/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((PORT + 1))
SlurmUser=root
PidFile=$LAB/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
CommunicationParameters=NoInAddrAny
CONF
  )
  cat > "$SLURM_CONF.new" <<CONF
ClusterName=lab
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$PORT
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
CredType=cred/munge
# a requeued job waits for cred_expire + 1 s before it starts again (default 120)
AuthInfo=socket=$LAB/run/munge.socket,cred_expire=10
SlurmUser=root
SlurmdUser=root
SlurmctldPidFile=$LAB/run/slurmctld.pid
SlurmdPidFile=$LAB/run/slurmd.pid
StateSaveLocation=$LAB/state
SlurmdSpoolDir=$LAB/spool
# no cgroups
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
# else a node that claims more than the machine has is refused
SlurmdParameters=config_overrides
# prompt scheduling, patience with a loaded machine
SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=5
SlurmdTimeout=0
MessageTimeout=60
KillWait=5
ReturnToService=2
PropagateResourceLimits=NONE
# ids that were never used: Dora refuses to meet one again
FirstJobId=$(($(date +%s) % 60000000 + 1))
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((PORT + 1))
AccountingStorageTRES=gres/gpu
# where munge listens, for what speaks to slurmdbd
AccountingStoragePass=$LAB/run/munge.socket
NodeName=localhost NodeHostname=$host NodeAddr=127.0.0.1 Port=$((PORT + 2)) CPUs=${SLURM_LAB_CPUS:-80} RealMemory=${SLURM_LAB_MEM_MB:-1000000} Gres=gpu:$gpus Features=${SLURM_LAB_FEATURES:-volta32gb} State=UNKNOWN
PartitionName=DEFAULT Nodes=ALL MaxTime=INFINITE State=UP
CONF
  local partition default=YES
  for partition in ${SLURM_LAB_PARTITIONS:-main learnlab devlab}; do
    echo "PartitionName=$partition Default=$default"
    default=NO
  done >> "$SLURM_CONF.new"
  mv "$SLURM_CONF.new" "$SLURM_CONF"
}

start() {
  install
  mkdir -p "$LAB"/{log,run,dev,state,spool}
  configure
  # as it was at the first start
  PORT=$(sed -n 's/^SlurmctldPort=//p' "$SLURM_CONF")
  local sql=/usr/share/mysql
  local db=(mariadbd --no-defaults --user=root --datadir="$LAB/db" --lc-messages-dir=$sql --innodb-buffer-pool-size=64M
    --innodb-log-file-size=16M --innodb-flush-log-at-trx-commit=0 --innodb-lock-wait-timeout=900)
  if [ ! -e "$LAB/db/.ready" ]; then
    mkdir -p "$LAB/db/mysql"
    { echo 'use mysql;'; cat $sql/mysql_system_tables.sql $sql/mysql_performance_tables.sql $sql/mysql_system_tables_data.sql; } |
      "${db[@]}" --bootstrap > "$LAB/log/bootstrap.log" 2>&1 || die "MariaDB made no database: $LAB/log/bootstrap.log"
    touch "$LAB/db/.ready"
  fi
  launch munged 10 munge_ready -- munged --foreground --force --socket="$LAB/run/munge.socket" --key-file="$LAB/munge.key" \
    --pid-file="$LAB/run/munged.pid" --seed-file="$LAB/run/munge.seed" --log-file="$LAB/log/munge.log"
  alive mariadbd || rm -f "$MYSQL_UNIX_PORT"
  launch mariadbd 60 mariadb_ready -- "${db[@]}" --socket="$MYSQL_UNIX_PORT" --skip-networking --skip-grant-tables
  launch slurmdbd 60 slurmdbd_ready -- slurmdbd -D
  sacctmgr -nP show cluster lab format=cluster | grep -qx lab || sacctmgr -iQ add cluster lab > "$LAB/log/sacctmgr.log"
  launch slurmctld 60 slurmctld_ready -- slurmctld -D
  launch slurmd 60 slurmd_ready -- slurmd -D -N localhost
  say "up: $(sinfo -h -o '%c CPUs, %m MB, %G')"
}

stop_daemons() {  # asks daemons to end, and makes those that do not within 10 s
  local pid time name
  for signal in TERM KILL; do
    for name in "$@"; do
      if alive "$name"; then read -r pid time < "$LAB/run/$name.proc"; kill -$signal "$pid"; fi
    done
    for name in "$@"; do
      for _ in $(seq 100); do alive "$name" || break; sleep 0.1; done
    done
  done
  for name in "$@"; do rm -f "$LAB/run/$name.proc"; done
}

stop() {
  [ -d "$LAB/run" ] || return 0
  if alive slurmctld; then
    # jobs would outlive slurmd
    scancel --quiet --full --signal=KILL --user=root || true
    scancel --quiet --user=root || true
    for _ in $(seq 200); do [ -z "$(squeue -h -o %i)" ] && break; sleep 0.1; done
  fi
  stop_daemons slurmd slurmctld
  stop_daemons slurmdbd
  stop_daemons mariadbd munged
  [ "$1" != --wipe ] || rm -rf "$LAB"
}

status() {
  local name all=0
  for name in "${DAEMONS[@]}"; do
    if alive "$name"; then say "$name runs"; else say "$name does not run"; all=1; fi
  done
  return $all
}

command=${1:-help} option=${2:-}
case $command in
  install | start | stop)
    [ "$(id -u)" = 0 ] || die "$command needs root"
    [ "$command" = stop ] || [ "$option" = --allow-root ] ||
      die "$command works as root, on a machine that may be thrown away; if this is one: $command --allow-root" ;;
esac
case $command in
  install) install ;;
  start) start ;;
  stop) stop "$option" ;;
  status) status ;;
  env) printf 'export SLURM_CONF=%q\n' "$SLURM_CONF" ;;
  *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 1 ;;
esac
