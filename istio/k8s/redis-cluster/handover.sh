#!/bin/sh
# Run before a node stops (preStop). A primary hands its role to a replica that is in sync. Then the node
# waits until all other nodes know, and no client has been redirected or has published anything for a while: all of
# them have learnt where to go.
#
# After $LIMIT seconds it gives up, and has ended at most 7 seconds later: up to three questions are under way, and
# each may take two seconds. Redis stops then all the same, and the others elect a primary.
set -eu
# shellcheck source=istio/k8s/redis-cluster/node.sh
. "$(dirname "$0")/node.sh"

end=$(($(date +%s) + ${LIMIT:-40}))
next_try=0
# After a failover a node may need some seconds to learn who its replica is: looks for one, each half a second.
looks=10

main() {
  id=$(ask_until_it_answers cluster myid)
  if [ "${#id}" -ne 40 ]; then
    echo "handover: nothing to hand over. Redis says: $id"
    return
  fi
  # Other nodes that stop do not choose this one. It is a setting of the process: a restart ends it.
  ask_until_it_answers config set cluster-replica-no-failover yes >/dev/null
  while in_time; do
    if is_primary; then
      hand_over || return 0
    elif all_know && is_quiet && ! is_primary; then
      return 0
    fi
  done
  echo "handover: the time is over"
}

# What this node answers. It may be too busy to do so at once.
ask_until_it_answers() {
  until answer=$(ask "$this_node" "$@" 2>&1) || ! in_time; do
    sleep 0.5
  done
  echo "$answer"
}

# Fails if there is nobody who could ever take over.
hand_over() {
  replicas=$(ask "$this_node" cluster replicas "$id") || return 0
  if [ -n "$replicas" ]; then
    if [ "$(date +%s)" -ge "$next_try" ] && is_our_turn; then
      ask_replicas
    fi
  elif [ "$looks" -gt 0 ]; then
    looks=$((looks - 1))
  else
    echo "handover: this primary has no replica"
    return 1
  fi
  # A replica that has just been restarted may be able to take over soon.
  sleep 0.5
}

# Asks one replica after the other to take over, until one does.
ask_replicas() {
  for replica in $(able "$(echo "$replicas" | awk '{ sub(/:[0-9]+@.*/, "", $2); print $2 }')"); do
    in_time || return 0
    echo "handover: to $replica: $(ask "$replica" cluster failover)"
    # Redis gives up after 5 seconds.
    if has_taken_over 5 || promote "$replica" || has_taken_over 50; then
      echo "handover: $replica is the primary now"
      return 0
    fi
    # Twice the time for an election: until then Redis refuses to hold another one.
    next_try=$(($(date +%s) + 20))
  done
}

# Elections at the same time take votes from each other. So primaries that stop at the same time take turns of two
# seconds, and begin in the first one.
is_our_turn() {
  stopping=$(echo "$view" | owners | awk '$3 ~ /nofailover/ || $3 ~ /myself/ { print $1 }' | sort)
  count=$(echo "$stopping" | wc -l)
  place=$(echo "$stopping" | grep -n "$id" | cut -d : -f 1)
  [ "$count" -eq 1 ] || [ $(($(date +%s) % (2 * count))) -eq $((2 * place - 2)) ]
}

# Those of the replicas that could take over now, the most advanced one first. This node stops serving writes when
# it has asked one, for as long as 5 seconds: so it asks nobody who would not be elected.
able() {
  for replica in $1; do
    in_time || return 0
    state=$(printf 'info replication\ncluster nodes\n' | ask "$replica" | tr -d '\r')
    if echo "$state" | grep -qx master_link_status:up && ! echo "$state" | grep -q 'myself.*nofailover' &&
      reaches_most_owners "$state"; then
      echo "$(echo "$state" | sed -n 's/^slave_repl_offset://p') $replica"
    fi
  done | sort -rn | cut -d ' ' -f 2
}

# Looks $1 times, ten times a second.
has_taken_over() {
  tries=$1
  while [ "$tries" -gt 0 ] && in_time; do
    is_primary || return 0
    tries=$((tries - 1))
    sleep 0.1
  done
  return 1
}

# Makes the replica $1 the primary without an election. The one that was asked for has failed, for example because
# another shard held one at the same time: nobody votes twice in an epoch. Without this, this node would hold writes
# back until Redis gives up, and ask in vain until the next election is allowed.
#
# Nothing is lost: the replica takes over when it has all that this node has written, and this node writes nothing
# more until it knows its new primary.
promote() {
  in_time && [ "$(ask "$this_node" client pause 5000 write)" = OK ] || return 1
  has_caught_up "$1" && in_time || return 1
  echo "handover: the election has failed. To $1 without one: $(ask "$1" cluster failover takeover)"
  has_taken_over 10 || return 1
  # Now this node redirects what it has held back.
  ask "$this_node" client unpause >/dev/null
}

# Whether the replica $1 has all that this node has written.
has_caught_up() {
  written=$(replication "$this_node" master_repl_offset)
  copied=$(replication "$1" slave_repl_offset)
  [ -n "$written" ] && [ -n "$copied" ] && [ "$copied" -ge "$written" ]
}

replication() { ask "$1" info replication | tr -d '\r' | sed -n "s/^$2://p"; }

# Whether this node owns slots, or is too busy to say.
is_primary() {
  view=$(ask "$this_node" cluster nodes) || return 0
  echo "$view" | owners | grep -q myself
}

# Whether no other node that answers believes that this one owns slots. One that has not heard yet could still send
# clients here: it may have been restarted a moment ago.
all_know() {
  for other in $(echo "$view" | awk '!/myself/ && $3 !~ /fail|noaddr/ { sub(/:[0-9]+@.*/, "", $2); print $2 }'); do
    in_time || return 1
    ! ask "$other" cluster nodes 2>/dev/null | owners | grep -q "^$id " || return 1
  done
  in_time
}

# A node that is too busy to say is not quiet.
is_quiet() {
  before=$(heard) || return 1
  sleep 2
  in_time && after=$(heard) && [ "$after" = "$before" ]
}

# How many commands this node has answered with MOVED, and how many messages clients have published here: a replica
# executes PUBLISH, too, and so redirects nobody. Nothing, if none.
heard() {
  errors=$(ask "$this_node" info errorstats) && commands=$(ask "$this_node" info commandstats) || return 1
  echo "$errors $commands" | grep -o -e 'errorstat_MOVED:count=[0-9]*' -e 'cmdstat_publish:calls=[0-9]*' || true
}

in_time() { [ "$(date +%s)" -lt "$end" ]; }

main
