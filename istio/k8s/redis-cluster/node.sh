# How the scripts beside this one ask nodes. Sourced, not run.
# All nodes have the same port. A password, if there is one, is in $REDISCLI_AUTH.
# shellcheck shell=sh

port=${PORT:-6379}
# shellcheck disable=SC2034 # for those that source this
this_node=${NODE_HOST:-127.0.0.1}

# Nobody may answer at an address that a pod has left: this does not wait for long.
ask() {
  asked=$1
  shift
  timeout 2 redis-cli -h "$asked" -p "$port" "$@"
}

# Of the lines of CLUSTER NODES, those of nodes that are not reached where they are believed to be.
missing() {
  awk 'NF >= 8 && $3 !~ /handshake/ && ($8 != "connected" || $3 ~ /(^|,)(fail[?]?|noaddr)(,|$)/)'
}
