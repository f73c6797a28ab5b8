# Shared by the scripts: how they speak, and how they install. Sourced, not run.
# shellcheck shell=bash

# shellcheck disable=SC2034 # for those that source this
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
debian_rustc=/usr/bin/rustc
debian_wasm_ld=/usr/bin/wasm-ld-19

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
  say "error: $*"
  exit 1
}

# Runs a command as root, or says that nobody can.
as_root() {
  if [[ $(id -u) -eq 0 ]]; then
    "$@"
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo "$@"
  else
    return 77
  fi
}

# Installs Debian packages without asking anything.
apt_install() {
  command -v apt-get >/dev/null ||
    die "this is not a Debian or Ubuntu machine; install what these packages hold: $*"
  local by_hand="as root: apt-get update && apt-get install --no-install-recommends $*"
  as_root true || die "no root to install packages with. Run $by_hand"
  apt_update
  say "installing $*"
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "$@" </dev/null >&2 ||
    die "apt-get failed. Once its reason is gone, run $by_hand"
}

# Installs the packages of those programs that are missing.
apt_install_missing() { # PROGRAM[=PACKAGE]...
  local program packages=()
  for program; do
    command -v "${program%=*}" >/dev/null || packages+=("${program#*=}")
  done
  [[ ${#packages[@]} -eq 0 ]] || apt_install "${packages[@]}"
}

# Once in a script.
apt_update() {
  [[ -z ${apt_updated:-} ]] || return 0
  say "updating the package lists"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2 ||
    say "the package lists could not be updated; going on with the old ones"
  apt_updated=yes
}

# Unpacks Debian packages, those they depend on left out: installed, some would start services on this machine.
unpack_packages() { # PACKAGE... DIRECTORY
  local directory=${*: -1} archives
  apt_update
  archives=$(mktemp -d)
  (cd "$archives" && apt-get download -qq -o APT::Sandbox::User=root "${@:1:$#-1}" >&2) || die "apt-get could not download ${*:1:$#-1}"
  local archive
  for archive in "$archives"/*.deb; do
    dpkg-deb --extract "$archive" "$directory"
  done
  rm -rf "$archives"
}

# Whether the cargo in use can build wasm32 by itself.
has_rustup_target() {
  local sysroot
  sysroot=$(rustc --print sysroot 2>/dev/null) || return 1
  [[ -d $sysroot/lib/rustlib/wasm32-unknown-unknown/lib ]]
}

# Whether Debian's compiler can: it builds the standard library from its source.
has_debian_toolchain() {
  [[ -x $debian_rustc && -x /usr/bin/cargo && -x $debian_wasm_ld ]] &&
    [[ -d $("$debian_rustc" --print sysroot)/lib/rustlib/src/rust/library ]]
}
