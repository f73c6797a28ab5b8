# The control groups of the node: one in each hierarchy of this machine (cgroup v1), below that of whoever starts
# the node, so that its limits hold. Sourced, not run.
# shellcheck shell=bash
# shellcheck source=kind-cluster/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

# What the kubelet and runc cannot do without.
cgroup_controllers=(blkio cpu cpuacct cpuset devices freezer memory pids)

cgroups_missing() {
  local controller
  for controller in "${cgroup_controllers[@]}"; do
    cut -d : -f 2 /proc/self/cgroup | tr , '\n' | grep -qx "$controller" ||
      echo "the cgroup v1 controller \`$controller\` (cgroup v2 alone is not enough here)"
  done
}

# A checkout has one node.
cgroup_name() { echo "slotmesh-$(cksum <<<"$root" | cut -d ' ' -f 1)"; }

# Makes them and writes their directories to a file.
cgroups_make() { # FILE
  local controllers path directory
  : >"$1"
  while IFS=: read -r _ controllers path; do
    [[ -n $controllers && $controllers != name=* ]] || continue
    directory=/sys/fs/cgroup/$controllers${path%/}/$(cgroup_name)
    mkdir -p "$directory"
    echo "$directory" >>"$1"
    # A set without processors and memory takes no process.
    if [[ -e $directory/cpuset.cpus ]]; then
      cat "$directory/../cpuset.cpus" >"$directory/cpuset.cpus"
      cat "$directory/../cpuset.mems" >"$directory/cpuset.mems"
    fi
  done </proc/self/cgroup
}

# Moves this very process into them.
cgroups_enter() { # FILE
  local directory
  while read -r directory; do
    echo $BASHPID >"$directory/cgroup.procs"
  done <"$1"
}

# Within the node's namespaces: shows the node nothing but its own.
cgroups_mount() {
  local controllers
  mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
  while IFS=: read -r _ controllers _; do
    [[ -n $controllers && $controllers != name=* ]] || continue
    mkdir "/sys/fs/cgroup/$controllers"
    mount -t cgroup -o "$controllers" cgroup "/sys/fs/cgroup/$controllers"
  done </proc/self/cgroup
}

# Removes them, once the node's last process has ended.
cgroups_remove() { # FILE
  local directory
  [[ -e $1 ]] || return 0
  while read -r directory; do
    wait_until 10 cgroup_remove "$directory" || say "$directory is still in use: it stays"
  done <"$1"
  rm "$1"
}

cgroup_remove() { # DIRECTORY
  [[ ! -d $1 ]] || find "$1" -depth -type d -exec rmdir {} +
}
