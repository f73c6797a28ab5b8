# The mesh where there is no Docker: a one-node Kubernetes in namespaces of its own. Sourced, not run.
# shellcheck shell=bash
# shellcheck source=kind-cluster/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=kind-cluster/node/packages.sh
source "$here/node/packages.sh"
# shellcheck source=kind-cluster/node/build.sh
source "$here/node/build.sh"
# shellcheck source=kind-cluster/node/images.sh
source "$here/node/images.sh"
# shellcheck source=kind-cluster/node/cgroups.sh
source "$here/node/cgroups.sh"
# shellcheck source=kind-cluster/node/state.sh
source "$here/node/state.sh"

# Prints what this machine lacks, a line for each.
cluster_missing() {
  if [[ $(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then
    echo "Docker; or Debian and root, who can do without it"
    return
  fi
  command -v go >/dev/null || echo "Go 1.26.8 or newer"
  (apt_install_missing debootstrap umoci skopeo iptables ip=iproute2) || echo "the Debian packages above"
  cgroups_missing
  grep -qw overlay /proc/filesystems || echo "in the kernel: overlay file systems"
  if unshare --mount --net --pid --uts --ipc --cgroup --fork true; then
    unshare --net bash -c "$network_check" || true
  else
    echo "the right to make namespaces"
  fi
}

# What Kubernetes and Istio do in a network of their own.
network_check="
  ip link add name bridge type bridge && ip link add name one type veth peer name two || echo 'in the kernel: bridge and veth'
  [[ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]] || echo 'in the kernel: br_netfilter'
  iptables -t nat -A OUTPUT -p tcp -m owner --uid-owner 1 -j REDIRECT --to-ports 1 || echo 'in the kernel: NAT by iptables'
"

cluster_build() {
  timed "Debian's containerd, runc and registry" packages_build
  # This downloads and unpacks, while that compiles.
  make_cached "$(root_directory)" root_build &
  timed "Kubernetes and Istio" go_build_all
  wait $! || die "there are no files for the images"
  timed "images" images_build
}

cluster_up() {
  ! keeper_runs || die "a mesh of this checkout is up; \`make mesh-down\` ends it"
  cluster_down
  rm -rf "$state/log"
  mkdir -p "$state"/{bin,log,node}
  ! hidden_from_node || die "the node has its own /run, /var/lib and /var/log: $root and $cache must be somewhere else"
  link_programs
  setsid "$here/node/keeper" >"$state/log/keeper" 2>&1 </dev/null &
  timed "node" wait_for_node
  timed "images to the registry" push_images
}

hidden_from_node() { [[ $root/ =~ ^(/run|/var/lib|/var/log)/ || $cache/ =~ ^(/run|/var/lib|/var/log)/ ]]; }

# The programs of the node, in one directory.
link_programs() {
  local module debian
  debian=$(packages_directory)
  for module in "${go_modules[@]}"; do
    ln -s "$(go_directory "$module")"/* "$state/bin/"
  done
  ln -sf "$debian"/usr/{bin,sbin,lib/cni}/* "$state/bin/"
}

wait_for_node() {
  wait_until 60 node_runs || die "the node did not start: $(cat "$state/log/keeper")"
  wait_until 60 "$here/kubectl" get --raw /readyz || die "the API server did not get ready; $state/log says why"
  # The API server asks the kubelet for logs and the like, with a certificate of this group.
  "$here/kubectl" create clusterrolebinding api-server --clusterrole system:kubelet-api-admin --group kubeadm:cluster-admins
  "$here/kubectl" apply --filename - <<<"$(volumes)" >/dev/null
  wait_until 60 "$here/kubectl" wait --for=condition=Ready node/node --timeout=1s ||
    die "the node did not get ready; $state/log says why"
}

# There is no provisioner: these are for whoever claims one.
volumes() {
  local number
  for number in {1..24}; do
    mkdir -p "$state/node/volumes/$number"
    cat <<Y
---
apiVersion: v1
kind: PersistentVolume
metadata:
  name: volume-$number
spec:
  capacity:
    storage: 1Gi
  accessModes:
  - ReadWriteOnce
  local:
    path: /var/lib/volumes/$number
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions:
        - key: kubernetes.io/hostname
          operator: In
          values:
          - node
Y
  done
}

push_images() {
  local layout
  layout=$(images_directory)/oci
  wait_until 20 on_node bash -c "</dev/tcp/$registry/5000" || die "the registry did not start; $state/log/registry"
  push_image "$layout:pause" pause:mesh
  # Debian's Redis under the name that the manifests have.
  push_image "$layout:redis" library/redis:8.2-alpine
  push_image "$layout:pilot" "istio/pilot:$ISTIO"
  push_image "$layout:proxyv2" "istio/proxyv2:$ISTIO"
}

push_image() { # LAYOUT:TAG NAME:TAG
  on_node skopeo --insecure-policy copy --quiet --dest-tls-verify=false "oci:$1" "docker://$registry:5000/$2"
}

push_module() { # TAG
  on_node env REGISTRY="$registry:5000" TAG="$1" TLS_VERIFY=false "$root/scripts/push-image"
}

# Stock Envoy lacks three filters of Istio's own build; without these settings istiod would hand them out.
istioctl_install() {
  nsenter --target "$(node_pid)" --net -- "$state/bin/istioctl" --kubeconfig "$(kubeconfig)" install --skip-confirmation \
    --set profile=minimal --set hub="$registry:5000/istio" --set tag="$ISTIO" \
    --set values.pilot.env.PILOT_ENABLE_METADATA_EXCHANGE=false --set values.pilot.env.PILOT_ENABLE_ALPN_FILTER=false \
    --set values.telemetry.enabled=false "$@"
}

registry_stop() { on_node "$here/node/registry" stop; }

registry_start() { on_node "$here/node/registry" start; }

# Runs a command as a process of the node.
on_node() { nsenter --target "$(node_pid)" --all -- "$@"; }

# The keeper removes what the node leaves. If it was killed itself, this does.
cluster_down() {
  if node_runs; then
    kill -KILL "$(node_pid)"
  fi
  # The kernel takes a hundred processes and their mounts down in its own time.
  wait_until 120 keeper_ended || die "process $(cat "$state/keeper") does not end; $state/log/keeper may say why"
  remove_node
}
