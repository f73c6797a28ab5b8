# What there is of the node of this checkout. Sourced, not run.
# shellcheck shell=bash
# shellcheck source=kind-cluster/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

node_pid() { cat "$state/pid"; }

node_runs() { runs "$state/pid" "$here/node/init"; }

keeper_runs() { runs "$state/keeper" "$here/node/keeper"; }

keeper_ended() { ! keeper_runs; }

# A number alone may be another process by now.
runs() { # FILE-WITH-PID PROGRAM
  local pid
  pid=$(cat "$1" 2>/dev/null) && tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF "$2"
}

kubeconfig() { echo "$state/node/kubernetes/super-admin.conf"; }

# Everything but the logs.
remove_node() {
  cgroups_remove "$state/cgroups"
  rm -rf "${state:?}"/{node,bin,pid,keeper}
}
