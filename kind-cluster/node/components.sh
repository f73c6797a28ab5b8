# The processes of the node. Sourced within its namespaces, not run.
# shellcheck shell=bash
# shellcheck source=kind-cluster/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

node_address=10.199.0.1
services=10.96.0.0/16
pods=10.244.0.0/16
etc=$here/node/etc
secrets=/var/lib/kubernetes
PATH=$state/bin:/usr/sbin:/sbin:$PATH

start_all() {
  start etcd etcd --data-dir /var/lib/etcd --unsafe-no-fsync --listen-peer-urls http://127.0.0.1:2380
  start_api_server
  start_controllers
  start scheduler kube-scheduler --kubeconfig $secrets/scheduler.conf --leader-elect=false --bind-address 127.0.0.1
  start containerd containerd --config "$etc/containerd.toml"
  # The kubelet gives up without it.
  wait_until 30 test -S /run/containerd/containerd.sock
  start kubelet kubelet --config "$etc/kubelet.yaml" --kubeconfig $secrets/kubelet.conf --hostname-override node \
    --node-ip $node_address
  start proxy kube-proxy --config "$etc/kube-proxy.yaml"
  start dns coredns -conf "$etc/Corefile"
  start_registry
}

start_api_server() {
  start api-server kube-apiserver \
    --etcd-servers http://127.0.0.1:2379 \
    --bind-address $node_address \
    --advertise-address $node_address \
    --service-cluster-ip-range $services \
    --authorization-mode Node,RBAC \
    --enable-admission-plugins NodeRestriction \
    --allow-privileged \
    --kubelet-preferred-address-types InternalIP \
    --client-ca-file $secrets/ca.crt \
    --tls-cert-file $secrets/apiserver.crt \
    --tls-private-key-file $secrets/apiserver.key \
    --kubelet-client-certificate $secrets/apiserver-kubelet-client.crt \
    --kubelet-client-key $secrets/apiserver-kubelet-client.key \
    --service-account-issuer https://kubernetes.default.svc.cluster.local \
    --service-account-key-file $secrets/sa.pub \
    --service-account-signing-key-file $secrets/sa.key
}

start_controllers() {
  start controllers kube-controller-manager \
    --kubeconfig $secrets/controller-manager.conf \
    --use-service-account-credentials \
    --service-account-private-key-file $secrets/sa.key \
    --root-ca-file $secrets/ca.crt \
    --cluster-signing-cert-file $secrets/ca.crt \
    --cluster-signing-key-file $secrets/ca.key \
    --allocate-node-cidrs \
    --cluster-cidr $pods \
    --bind-address 127.0.0.1 \
    --leader-elect=false
}

start_registry() { start registry docker-registry serve "$etc/registry.yaml"; }

stop_registry() { kill "$(cat /run/registry.pid)"; }

start() { # NAME COMMAND...
  local name=$1
  shift
  "$@" >>"/var/log/$name" 2>&1 </dev/null &
  echo $! >"/run/$name.pid"
}
