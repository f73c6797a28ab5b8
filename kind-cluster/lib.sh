# Shared by the scripts of the mesh. Sourced, not run.
# shellcheck shell=bash
# shellcheck disable=SC2034 # variables are for those that source this
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"

here=$root/kind-cluster
# The mesh that this checkout has started: process ids, logs, credentials, data. Not in
# target/, which `cargo clean` removes.
state=$root/.mesh
# What takes long to make, by the versions of what it is made of. All checkouts share it.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/slotmesh

# The sidecars find the module's registry by this name, in kind's network and in ours.
registry=slotmesh-registry

kind_cluster=slotmesh
kind_context=kind-$kind_cluster

# Runs a command and says how long it took.
timed() { # WHAT COMMAND...
  local what=$1 began=$SECONDS
  shift
  "$@"
  say "$what: $((SECONDS - began)) s"
}

# Waits until a command succeeds.
wait_until() { # SECONDS COMMAND...
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || return 1
    sleep 0.2
  done
}

# The name of the directory in the cache for what is made of the given files and words.
cached() { # NAME FILE|WORD...
  local name=$1 input
  shift
  for input; do
    if [[ -f $input ]]; then cat "$input"; else echo "$input"; fi
  done | sha256sum | cut -c 1-12 | sed "s|^|$cache/$name-|"
}

# Makes a directory of the cache, unless it is there. The command gets the directory to fill as its last
# argument; what it leaves half made is never seen.
make_cached() { # DIRECTORY COMMAND...
  local directory=$1
  shift
  [[ ! -d $directory ]] || return 0
  mkdir -p "$cache"
  # Another checkout may be making the same.
  exec {lock}>"$directory.lock"
  flock "$lock"
  if [[ ! -d $directory ]]; then
    rm -rf "$directory.new"
    mkdir "$directory.new"
    "$@" "$directory.new"
    mv "$directory.new" "$directory"
  fi
  exec {lock}>&-
  rm -f "$directory.lock"
}

has_docker() { docker info >/dev/null 2>&1; }
