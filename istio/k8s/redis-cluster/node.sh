# How the scripts beside this one ask nodes, and how they read CLUSTER NODES. Sourced, not run.
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

# The filters read lines of CLUSTER NODES: id address flags primary ping-sent pong-received epoch link slots...

# Primaries that own slots.
owners() { awk '$3 ~ /master/ && NF > 8'; }

# Nodes that are not reached where they are believed to be. A connection that is still being made counts as
# "connected", so that a ping that has had no answer for a while tells more.
missing() {
  awk -v now="$(date +%s)" 'NF >= 8 && $3 !~ /handshake/ &&
    ($8 != "connected" || $3 ~ /(^|,)(fail[?]?|noaddr)(,|$)/ || ($5 > 0 && now - $5 / 1000 > 1))'
}

# Whether a node with this view could be elected, and believes rightly that the cluster is ok.
reaches_most_owners() {
  all=$(echo "$1" | owners | wc -l)
  lost=$(echo "$1" | owners | missing | wc -l)
  [ $((2 * lost)) -lt "$all" ]
}
