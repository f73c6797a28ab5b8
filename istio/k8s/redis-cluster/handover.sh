#!/bin/sh
# Run before a node stops (preStop). A primary hands its role to a replica that is in sync. Then the node
# waits until no client has been redirected for a while: all of them have learnt where to go.
#
# It ends after $LIMIT seconds at the latest. Redis stops then all the same, and the others elect a primary.
set -eu
# shellcheck source=istio/k8s/redis-cluster/node.sh
. "$(dirname "$0")/node.sh"

end=$(($(date +%s) + ${LIMIT:-40}))

main() {
  # Other nodes that stop do not choose this one. It is a setting of the process: a restart ends it.
  ask "$this_node" config set cluster-replica-no-failover yes >/dev/null || true
  while in_time; do
    if is_primary; then
      hand_over || return 0
    elif is_quiet && ! is_primary; then
      return 0
    fi
  done
  echo "handover: the time is over"
}

# Fails if there is nobody who could ever take over.
hand_over() {
  id=$(ask "$this_node" cluster myid)
  replicas=$(ask "$this_node" cluster replicas "$id" | awk '{ sub(/:[0-9]+@.*/, "", $2); print $2 }')
  if [ -z "$replicas" ]; then
    echo "handover: this primary has no replica"
    return 1
  fi
  for replica in $(in_sync "$replicas"); do
    echo "handover: to $replica: $(ask "$replica" cluster failover)"
    if has_taken_over; then
      echo "handover: $replica is the primary now"
      return 0
    fi
  done
  # A replica that has just been restarted may come into sync yet.
  sleep 0.5
}

# Those of the replicas that could take over now, the most advanced one first.
in_sync() {
  for replica in $1; do
    printf 'info replication\ncluster nodes\n' | ask "$replica" | tr -d '\r' | awk -v replica="$replica" '
      /^master_link_status:up$/ { up = 1 }
      /^slave_repl_offset:/ { offset = substr($0, index($0, ":") + 1) }
      $3 ~ /myself/ { willing = $3 !~ /nofailover/ }
      END { if (up && willing) print offset, replica }'
  done | sort -rn | cut -d ' ' -f 2
}

# Redis gives up a failover that takes 5 seconds.
has_taken_over() {
  tries=60
  while [ "$tries" -gt 0 ] && in_time; do
    is_primary || return 0
    tries=$((tries - 1))
    sleep 0.1
  done
  return 1
}

# Whether this node owns slots.
is_primary() { ask "$this_node" cluster nodes | grep -q 'myself,master.* connected [0-9[]'; }

is_quiet() {
  before=$(redirections)
  sleep 2
  [ "$(redirections)" = "$before" ]
}

# How many commands this node has answered with MOVED.
redirections() { ask "$this_node" info errorstats | grep errorstat_MOVED || true; }

in_time() { [ "$(date +%s)" -lt "$end" ]; }

main
