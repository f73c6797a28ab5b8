# Debian's container runtime and registry. Sourced, not run.
# Not installed but unpacked: the packages would start services on this machine.
# shellcheck shell=bash
# shellcheck source=kind-cluster/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

debian_packages=(containerd runc docker-registry containernetworking-plugins)

packages_directory() { cached debian "${debian_packages[@]}"; }

packages_build() {
  make_cached "$(packages_directory)" unpack_packages "${debian_packages[@]}"
}
