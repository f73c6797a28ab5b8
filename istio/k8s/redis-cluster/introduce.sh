#!/bin/sh
# Runs beside a node. Pods that got new addresses together do not find each other: each knows the others' old
# ones. While this node misses another, it looks for it under the names $NODES and sends it CLUSTER MEET.
#
# A name may lead to a node of another cluster, whose pod has got the address of one of ours. So nobody is
# met whose id this node did not know before.
set -eu
# shellcheck source=istio/k8s/redis-cluster/node.sh
. "$(dirname "$0")/node.sh"

main() {
  trap 'exit 0' TERM
  said=
  while :; do
    report=$(introduce)
    [ "$report" = "$said" ] || echo "${report:-introduce: no node is missing any more}"
    said=$report
    # Not in the foreground: a shell handles a signal when its command has ended.
    sleep 2 &
    wait $!
  done
}

introduce() {
  known=$(ask "$this_node" cluster nodes 2>/dev/null) || return 0
  [ -n "$(echo "$known" | missing)" ] || return 0
  for name in $NODES; do
    # id address:port@bus-port flags ...
    other=$(ask "$name" cluster nodes 2>/dev/null | grep myself) || continue
    id=${other%% *}
    if ! seen=$(echo "$known" | grep "^$id "); then
      echo "introduce: $name is not met: its id $id is new here. It is of another cluster, or has lost its volume"
    elif [ -n "$(echo "$seen" | missing)" ]; then
      meet "$name" "$(echo "$other" | cut -d ' ' -f 2)"
    fi
  done
}

meet() {
  address=${2%%@*}
  bus_port=${2#*@}
  echo "introduce: this node meets $1 at $address: $(
    ask "$this_node" cluster meet "${address%:*}" "$port" "${bus_port%%,*}" 2>&1
  )"
}

main
