#!/bin/sh
# Whether this node may get clients, and a rollout may go on to the next one (readinessProbe). Says why not.
set -eu
# shellcheck source=istio/k8s/redis-cluster/node.sh
. "$(dirname "$0")/node.sh"

main() {
  state=$(printf 'cluster info\ninfo replication\ncluster nodes\n' | ask "$this_node" 2>&1 | tr -d '\r')
  first=$(echo "$state" | head -n 1)
  is cluster_state:ok || not_ready "Redis says: ${first:-nothing}"
  reaches_most_owners "$state" || not_ready "this node does not reach most primaries"
  ! is role:master || return 0
  is master_link_status:up || not_ready "this replica is not in sync with its primary"
  # A replica copies from an address: if its primary has left that one, it may copy from somebody else.
  primary=$(echo "$state" | awk '$3 ~ /myself/ { print $4 }')
  ! echo "$state" | missing | grep -q "^$primary " || not_ready "its primary is not where this replica copies from"
}

is() { echo "$state" | grep -qx "$1"; }

not_ready() {
  echo "not ready: $1"
  exit 1
}

main
