# Kubernetes and Istio, built from Go modules at the versions of go/*/go.mod. Sourced, not run.
# shellcheck shell=bash
# shellcheck source=kind-cluster/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

# The snapshot of Istio.
ISTIO=${ISTIO:-2026-08-27}

go_modules=("istio-$ISTIO" kubernetes etcd coredns)

# Istio's agent tells this to istiod, and `proxyVersion` in our manifests looks at it.
istio_version=1.31.0

go_build_all() {
  local module
  for module in "${go_modules[@]}"; do
    [[ -f $here/node/go/$module/go.mod ]] || die "there is no kind-cluster/node/go/$module"
    make_cached "$(go_directory "$module")" go_build "$module"
  done
}

go_directory() { # MODULE
  local files
  mapfile -t files < <(find "$here/node/go/$1" -type f | sort)
  cached "$1" "${files[@]}" "$(go_flags "$1")"
}

# Builds the tools that the module's go.mod lists.
go_build() ( # MODULE DIRECTORY
  local module=$1 directory=$2
  say "building $module from its Go modules; this takes minutes"
  cd "$here/node/go/$module" || return
  CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false" go build -ldflags "-s -w $(go_flags "$module")" -o "$directory/" tool
  case $module in
    # Go calls it after its directory.
    etcd) mv "$directory/server" "$directory/etcd" ;;
    istio-*) cp "$(go list -m -f '{{.Dir}}' istio.io/istio)/tools/packaging/common/envoy_bootstrap.json" "$directory/" ;;
  esac
)

# What each program is to say of itself.
go_flags() { # MODULE
  local version
  case $1 in
    istio-*)
      echo "-X istio.io/istio/pkg/version.buildVersion=$istio_version -X istio.io/istio/pkg/version.buildStatus=Clean"
      ;;
    kubernetes)
      version=$(kubernetes_version)
      echo "-X k8s.io/component-base/version.gitVersion=$version -X k8s.io/component-base/version.gitMajor=1" \
        "-X k8s.io/component-base/version.gitMinor=$(cut -d . -f 2 <<<"$version")"
      ;;
  esac
}

kubernetes_version() { awk '$1 == "k8s.io/kubernetes" {print $2}' "$here/node/go/kubernetes/go.mod"; }
