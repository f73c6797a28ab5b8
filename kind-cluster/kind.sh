# The mesh where there is Docker: kind. Sourced, not run.
# Touches nothing but the kind cluster `slotmesh` and the container `slotmesh-registry`.
# shellcheck shell=bash
# shellcheck source=kind-cluster/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

registry_port=${REGISTRY_PORT:-5001}

# Prints what this machine lacks, a line for each.
cluster_missing() {
  local program
  for program in kind kubectl istioctl; do
    command -v "$program" >/dev/null || echo "$program"
  done
}

cluster_build() { :; }

cluster_up() {
  kind get clusters | grep -qx "$kind_cluster" || timed "kind" kind create cluster --name "$kind_cluster" --wait 5m
  docker inspect "$registry" >/dev/null 2>&1 ||
    docker run --detach --network kind --name "$registry" --publish "127.0.0.1:$registry_port:5000" registry:2 >/dev/null
}

# The registry is a container in kind's network: the sidecars reach it by its name, we by a port.
push_module() { # TAG
  REGISTRY=127.0.0.1:$registry_port TAG=$1 TLS_VERIFY=false "$root/scripts/push-image"
}

istioctl_install() {
  istioctl --context "$kind_context" install --skip-confirmation --set profile=minimal "$@"
}

registry_stop() { docker stop "$registry" >/dev/null; }

registry_start() { docker start "$registry" >/dev/null; }

cluster_down() {
  kind delete cluster --name "$kind_cluster"
  docker rm --force "$registry" >/dev/null
}
