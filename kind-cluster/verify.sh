# What is verified in the mesh. Sourced, not run.
# shellcheck shell=bash
# shellcheck source=kind-cluster/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The same for every cluster: all it uses is kubectl.
verify() { # ARGUMENT...
  timed "building the programs" build_programs
  timed "walk-through" walk_through
  run_checks "$@"
}

# With what `slotmesh-verify --help` says.
run_checks() { # ARGUMENT...
  timed "another image to the registry" push_another
  timed "checks" "$programs/slotmesh-verify" "$@"
}

programs=${CARGO_TARGET_DIR:-$root/target}/debug

build_programs() {
  local verify=(--quiet --locked --manifest-path "$root/Cargo.toml" --package slotmesh-verify)
  cargo build "${verify[@]}" --package slotmesh-testbed --bin slotmesh-run --bin slotmesh-verify
  cargo rustc "${verify[@]}" --bin slotmesh-load -- -C target-feature=+crt-static -C strip=symbols
}

# The module with an empty section more, which changes nothing but its digest, as the tag `second`.
push_another() {
  local another=$root/target/another
  { cat "$root/target/wasm/slotmesh.wasm" && printf '\0\7\6second'; } >"$another.wasm"
  cargo run --quiet --locked --manifest-path "$root/Cargo.toml" --package slotmesh-image -- "$another.wasm" "$another"
  IMAGE=$another push_module second
}

# That of `make demo`, with kubectl in the place of ports.
walk_through() {
  local exec="$here/kubectl exec -i" node walk
  walk=(--erase --proxy "$exec -n redis-client deploy/redis-client -c client -- redis-cli -h redis-cluster.redis"
    --mirror "$exec -n redis deploy/redis-mirror -c redis -- redis-cli")
  for node in 0 1 2 3 4 5; do
    walk+=(--node "$exec -n redis redis-cluster-$node -c redis -- redis-cli")
  done
  "$programs/slotmesh-run" walk "${walk[@]}"
}
