# What is verified in the mesh. Sourced, not run.
# shellcheck shell=bash
# shellcheck source=kind-cluster/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The same for every cluster: all it uses is kubectl.
verify() {
  timed "building the walk-through" cargo build "${walker[@]}"
  timed "walk-through" walk_through
  # The program of kind-cluster/verify comes here.
}

walker=(--quiet --locked --manifest-path "$root/Cargo.toml" --package slotmesh-testbed --bin slotmesh-run)

# That of `make demo`, with kubectl in the place of ports.
walk_through() {
  local exec="$here/kubectl exec -i" node walk
  walk=(--erase --proxy "$exec -n redis-client deploy/redis-client -c client -- redis-cli -h redis-cluster.redis"
    --mirror "$exec -n redis deploy/redis-mirror -c redis -- redis-cli")
  for node in 0 1 2 3 4 5; do
    walk+=(--node "$exec -n redis redis-cluster-$node -c redis -- redis-cli")
  done
  cargo run "${walker[@]}" -- walk "${walk[@]}"
}
