#!/bin/sh
# Joins $NODES to a cluster with one replica for each primary, unless there is one already.
set -eu
# shellcheck source=istio/k8s/redis-cluster/node.sh
. "$(dirname "$0")/node.sh"

main() {
  for node in $NODES; do
    wait_for "$node to answer" answers "$node"
  done

  addresses=
  assigned=0
  for node in $NODES; do
    addresses="$addresses $(address "$node")"
    assigned=$((assigned + $(info "$node" cluster_slots_assigned)))
  done
  if [ "$assigned" -eq 0 ]; then
    create
  fi

  for node in $NODES; do
    wait_for "$node to be connected to all" sees_all "$node"
  done
  echo "the cluster is ready:"
  ask "$node" cluster nodes
}

create() {
  seeds=
  for address in $addresses; do
    seeds="$seeds $address:$port"
  done
  # shellcheck disable=SC2086 # one word for each node
  redis-cli --cluster create $seeds --cluster-replicas 1 --cluster-yes
}

wait_for() {
  what=$1
  shift
  until "$@"; do
    echo "waiting for $what"
    sleep 1
  done
}

answers() { [ "$(ask "$1" ping 2>&1)" = PONG ]; }

sees_all() {
  [ "$(info "$1" cluster_state)" = ok ] || return 1
  view=$(ask "$1" cluster nodes)
  for address in $addresses; do
    echo "$view" | grep -v handshake | grep -q " $address:$port@.* connected" || return 1
  done
}

# What the nodes know each other by: they cannot be told to meet a name.
address() { ask "$1" config get cluster-announce-ip | tail -n 1; }

info() { ask "$1" cluster info | tr -d '\r' | sed -n "s/^$2://p"; }

main
