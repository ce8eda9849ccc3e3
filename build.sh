#!/usr/bin/env bash
# Build, run and test from a clone. Every subcommand does the set-up that it needs; a second run finds it done.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"

readonly VENV=.venv
readonly CONSTRAINTS=conf/constraints.txt
readonly PLUGIN=dist/cni/bin/multi-networkpolicy
readonly PYTHON_AT_LEAST=3.11
readonly GO_AT_LEAST=1.26
readonly CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/multi-networkpolicy"

# What a Debian needs beside its base packages, and what for.
readonly PACKAGES=(
  ca-certificates         # pip and go verify what they fetch
  python3 python3-venv    # .venv
  python3-dev gcc libc6-dev  # python-iptables is compiled from source
  binutils                # PyInstaller reads libraries with objdump and strips them
  iptables                # libiptc and its extensions, which python-iptables loads
  nftables conntrack      # the tests look into the kernel with others' eyes too
  iproute2                # the tests' network namespaces, by hand
)

usage() {
  cat <<'USAGE'
usage: ./build.sh COMMAND [ARGUMENTS]

  setup                 Debian packages that are missing, and .venv with the project and its tools installed
  plugin                dist/cni/bin/multi-networkpolicy, the CNI plugin
  tools                 cnitool and the reference CNI plugins that the tests run, into a cache folder
  demo [--svg FILE]     the main job on real input: namespaces, cnitool, the daemon, a live policy edit (root)
  lint                  ruff, mypy, shellcheck
  test [TIER…] [ARG…]   the tests: unit, netns, cni (root), all without a TIER; the rest goes to pytest
  bench [--json FILE]   measure against the budgets (root)

Each command first does what it needs of setup, plugin and tools. A machine with nothing but Debian 12's base
packages is enough; run `apt-get update` there once.
USAGE
}

say() { printf 'build.sh: %s\n' "$*" >&2; }
fail() { say "$*"; exit 2; }

digest() { cat -- "$@" | sha256sum | cut -d' ' -f1; }

# is_stamped FILE VALUE: was the step that FILE stands for done for these inputs?
is_stamped() { [[ -e $1 && $(<"$1") == "$2" ]]; }

need_root() { [[ $(id -u) == 0 ]] || fail "$1 makes network namespaces: run it as root"; }

# One build at a time in a clone; the lock goes with the process.
lock() {
  mkdir -p build
  exec 9>build/lock
  flock 9
}

unlock() { exec 9>&-; }

version_at_least() { [[ $(printf '%s\n' "$1" "$2" | sort -V | head -n1) == "$1" ]]; }

missing_packages() {
  local name
  local -A installed=()
  while read -r name; do installed[$name]=1; done < <(
    dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null | sed -n 's/ installed$//p'
  )
  for name in "$@"; do [[ -n ${installed[$name]:-} ]] || echo "$name"; done
}

install_packages() {
  if ! command -v dpkg-query >/dev/null; then
    say "this is no Debian: see to it that it has the likes of ${PACKAGES[*]}"
    return
  fi
  local missing
  mapfile -t missing < <(missing_packages "$@")
  ((${#missing[@]})) || return 0
  say "installing Debian packages: ${missing[*]}"
  [[ $(id -u) == 0 ]] || fail "not root: run  apt-get install --no-install-recommends ${missing[*]}  as root first"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >build/apt.log 2>&1 ||
    { tail -n 20 build/apt.log >&2; fail "apt-get failed (above, and build/apt.log); has 'apt-get update' run?"; }
}

# The distribution's interpreter, not one of a version manager: the plugin bundles its libpython.
find_python() {
  local python
  for python in /usr/bin/python3.11 /usr/bin/python3; do
    if [[ -x $python ]] && "$python" -c "import sys; sys.exit(sys.version_info < (${PYTHON_AT_LEAST/./, }))"; then
      echo "$python"
      return
    fi
  done
  fail "no Python $PYTHON_AT_LEAST or newer in /usr/bin"
}

setup() {
  lock
  install_packages "${PACKAGES[@]}"
  local python version stamp
  python=$(find_python)
  version=$("$python" -S -E -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  install_packages "libpython$version" # the shared library, which the plugin's bundle holds
  stamp="$PWD $python $version $(digest pyproject.toml "$CONSTRAINTS")"
  if ! is_stamped "$VENV/stamp" "$stamp"; then
    say "making $VENV with $python $version, as $CONSTRAINTS says"
    "$python" -m venv --clear "$VENV"
    # By environment, so that the isolated builds of source packages are constrained too.
    PIP_CONSTRAINT="${PIP_CONSTRAINT:+$PIP_CONSTRAINT }$PWD/$CONSTRAINTS" \
      "$VENV/bin/pip" install --quiet --disable-pip-version-check --editable '.[dev]'
    echo "$stamp" >"$VENV/stamp"
  fi
  unlock
}

plugin() {
  setup
  lock
  local stamp
  stamp="$(<"$VENV/stamp") $(digest cni_plugin/*.*)"
  if ! { [[ -x $PLUGIN ]] && is_stamped build/plugin.stamp "$stamp"; }; then
    say "building $PLUGIN"
    "$VENV/bin/python" -m cni_plugin.build
    echo "$stamp" >build/plugin.stamp
  fi
  unlock
}

case "${1:-}" in
  setup | plugin) "$1" ;;
  -h | --help | help | "") usage ;;
  *) usage >&2; exit 2 ;;
esac
